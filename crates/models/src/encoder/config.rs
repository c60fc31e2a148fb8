use burn::{
    module::Initializer,
    nn::{DropoutConfig, EmbeddingConfig, LinearConfig},
    tensor::Device,
};
use regard::{
    Error, LayerPlace, MixerConfig, Result,
    blocks::{MlpConfig, MlpKind, NormKind},
};
use serde::{Deserialize, Serialize};

use super::model::{Embed, Encoder, ForecastHead, Readout};
use crate::{
    Positions,
    decoder::{Block, ChannelMixer, check_numbers, initialise},
};

const OP: &str = "encoder";

/// What an [`Encoder`] reads at each step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum EncoderInput {
    /// One of `vocab` tokens.
    Tokens {
        /// Number of different tokens.
        vocab: usize,
    },
    /// Numbers.
    Numbers {
        /// How many per step.
        width: usize,
    },
}

/// What an [`Encoder`] answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Head {
    /// The class of the sequence.
    Classes {
        /// Number of classes.
        classes: usize,
    },
    /// Numbers at each step.
    Each {
        /// How many.
        outputs: usize,
    },
    /// The steps that follow, of as many numbers as the input has.
    Forecast {
        /// How many steps.
        horizon: usize,
    },
}

/// Which vector the class is read from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pool {
    /// The mean of the steps.
    #[default]
    Mean,
    /// A learned token before the first step.
    Class,
    /// The last step.
    Last,
}

/// Configuration of an [`Encoder`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EncoderConfig {
    /// What it reads. A file may leave it out: training takes it from the task.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input: Option<EncoderInput>,
    /// Steps T of the longest sequence. A file may leave it out: training takes it from the task.
    #[serde(default)]
    pub length: usize,
    /// What it answers. A file may leave it out: training takes it from the task.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub head: Option<Head>,
    /// Width D of the residual stream.
    pub d_model: usize,
    /// Number of layers L.
    pub layers: usize,
    /// The token mixers, repeated over the layers.
    pub mixers: Vec<MixerConfig>,
    /// Inner width of the channel mixers.
    pub d_ff: usize,
    /// Whether the mixers work in their causal form.
    #[serde(default)]
    pub causal: bool,
    /// Which vector the class is read from, for a head of classes.
    #[serde(default)]
    pub pool: Pool,
    /// Position vectors.
    #[serde(default = "learned")]
    pub positions: Positions,
    /// Channel mixer.
    #[serde(default)]
    pub mlp: MlpKind,
    /// Norm before each mixer and before the head.
    #[serde(default)]
    pub norm: NormKind,
    /// ε of the norms.
    #[serde(default = "default_epsilon")]
    pub norm_epsilon: f64,
    /// Whether the linear layers of the channel mixers have biases.
    #[serde(default)]
    pub bias: bool,
    /// Probability of dropping an element of the first vectors and of each branch in training.
    #[serde(default)]
    pub dropout: f64,
    /// Standard deviation of the initial weights of linear layers and embeddings; of projections back into the residual stream it is
    /// smaller by 1/√(2L).
    #[serde(default = "default_std")]
    pub init_std: f64,
}

fn learned() -> Positions {
    Positions::Learned
}

fn default_epsilon() -> f64 {
    1e-5
}

fn default_std() -> f64 {
    0.02
}

impl EncoderConfig {
    /// A pre-norm network with RMSNorm, SwiGLU and learned positions that reads the class from the mean.
    pub fn new(input: EncoderInput, length: usize, d_model: usize, layers: usize, mixers: Vec<MixerConfig>, head: Head) -> Self {
        Self { input: Some(input), length, head: Some(head), ..Self::open(d_model, layers, mixers) }
    }

    /// The same without input, length and head, which training takes from the task.
    pub fn open(d_model: usize, layers: usize, mixers: Vec<MixerConfig>) -> Self {
        Self {
            input: None,
            length: 0,
            head: None,
            d_model,
            layers,
            mixers,
            // As in the decoder.
            d_ff: (d_model * 8 / 3).next_multiple_of(8),
            causal: false,
            pool: Pool::default(),
            positions: learned(),
            mlp: MlpKind::default(),
            norm: NormKind::default(),
            norm_epsilon: default_epsilon(),
            bias: false,
            dropout: 0.0,
            init_std: default_std(),
        }
    }

    /// The network with initial values drawn from the device's random generator.
    ///
    /// # Errors
    /// If input or head is not given, a size is 0, there is no mixer, one is causal only and `causal` is not set, input, pool and head do not
    /// go together, a number is outside its range, or a mixer rejects its configuration.
    pub fn init(&self, device: &Device) -> Result<Encoder> {
        let residual = self.init_std / (2.0 * self.layers as f64).sqrt();
        Ok(initialise(self.build(device)?, self.init_std, residual))
    }

    fn build(&self, device: &Device) -> Result<Encoder> {
        let input = self.input.ok_or_else(|| Error::argument(OP, "input", "given", "nothing"))?;
        let head = self.head.ok_or_else(|| Error::argument(OP, "head", "given", "nothing"))?;
        self.check(input, head)?;
        let d = self.d_model;
        let norm = || self.norm.init(d, self.norm_epsilon, device);
        let mlp = MlpConfig { kind: self.mlp, d_model: d, d_ff: self.d_ff, bias: self.bias };
        let blocks = (0..self.layers).map(|index| {
            let mixer = &self.mixers[index % self.mixers.len()];
            Ok(Block {
                mixer_norm: norm(),
                mixer: mixer.init(d, LayerPlace { index, count: self.layers }, device)?,
                mlp_norm: norm(),
                mlp: ChannelMixer::Dense(mlp.init(device)?),
                dropout: DropoutConfig::new(self.dropout).init(),
            })
        });
        let linear = |from, to| LinearConfig::new(from, to).init(device);
        let class = matches!(head, Head::Classes { .. }) && self.pool == Pool::Class;
        Ok(Encoder {
            embed: match input {
                EncoderInput::Tokens { vocab } => Embed::Tokens(EmbeddingConfig::new(vocab, d).init(device)),
                EncoderInput::Numbers { width } => Embed::Numbers(linear(width, d)),
            },
            class: class.then(|| Initializer::Normal { mean: 0.0, std: self.init_std }.init([1, d], device)),
            positions: (self.positions == Positions::Learned).then(|| EmbeddingConfig::new(self.length, d).init(device)),
            blocks: blocks.collect::<Result<_>>()?,
            norm: norm(),
            readout: match (head, input) {
                (Head::Forecast { horizon }, EncoderInput::Numbers { width }) => {
                    Readout::Forecast(ForecastHead { channels: linear(d, width), time: linear(self.length, horizon) })
                }
                (Head::Each { outputs } | Head::Classes { classes: outputs } | Head::Forecast { horizon: outputs }, _) => {
                    Readout::Linear(linear(d, outputs))
                }
            },
            dropout: DropoutConfig::new(self.dropout).init(),
            causal: self.causal,
            pool: match head {
                Head::Classes { .. } => Some(self.pool),
                _ => None,
            },
        })
    }

    fn check(&self, input: EncoderInput, head: Head) -> Result<()> {
        let read = match input {
            EncoderInput::Tokens { vocab } => ("input.vocab", vocab),
            EncoderInput::Numbers { width } => ("input.width", width),
        };
        let answered = match head {
            Head::Classes { classes } => ("head.classes", classes),
            Head::Each { outputs } => ("head.outputs", outputs),
            Head::Forecast { horizon } => ("head.horizon", horizon),
        };
        let sizes = [read, answered, ("length", self.length), ("d_model", self.d_model), ("layers", self.layers)];
        if let Some((arg, _)) = sizes.into_iter().find(|(_, size)| *size == 0) {
            return Err(Error::argument(OP, arg, "at least 1", 0));
        }
        if self.mixers.is_empty() {
            return Err(Error::argument(OP, "mixers", "a list of at least one mixer", "[]"));
        }
        check_numbers(OP, self.dropout, self.norm_epsilon, self.init_std)?;
        if let Some(mixer) = self.mixers.iter().find(|m| !self.causal && !m.is_bidirectional()) {
            let want = "ones with a bidirectional form, or `causal` set";
            return Err(Error::argument(OP, "mixers", want, format!("`{}`, which is causal only", mixer.kind())));
        }
        if matches!(head, Head::Classes { .. }) && self.causal && self.pool == Pool::Class {
            return Err(Error::argument(
                OP,
                "pool",
                "`mean` or `last` for causal mixers: nothing reaches the token before the first",
                "class",
            ));
        }
        if matches!(head, Head::Forecast { .. }) && matches!(input, EncoderInput::Tokens { .. }) {
            return Err(Error::argument(OP, "head", "one of classes or of numbers for tokens", "forecast"));
        }
        Ok(())
    }
}
