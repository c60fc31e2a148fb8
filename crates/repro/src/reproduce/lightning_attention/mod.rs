//! The claims of `lightning-attention`.

mod decode;
mod exact;
mod memory;
mod training_speed;

use super::{Claim, Test};

const SYSTEM: &str = "lightning-attention";

pub(super) const CLAIMS: &[Claim] = &[
    Claim {
        system: SYSTEM,
        number: 1,
        title: "The tiled algorithm is exact",
        published: "the same loss with Lightning-1 and Lightning-2 after 100k updates: 2.229 and 2.228",
        rule: "over random shapes, slopes and splits into prefill chunks, tiled, parallel-scan, recurrent and left-product forms agree within \
               1e-12 in f64 and 1e-5 of the scale in f32, outputs, states and all gradients",
        test: Test::Experiment(exact::test),
    },
    Claim {
        system: SYSTEM,
        number: 2,
        title: "Constant training speed at a fixed number of tokens",
        published: "TNL 0.4B on two A100: 38.6k tokens/s at 1k, 37.4k at 32k; LLaMA with FlashAttention-2 falls from 35.9k to 9.7k",
        rule: "forward and backward over 32768 tokens (H = 4, K = V = 64): tokens/s at N = 32768 at least 0.85 of N = 1024, while left product and \
               softmax fall by at least 8 times from 1024 to 16384, and a naive cumulative sum is at least 3 times slower at N = 4096 or \
               needs more than 4 GB",
        test: Test::Experiment(training_speed::test),
    },
    Claim {
        system: SYSTEM,
        number: 3,
        title: "Fixed memory beyond inputs, outputs and gradients",
        published: "memory constant beyond inputs and outputs",
        rule: "the peak of forward and backward beyond q, k, v, o and their gradients grows by at most 4 (B H C² + B H K V) numbers from N = 2048 to \
               32768",
        test: Test::Experiment(memory::test),
    },
    Claim {
        system: SYSTEM,
        number: 4,
        title: "Constant time per decoded token",
        published: "inference speed independent of the length",
        rule: "the median time of a step at position 100 and at position 100000, measured in turns, within 10 %",
        test: Test::Experiment(decode::test),
    },
    Claim {
        system: SYSTEM,
        number: 5,
        title: "Linear scaling and an early crossover with softmax attention on a GPU",
        published: "forward 17.7 ms at 32k against 163 ms of FlashAttention-2; crossover at 3-4k tokens",
        rule: "time(128k) / time(8k) within 16 ± 1.6, crossover below 3k",
        test: Test::None("it needs a GPU and fused kernels for it"),
    },
];
