use burn::{
    nn::{DropoutConfig, EmbeddingConfig, LinearConfig},
    tensor::Device,
};
use regard::{
    Error, LayerPlace, MixerConfig, Result,
    blocks::{MlpConfig, MlpKind, MoeConfig, NormKind},
};
use serde::{Deserialize, Serialize};

use super::{block::Block, channel::ChannelMixer, init::initialise, model::Decoder};

/// How the network learns where a token stands, besides what its mixers know.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Positions {
    /// Not at all: decay, gates, convolutions or rotary encodings of the mixers do it.
    #[default]
    None,
    /// A learned vector for each of the `context` positions is added to the token's.
    Learned,
}

/// Configuration of a [`Decoder`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DecoderConfig {
    /// Number of different tokens. A file may leave it out: training takes it from the tokeniser.
    #[serde(default)]
    pub vocab: usize,
    /// Width D of the residual stream.
    pub d_model: usize,
    /// Number of layers L.
    pub layers: usize,
    /// The token mixers, repeated over the layers: `[kda, kda, kda, softmax]` puts a softmax into every fourth layer.
    pub mixers: Vec<MixerConfig>,
    /// Inner width of the channel mixers.
    pub d_ff: usize,
    /// Channel mixer.
    #[serde(default)]
    pub mlp: MlpKind,
    /// A mixture of experts in the place of the channel mixer, in all layers but the first `dense_layers`.
    #[serde(default)]
    pub moe: Option<MoeConfig>,
    /// Number of leading layers without the mixture of experts.
    #[serde(default)]
    pub dense_layers: usize,
    /// Norm before each mixer and before the head.
    #[serde(default)]
    pub norm: NormKind,
    /// ε of the norms.
    #[serde(default = "default_epsilon")]
    pub norm_epsilon: f64,
    /// Position vectors.
    #[serde(default)]
    pub positions: Positions,
    /// Longest sequence of learned positions; mixers without them take any length.
    pub context: usize,
    /// Whether the head uses the embedding matrix.
    #[serde(default = "yes")]
    pub tied: bool,
    /// Whether token vectors are multiplied by √D (TransNormerLLM).
    #[serde(default)]
    pub scale_embedding: bool,
    /// Whether the linear layers of the channel mixers have biases.
    #[serde(default)]
    pub bias: bool,
    /// Probability of dropping an element of the token vectors and of each branch in training.
    #[serde(default)]
    pub dropout: f64,
    /// Standard deviation of the initial weights of linear layers and embeddings.
    #[serde(default = "default_std")]
    pub init_std: f64,
    /// Whether the projections back into the residual stream start smaller by 1/√(2L) (GPT-2).
    #[serde(default = "yes")]
    pub scale_residual_init: bool,
}

fn default_epsilon() -> f64 {
    1e-5
}

fn default_std() -> f64 {
    0.02
}

fn yes() -> bool {
    true
}

impl DecoderConfig {
    /// A pre-norm network with RMSNorm, SwiGLU, a tied head and no position vectors.
    pub fn new(vocab: usize, d_model: usize, layers: usize, mixers: Vec<MixerConfig>, context: usize) -> Self {
        Self {
            vocab,
            d_model,
            layers,
            mixers,
            // 8/3 D keeps a gated network at the size of the usual 4 D without a gate.
            d_ff: (d_model * 8 / 3).next_multiple_of(8),
            mlp: MlpKind::default(),
            moe: None,
            dense_layers: 0,
            norm: NormKind::default(),
            norm_epsilon: default_epsilon(),
            positions: Positions::default(),
            context,
            tied: true,
            scale_embedding: false,
            bias: false,
            dropout: 0.0,
            init_std: default_std(),
            scale_residual_init: true,
        }
    }

    /// The mixer of layer `index`.
    pub fn mixer(&self, index: usize) -> &MixerConfig {
        &self.mixers[index % self.mixers.len()]
    }

    /// The network with initial values drawn from the device's random generator.
    ///
    /// # Errors
    /// If a size is 0, there is no mixer, a number is outside its range, or a mixer rejects its configuration.
    pub fn init(&self, device: &Device) -> Result<Decoder> {
        let residual = if self.scale_residual_init { self.init_std / (2.0 * self.layers as f64).sqrt() } else { self.init_std };
        Ok(initialise(self.skeleton(device)?, self.init_std, residual))
    }

    /// The network without memory for its weights: shapes and names alone, for counting and for reading a checkpoint into it. A weight
    /// that is used before it is read gets some initial value, not that of [`init`](Self::init).
    ///
    /// # Errors
    /// As [`init`](Self::init).
    pub fn skeleton(&self, device: &Device) -> Result<Decoder> {
        const OP: &str = "decoder";
        let sizes = [("vocab", self.vocab), ("d_model", self.d_model), ("layers", self.layers), ("context", self.context)];
        for (arg, size) in sizes {
            if size == 0 {
                return Err(Error::argument(OP, arg, "at least 1", size));
            }
        }
        if self.mixers.is_empty() {
            return Err(Error::argument(OP, "mixers", "a list of at least one mixer", "[]"));
        }
        check_numbers(OP, self.dropout, self.norm_epsilon, self.init_std)?;
        let norm = || self.norm.init(self.d_model, self.norm_epsilon, device);
        let mlp = MlpConfig { kind: self.mlp, d_model: self.d_model, d_ff: self.d_ff, bias: self.bias };
        let blocks = (0..self.layers)
            .map(|index| {
                Ok(Block {
                    mixer_norm: norm(),
                    mixer: self.mixer(index).init(self.d_model, LayerPlace { index, count: self.layers }, device)?,
                    mlp_norm: norm(),
                    mlp: match &self.moe {
                        Some(moe) if index >= self.dense_layers => ChannelMixer::Moe(moe.init(self.d_model, device)?),
                        _ => ChannelMixer::Dense(mlp.init(device)?),
                    },
                    dropout: DropoutConfig::new(self.dropout).init(),
                })
            })
            .collect::<Result<Vec<_>>>()?;
        let embed = |count| EmbeddingConfig::new(count, self.d_model).init(device);
        Ok(Decoder {
            embedding: embed(self.vocab),
            positions: (self.positions == Positions::Learned).then(|| embed(self.context)),
            blocks,
            norm: norm(),
            head: (!self.tied).then(|| LinearConfig::new(self.d_model, self.vocab).with_bias(false).init(device)),
            dropout: DropoutConfig::new(self.dropout).init(),
            embedding_scale: if self.scale_embedding { (self.d_model as f64).sqrt() } else { 1.0 },
        })
    }
}

/// What networks of such blocks ask of their numbers.
pub(crate) fn check_numbers(op: &'static str, dropout: f64, norm_epsilon: f64, init_std: f64) -> Result<()> {
    let rules = [
        ("dropout", dropout, "in [0, 1)", (0.0..1.0).contains(&dropout)),
        ("norm_epsilon", norm_epsilon, "a positive number", norm_epsilon > 0.0 && norm_epsilon.is_finite()),
        ("init_std", init_std, "a number of at least 0", init_std >= 0.0 && init_std.is_finite()),
    ];
    match rules.into_iter().find(|rule| !rule.3) {
        Some((arg, value, rule, _)) => Err(Error::argument(op, arg, rule, value)),
        None => Ok(()),
    }
}
