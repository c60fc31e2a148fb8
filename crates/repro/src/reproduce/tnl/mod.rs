//! The claims of `tnl` (TransNormerLLM).

mod ablations;
mod decode;
mod quality;
mod training_speed;

use regard::MixerConfig;
use regard_models::{DecoderConfig, TnlConfig};

use super::{Claim, Lab, Test, lab::Recipe};

const SYSTEM: &str = "tnl";

pub(super) const CLAIMS: &[Claim] = &[
    Claim {
        system: SYSTEM,
        number: 1,
        title: "On a par with a softmax Transformer of the same size",
        published: "loss after 100k updates 2.248 against 2.362 (385M), 1.896 against 2.061 (1B)",
        rule: "mean validation loss of TNL at most 1.02 times that of a pre-norm Transformer with as many weights, tokens and updates",
        test: Test::Experiment(quality::test),
    },
    Claim {
        system: SYSTEM,
        number: 2,
        title: "What each part of the layer brings",
        published: "loss at 385M: Mix 2.248, decay alone 2.267, without temperature 2.258, without gate 2.263, no activation 2.283; SRMSNorm 2.248, \
                    RMSNorm 2.247, LayerNorm 2.247",
        rule: "in every seed: no position information is worse than every other variant, no activation is worse than SiLU, and SRMSNorm is \
               within 1 % of RMSNorm and LayerNorm",
        test: Test::Experiment(ablations::test),
    },
    Claim {
        system: SYSTEM,
        number: 3,
        title: "Constant training speed of the whole model",
        published: "tokens per GPU and second flat from 1k to 128k",
        rule: "a training step of 16384 tokens: tokens/s at N = 16384 at least 0.85 of N = 512, while the Transformer falls below 0.3",
        test: Test::Experiment(training_speed::test),
    },
    Claim {
        system: SYSTEM,
        number: 4,
        title: "Decoding in constant memory and time",
        published: "a state of constant size; 2819.6 tokens/s at 7B",
        rule: "token by token: bytes of the state constant, time of a step at the end within 10 % of the start, and the logits of the first \
               tokens those of the parallel form within 1e-3",
        test: Test::Experiment(decode::test),
    },
    Claim {
        system: SYSTEM,
        number: 5,
        title: "On a par at 85M weights, and faster from some length on",
        published: "as claims 1 and 3",
        rule: "as claim 1 with 12 layers of width 768 on contexts of 1k, 4k and 16k",
        test: Test::None("it needs a GPU for ten minutes"),
    },
];

/// The sizes of models that claims 1 and 2 train.
struct Sizes {
    d_model: usize,
    layers: usize,
    heads: usize,
    d_ff: usize,
    recipe: Recipe,
}

impl Sizes {
    /// The claim's own setting, or the pilot of its specification with fewer steps.
    fn of(lab: &Lab<'_, '_>, quick_steps: usize) -> Self {
        let quick = Recipe { context: 96, batch: 12, steps: quick_steps, rate: 2e-3, warmup: 20, beta2: 0.95 };
        let own = Recipe { context: 256, batch: 12, steps: 977, rate: 1e-3, warmup: 100, beta2: 0.95 };
        lab.quick_or(
            Self { d_model: 64, layers: 2, heads: 4, d_ff: 176, recipe: quick },
            Self { d_model: 128, layers: 4, heads: 4, d_ff: 352, recipe: own },
        )
    }

    fn tnl(&self) -> TnlConfig {
        TnlConfig::new(256, self.d_model, self.layers, self.heads, self.d_ff)
    }

    /// A pre-norm Transformer with RMSNorm, rotary positions and SwiGLU. TNL's mixer has 5 D² weights, this one 4 D²: what is missing goes
    /// to the channel mixers.
    fn transformer(&self) -> Option<DecoderConfig> {
        let mixer = MixerConfig::named("softmax", self.heads)?;
        let d_ff = self.d_ff + self.d_model / 3;
        Some(DecoderConfig { d_ff, ..DecoderConfig::new(256, self.d_model, self.layers, vec![mixer], self.recipe.context) })
    }

    fn text(&self) -> String {
        let Recipe { context, batch, steps, rate, .. } = self.recipe;
        format!(
            "{} layers of width {}, {} heads, context {context}, {steps} steps of {batch} sequences, AdamW at {rate}, bytes",
            self.layers, self.d_model, self.heads
        )
    }
}
