//! The claims of `kimi-linear`.

mod decode;
mod dplr;
mod exact;
mod recall;

use super::{Claim, Test};

const SYSTEM: &str = "kimi-linear";

pub(super) const CLAIMS: &[Claim] = &[
    Claim {
        system: SYSTEM,
        number: 1,
        title: "A finite memory used better: recall and palindromes",
        published: "KDA learns palindromes and associative recall of up to 2048 tokens faster than Gated DeltaNet; decay alone fails",
        rule: "at lengths 256, 512 and 1024 (heads 2 x 128, 5-20k steps, three rates, two seeds) accuracy orders KDA >= GDN > decay alone at the two \
               longest, and KDA needs fewer steps to 90 % than GDN",
        test: Test::Experiment(recall::test),
    },
    Claim {
        system: SYSTEM,
        number: 2,
        title: "The chunkwise algorithm is exact",
        published: "the chunkwise form equals the recurrence",
        rule: "chunks of 1, 16, 32, 64 and 128 and the recurrence agree over T in 1..300 and log decays from -1e-4 to -30 a step, outputs, states and \
               all gradients, within 1e-10 in f64 and 1e-4 in f32",
        test: Test::Experiment(exact::test),
    },
    Claim {
        system: SYSTEM,
        number: 3,
        title: "Cheaper than a general diagonal-plus-low-rank transition",
        published: "about twice as fast as general DPLR",
        rule: "time of KDA at most 0.65 of general DPLR at T >= 2k (H = 4, K = V = 64)",
        test: Test::Experiment(dplr::test),
    },
    Claim {
        system: SYSTEM,
        number: 4,
        title: "Three quarters less cache, faster decoding",
        published: "74.1 % less cache; decoding at 1M tokens 1.84 ms against 11.48 ms",
        rule: "bytes of the cache of an 8-layer hybrid equal to the formula; at 64k at least 74 % less than all-MLA and at most half the time a token",
        test: Test::Experiment(decode::test),
    },
    Claim {
        system: SYSTEM,
        number: 5,
        title: "Better than full attention at the same recipe",
        published: "validation perplexity 5.65 of the 3:1 hybrid, 5.77 of MLA",
        rule: "about 30M active weights, mixture of experts, the same bytes: loss of Kimi Linear <= Gated DeltaNet hybrid <= MLA, ties within 0.5 %, 3 seeds",
        test: Test::None("it needs a GPU for ten minutes a model"),
    },
];
