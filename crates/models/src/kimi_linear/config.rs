use burn::tensor::Device;
use regard::{Error, MixerConfig, Result, blocks::MoeConfig, kimi_delta::KimiDeltaConfig, latent_attention::LatentAttentionConfig};
use serde::{Deserialize, Serialize};

use crate::{Decoder, DecoderConfig};

pub(super) const OP: &str = "kimi_linear";

/// Configuration of Kimi Linear: a [`Decoder`] with Kimi Delta Attention in most layers and latent attention in the others.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KimiLinearConfig {
    /// Number of different tokens.
    pub vocab: usize,
    /// Width D.
    pub d_model: usize,
    /// Number of layers L.
    pub layers: usize,
    /// Layers with Kimi Delta Attention, counted from 1. With `full_attention_layers` it names every layer once; if both are empty,
    /// latent attention stands in every fourth layer and in the last.
    #[serde(default)]
    pub kda_layers: Vec<usize>,
    /// Layers with latent attention, counted from 1.
    #[serde(default)]
    pub full_attention_layers: Vec<usize>,
    /// Kimi Delta Attention; with `scalar_gate` the baseline "GDN-H".
    pub kda: KimiDeltaConfig,
    /// Latent attention; with `rotary_base` the baseline "Kimi Linear (RoPE)".
    pub mla: LatentAttentionConfig,
    /// Inner width of the channel mixers of the layers without experts.
    pub d_ff: usize,
    /// Number of leading layers without experts.
    #[serde(default = "one")]
    pub dense_layers: usize,
    /// The mixture of experts of the other layers; `None` = no experts anywhere.
    #[serde(default)]
    pub moe: Option<MoeConfig>,
    /// ε of the norms of the layers and before the head.
    #[serde(default = "epsilon")]
    pub norm_epsilon: f64,
    /// Whether the head uses the embedding matrix.
    #[serde(default)]
    pub tied: bool,
    /// Standard deviation of the initial weights of linear layers, experts and embeddings.
    #[serde(default = "std")]
    pub init_std: f64,
}

fn one() -> usize {
    1
}

fn epsilon() -> f64 {
    1e-5
}

fn std() -> f64 {
    0.02
}

impl KimiLinearConfig {
    /// The names that [`named`](Self::named) knows.
    pub const NAMES: &'static [&'static str] = &["kimi_linear_48b"];

    /// A network with both mixers of `heads` heads of width D / `heads`, three layers of the first to one of the second, SwiGLU of inner
    /// width 8/3 D and no experts.
    pub fn new(vocab: usize, d_model: usize, layers: usize, heads: usize) -> Self {
        Self {
            vocab,
            d_model,
            layers,
            kda_layers: Vec::new(),
            full_attention_layers: Vec::new(),
            kda: KimiDeltaConfig::new(heads),
            mla: LatentAttentionConfig::new(heads),
            d_ff: (d_model * 8 / 3).next_multiple_of(8),
            dense_layers: one(),
            moe: None,
            norm_epsilon: epsilon(),
            tied: false,
            init_std: std(),
        }
    }

    /// The network of that name, `None` if there is none.
    pub fn named(name: &str) -> Option<Self> {
        (name == "kimi_linear_48b").then(Self::kimi_linear_48b)
    }

    /// Kimi-Linear-48B-A3B.
    pub fn kimi_linear_48b() -> Self {
        let full = [4, 8, 12, 16, 20, 24, 27];
        Self {
            kda_layers: (1..=27).filter(|layer| !full.contains(layer)).collect(),
            full_attention_layers: full.to_vec(),
            kda: KimiDeltaConfig { head_dim: Some(128), ..KimiDeltaConfig::new(32) },
            mla: LatentAttentionConfig {
                head_dim: Some(128),
                value_dim: Some(128),
                shared_dim: Some(64),
                rank: Some(512),
                ..LatentAttentionConfig::new(32)
            },
            d_ff: 9216,
            moe: Some(MoeConfig { shared: 1, scale: 2.446, ..MoeConfig::new(256, 8, 1024) }),
            ..Self::new(163_840, 2304, 27, 32)
        }
    }

    /// The same network with latent attention in every layer, the yardstick of the report.
    #[must_use]
    pub fn all_latent(self) -> Self {
        Self { kda_layers: Vec::new(), full_attention_layers: (1..=self.layers).collect(), ..self }
    }

    /// Whether each layer has latent attention.
    ///
    /// # Errors
    /// If the lists name a layer twice, leave one out, or name one that is not there.
    pub fn full_attention(&self) -> Result<Vec<bool>> {
        if self.kda_layers.is_empty() && self.full_attention_layers.is_empty() {
            return Ok((1..=self.layers).map(|layer| layer % 4 == 0 || layer == self.layers).collect());
        }
        let mut kinds = vec![None; self.layers];
        for (arg, list, full) in [("kda_layers", &self.kda_layers, false), ("full_attention_layers", &self.full_attention_layers, true)] {
            for &layer in list {
                let kind = layer.checked_sub(1).and_then(|index| kinds.get_mut(index)).ok_or_else(|| {
                    Error::argument(OP, arg, format!("layers counted from 1 to {}", self.layers), format!("layer {layer}"))
                })?;
                match kind.replace(full) {
                    None => {}
                    Some(before) if before == full => {
                        return Err(Error::argument(OP, arg, "a list without repetitions", format!("layer {layer} twice")));
                    }
                    Some(_) => {
                        return Err(Error::argument(OP, arg, "disjoint from `kda_layers`", format!("layer {layer}, which is in both")));
                    }
                }
            }
        }
        let list = |index: usize| {
            let want = format!("a list that names every layer up to {} which `kda_layers` does not", self.layers);
            Error::argument(OP, "full_attention_layers", want, format!("none with layer {}", index + 1))
        };
        kinds.into_iter().enumerate().map(|(index, kind)| kind.ok_or_else(|| list(index))).collect()
    }

    /// The same network as a configuration of the general decoder.
    ///
    /// # Errors
    /// If the lists name a layer twice, leave one out, or name one that is not there.
    pub fn decoder(&self) -> Result<DecoderConfig> {
        let mixer = |full| if full { MixerConfig::Latent(self.mla.clone()) } else { MixerConfig::KimiDelta(self.kda.clone()) };
        let mixers = self.full_attention()?.into_iter().map(mixer).collect();
        Ok(DecoderConfig {
            d_ff: self.d_ff,
            moe: self.moe.clone(),
            dense_layers: self.dense_layers,
            norm_epsilon: self.norm_epsilon,
            tied: self.tied,
            init_std: self.init_std,
            scale_residual_init: false,
            ..DecoderConfig::new(self.vocab, self.d_model, self.layers, mixers, 4096)
        })
    }

    /// The network with initial values drawn from the device's random generator.
    ///
    /// # Errors
    /// If a size is 0, the lists of layers are wrong, or a layer rejects its configuration.
    pub fn init(&self, device: &Device) -> Result<Decoder> {
        self.decoder()?.init(device)
    }

    /// The network without memory for its weights, see [`DecoderConfig::skeleton`].
    ///
    /// # Errors
    /// As [`init`](Self::init).
    pub fn skeleton(&self, device: &Device) -> Result<Decoder> {
        self.decoder()?.skeleton(device)
    }
}
