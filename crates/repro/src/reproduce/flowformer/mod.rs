//! The claims of `flowformer`.

mod ablations;
mod informative;
mod language;
mod linear;
mod rollout;
mod universal;

use super::{Claim, Test};

const SYSTEM: &str = "flowformer";

pub(super) const CLAIMS: &[Claim] = &[
    Claim {
        system: SYSTEM,
        number: 1,
        title: "Linear time and memory",
        published: "O(N) time and memory; the official causal form stores D numbers more per number",
        rule: "forward and backward (D = E = 32, H = 4, N = 512..32768): exponent of time over N from 2048 up at most 1.1 for both forms and at least \
               1.8 for softmax; peak memory of the causal forward pass at most 3 times its inputs and outputs",
        test: Test::Experiment(linear::test),
    },
    Claim {
        system: SYSTEM,
        number: 2,
        title: "No degeneration without an inductive bias",
        published: "WikiText-103 perplexity 30.8; linear attention 38.4, softmax 33.0",
        rule: "byte language model: loss of Flow below that of linear attention (elu + 1) in all seeds",
        test: Test::Experiment(language::test),
    },
    Claim {
        system: SYSTEM,
        number: 3,
        title: "Competition and allocation matter",
        published: "WikiText-103 perplexity 30.8; without competition 31.2, without allocation 32.2",
        rule: "in all seeds: loss with both <= without competition and <= without allocation, and each of these < without both",
        test: Test::Experiment(ablations::test),
    },
    Claim {
        system: SYSTEM,
        number: 4,
        title: "Informative attention",
        published: "attention maps less uniform than those of linear attention",
        rule: "mean entropy of the implied weights over log S lower than of linear attention with the same feature map, accuracy at least as good less \
               0.5 points, on gray CIFAR-10 pixels",
        test: Test::Experiment(informative::test),
    },
    Claim {
        system: SYSTEM,
        number: 5,
        title: "Good at tasks of all kinds",
        published: "better than softmax on the long-range arena, vision, time series, language and offline reinforcement learning",
        rule: "within 2 % of softmax or better on at least 4 of 5 small tasks",
        test: Test::Experiment(universal::test),
    },
];
