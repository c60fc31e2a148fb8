//! The claims of `nprf` (kernelised attention with relative positional encoding).

mod approximation;
mod copy;
mod exact;
mod growth;
mod stability;

use super::{Claim, Test};

const SYSTEM: &str = "nprf";

pub(super) const CLAIMS: &[Claim] = &[
    Claim {
        system: SYSTEM,
        number: 1,
        title: "The product by Fourier transforms is exact",
        published: "the bias makes a Toeplitz matrix, whose products a fast Fourier transform computes",
        rule: "in f32, outputs, logarithms of the denominators and all gradients by Fourier transforms equal those by matrix products within \
               1e-5 of their scale (the largest number of their kind, or a thousandth of the largest of all), for N = 1 to 257, \
               bidirectional, causal, masked, and on grids",
        test: Test::Experiment(exact::test),
    },
    Claim {
        system: SYSTEM,
        number: 2,
        title: "O(N log N) time",
        published: "O(N log N) with relative positions; faster than the Transformer on long sequences",
        rule: "forward on the CPU (H = 1, K = V = M = 16), N = 512 to 32768: time by Fourier transforms grows with an exponent of at most 1.3, \
               that of softmax attention of at least 1.8",
        test: Test::Experiment(growth::test),
    },
    Claim {
        system: SYSTEM,
        number: 3,
        title: "Relative positions make kernelised attention stable in training from scratch",
        published: "models with positive random features diverge or lose several points from scratch; with relative positions and \
                    normalisation they train without problems",
        rule: "at rates 1e-3 and 3e-3 without clipping: NPRF with biases ends in every seed as a number and with the smallest mean validation \
               loss of the four kernelised arms, and at 3e-3 each arm that is not normalised diverges or has a larger mean loss",
        test: Test::Experiment(stability::test),
    },
    Claim {
        system: SYSTEM,
        number: 4,
        title: "The error of random features grows with the norms of queries and keys",
        published: "approximating attention of large norm needs a number of features exponential in the norm",
        rule: "mean relative Frobenius error (N = 64, K = V = 16, 10 draws): at M = 1024 that of norm 4 is more than 10 times that of norm 1, and \
               at norm 0.5 it falls with an exponent of M between -0.6 and -0.4",
        test: Test::Experiment(approximation::test),
    },
    Claim {
        system: SYSTEM,
        number: 5,
        title: "Relative positions are used: copying the token k places back",
        published: "earlier linear attentions cannot take relative positions; this one can",
        rule: "mean accuracy over distances k that the seeds draw: above 95 % with biases, below 50 % without",
        test: Test::Experiment(copy::test),
    },
];
