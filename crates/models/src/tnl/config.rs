use burn::tensor::Device;
use regard::{
    Error, LayerPlace, MixerConfig, Result,
    blocks::{MlpKind, NormKind},
    lightning_attention::{GateKind, LightningConfig, PositionPolicy},
};
use serde::{Deserialize, Serialize};

use crate::{Decoder, DecoderConfig, Positions};

/// Configuration of TransNormerLLM: a [`Decoder`] with the wiring of the paper.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TnlConfig {
    /// Number of different tokens V.
    pub vocab: usize,
    /// Width D.
    pub d_model: usize,
    /// Number of layers L.
    pub layers: usize,
    /// Inner width g of the channel mixers.
    pub d_ff: usize,
    /// The token mixer of the layers.
    pub mixer: LightningConfig,
    /// Which layers encode positions, one flag per layer, in the place of what `mixer.positions` says of it; `None` = as that says.
    #[serde(default)]
    pub lrpe_layers: Option<Vec<bool>>,
    /// Norm before each mixer and before the head.
    #[serde(default = "simple_rms")]
    pub norm: NormKind,
    /// ε of the norms.
    #[serde(default = "epsilon")]
    pub norm_epsilon: f64,
    /// Whether token vectors are multiplied by √D.
    #[serde(default = "yes")]
    pub scale_embedding: bool,
    /// Whether the head uses the embedding matrix.
    #[serde(default = "yes")]
    pub tied: bool,
    /// Number of learned position vectors (the baseline "APE"); `None` = none and sequences of any length.
    #[serde(default)]
    pub position_vectors: Option<usize>,
    /// Standard deviation of the initial weights of linear layers and embeddings.
    #[serde(default = "std")]
    pub init_std: f64,
}

fn simple_rms() -> NormKind {
    NormKind::SimpleRms
}

fn epsilon() -> f64 {
    1e-6
}

fn std() -> f64 {
    0.02
}

fn yes() -> bool {
    true
}

impl TnlConfig {
    /// The names that [`named`](Self::named) knows.
    pub const NAMES: &'static [&'static str] = &["tnl_385m", "tnl_385m_64k", "tnl_1b", "tnl_3b", "tnl_7b", "tnl_15b"];

    /// A network of these sizes with the published choices otherwise.
    pub fn new(vocab: usize, d_model: usize, layers: usize, heads: usize, d_ff: usize) -> Self {
        Self {
            vocab,
            d_model,
            layers,
            d_ff,
            mixer: LightningConfig::new(heads),
            lrpe_layers: None,
            norm: simple_rms(),
            norm_epsilon: epsilon(),
            scale_embedding: yes(),
            tied: yes(),
            position_vectors: None,
            init_std: std(),
        }
    }

    /// The network of that name, `None` if there is none: see the table on the [module's page](super).
    pub fn named(name: &str) -> Option<Self> {
        Some(match name {
            "tnl_385m" => Self::tnl_385m(),
            "tnl_385m_64k" => Self::tnl_385m_64k(),
            "tnl_1b" => Self::tnl_1b(),
            "tnl_3b" => Self::tnl_3b(),
            "tnl_7b" => Self::tnl_7b(),
            "tnl_15b" => Self::tnl_15b(),
            _ => return None,
        })
    }

    /// 385M of the ablations.
    pub fn tnl_385m() -> Self {
        Self::new(50_272, 1024, 24, 8, 2816)
    }

    /// 385M as released.
    pub fn tnl_385m_64k() -> Self {
        Self { vocab: 64_000, ..Self::tnl_385m() }
    }

    /// 1B.
    pub fn tnl_1b() -> Self {
        Self::new(64_000, 2048, 16, 16, 5632)
    }

    /// 3B, which was used for measurements of speed; its inner width is not published.
    pub fn tnl_3b() -> Self {
        Self { scale_embedding: false, ..Self::new(64_000, 2560, 32, 20, 6912) }
    }

    /// 7B.
    pub fn tnl_7b() -> Self {
        Self { scale_embedding: false, ..Self::new(64_000, 4096, 30, 32, 11_008) }
    }

    /// 15B, with a gate of rank 16.
    pub fn tnl_15b() -> Self {
        let mixer = LightningConfig { gate: GateKind::LowRank { width: 16, sigmoid: false }, ..LightningConfig::new(40) };
        Self { mixer, ..Self::new(100_280, 5120, 42, 40, 15_360) }
    }

    /// The token mixer of layer `index`.
    fn mixer(&self, index: usize) -> LightningConfig {
        let decays = self.mixer.positions.decays();
        let positions = match self.lrpe_layers.as_ref().and_then(|flags| flags.get(index)) {
            None => self.mixer.positions,
            Some(true) if decays => PositionPolicy::LrpeDecay,
            Some(true) => PositionPolicy::Lrpe,
            Some(false) if decays => PositionPolicy::Decay,
            Some(false) => PositionPolicy::None,
        };
        LightningConfig { positions, ..self.mixer.clone() }
    }

    /// Number of trained weights, without making them: `V D + L (5 D² + 3 D g) + D` with the published choices.
    pub fn params(&self) -> usize {
        let d = self.d_model;
        let norm = match self.norm {
            NormKind::SimpleRms => 0,
            NormKind::Rms | NormKind::LayerNoBias => d,
            NormKind::Layer => 2 * d,
        };
        let mixers: usize = (0..self.layers).map(|index| self.mixer(index).params(d, LayerPlace { index, count: self.layers })).sum();
        let mlp = self.d_ff * MlpKind::Sglu.weights_per_unit(d) + if self.mixer.bias { 2 * self.d_ff + d } else { 0 };
        let matrices = if self.tied { 1 } else { 2 };
        matrices * self.vocab * d + self.position_vectors.unwrap_or(0) * d + mixers + self.layers * (mlp + 2 * norm) + norm
    }

    /// Bytes that decoding keeps of one sequence, however long: per head a K×V matrix in f32, twice as tall where positions are encoded.
    pub fn state_bytes(&self) -> usize {
        let width = self.mixer.width.unwrap_or(self.d_model);
        let per_layer =
            |index: usize| if self.mixer(index).positions.encodes(index) { 2 } else { 1 } * width * width / self.mixer.heads.max(1);
        (0..self.layers).map(per_layer).sum::<usize>() * size_of::<f32>()
    }

    /// The same network as a configuration of the general decoder.
    ///
    /// # Errors
    /// If `lrpe_layers` does not have one flag per layer.
    pub fn decoder(&self) -> Result<DecoderConfig> {
        if let Some(flags) = &self.lrpe_layers
            && flags.len() != self.layers
        {
            return Err(Error::argument("tnl", "lrpe_layers", format!("a flag for each of {} layers", self.layers), flags.len()));
        }
        let mixers = match &self.lrpe_layers {
            None => vec![MixerConfig::Lightning(self.mixer.clone())],
            Some(_) => (0..self.layers).map(|index| MixerConfig::Lightning(self.mixer(index))).collect(),
        };
        Ok(DecoderConfig {
            d_ff: self.d_ff,
            mlp: MlpKind::Sglu,
            norm: self.norm,
            norm_epsilon: self.norm_epsilon,
            positions: if self.position_vectors.is_some() { Positions::Learned } else { Positions::None },
            tied: self.tied,
            scale_embedding: self.scale_embedding,
            bias: self.mixer.bias,
            init_std: self.init_std,
            scale_residual_init: false,
            ..DecoderConfig::new(self.vocab, self.d_model, self.layers, mixers, self.position_vectors.unwrap_or(2048))
        })
    }

    /// The network with initial values drawn from the device's random generator.
    ///
    /// # Errors
    /// If a size is 0, the heads do not divide the width, or `lrpe_layers` does not have one flag per layer.
    pub fn init(&self, device: &Device) -> Result<Decoder> {
        self.decoder()?.init(device)
    }
}
