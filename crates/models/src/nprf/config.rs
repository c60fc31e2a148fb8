use burn::tensor::Device;
use regard::{
    MixerConfig, Result,
    blocks::{MlpKind, NormKind},
    nprf::NprfConfig,
};
use serde::{Deserialize, Serialize};

use crate::{Decoder, DecoderConfig};

/// Configuration of the language model of NPRF: a [`Decoder`] with its wiring.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NprfLmConfig {
    /// Number of different tokens V.
    pub vocab: usize,
    /// Width D.
    pub d_model: usize,
    /// Number of layers L.
    pub layers: usize,
    /// Inner width of the channel mixers.
    pub d_ff: usize,
    /// Number of tokens in training.
    pub context: usize,
    /// The attention of the layers.
    pub mixer: NprfConfig,
    /// ε of the norms.
    #[serde(default = "epsilon")]
    pub norm_epsilon: f64,
    /// Whether the head uses the embedding matrix.
    #[serde(default = "yes")]
    pub tied: bool,
}

fn epsilon() -> f64 {
    1e-5
}

fn yes() -> bool {
    true
}

impl NprfLmConfig {
    /// A network of these sizes with inner width 4 D and a bias for every difference of positions within `context`.
    pub fn new(vocab: usize, d_model: usize, layers: usize, heads: usize, context: usize) -> Self {
        let mixer = NprfConfig { farthest: context.saturating_sub(1), ..NprfConfig::new(heads) };
        Self { vocab, d_model, layers, d_ff: 4 * d_model, context, mixer, norm_epsilon: epsilon(), tied: yes() }
    }

    /// The byte-level network of the experiments.
    pub fn byte_lm() -> Self {
        Self::new(256, 128, 4, 4, 256)
    }

    /// Number of trained weights, without making them.
    pub fn params(&self) -> usize {
        let (d, m) = (self.d_model, &self.mixer);
        let attention = 4 * d * d + if m.bias { 4 * d } else { 0 } + if m.rpe { m.heads * (2 * m.farthest + 1) } else { 0 };
        let mlp = 2 * d * self.d_ff + self.d_ff + d;
        let matrices = if self.tied { 1 } else { 2 };
        matrices * self.vocab * d + self.layers * (attention + mlp + 4 * d) + 2 * d
    }

    /// The same network as a configuration of the general decoder.
    pub fn decoder(&self) -> DecoderConfig {
        DecoderConfig {
            d_ff: self.d_ff,
            mlp: MlpKind::Gelu,
            norm: NormKind::Layer,
            norm_epsilon: self.norm_epsilon,
            tied: self.tied,
            bias: true,
            ..DecoderConfig::new(self.vocab, self.d_model, self.layers, vec![MixerConfig::Nprf(self.mixer.clone())], self.context)
        }
    }

    /// The network with initial values drawn from the device's random generator.
    ///
    /// # Errors
    /// If a size is 0, the heads do not divide the width, or an option of the mixer is out of its range.
    pub fn init(&self, device: &Device) -> Result<Decoder> {
        self.decoder().init(device)
    }
}
