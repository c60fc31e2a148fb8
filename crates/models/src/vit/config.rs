use burn::{module::Initializer, nn::LinearConfig, tensor::Device};
use regard::{
    Error, Result,
    bi_level_routing::FullAttentionConfig,
    blocks::{NormKind, PatchMerge, VisionBlockConfig},
};
use serde::{Deserialize, Serialize};

use super::model::{PatchEmbedding, Vit};
use crate::{decoder::initialise, vision::drop_rates};

pub(super) const OP: &str = "vit";

/// Configuration of a [`Vit`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VitConfig {
    /// Height and width of an image, a multiple of `patch`. A file may leave it out: training takes it from the images.
    #[serde(default)]
    pub image: usize,
    /// Channels of an image.
    #[serde(default = "three")]
    pub channels: usize,
    /// Height and width of a patch.
    #[serde(default = "sixteen")]
    pub patch: usize,
    /// Width D.
    pub d_model: usize,
    /// Number of blocks.
    pub layers: usize,
    /// Number of heads.
    pub heads: usize,
    /// Inner width of the channel mixers as a multiple of D.
    #[serde(default = "ratio")]
    pub mlp_ratio: f64,
    /// Whether queries, keys and values have biases.
    #[serde(default = "yes")]
    pub qkv_bias: bool,
    /// ε of the norms.
    #[serde(default = "epsilon")]
    pub norm_epsilon: f64,
    /// Probability of leaving out a mixer of the last block in training, in [0, 1); that of the first is 0, and it rises linearly.
    #[serde(default)]
    pub drop_path: f64,
    /// Number of classes; 0 = no classifier. A file may leave it out: training takes it from the images.
    #[serde(default)]
    pub classes: usize,
}

fn three() -> usize {
    3
}

fn sixteen() -> usize {
    16
}

fn ratio() -> f64 {
    4.0
}

fn yes() -> bool {
    true
}

fn epsilon() -> f64 {
    1e-6
}

impl VitConfig {
    /// The names that [`named`](Self::named) knows.
    pub const NAMES: &'static [&'static str] = &["deit_tiny", "deit_small", "deit_base"];

    /// A network of these sizes for square images with the published choices otherwise.
    pub fn new(image: usize, d_model: usize, layers: usize, heads: usize, classes: usize) -> Self {
        Self {
            image,
            channels: three(),
            patch: sixteen(),
            d_model,
            layers,
            heads,
            mlp_ratio: ratio(),
            qkv_bias: yes(),
            norm_epsilon: epsilon(),
            drop_path: 0.0,
            classes,
        }
    }

    /// The network of that name, `None` if there is none: see the table on the [module's page](super).
    pub fn named(name: &str) -> Option<Self> {
        let deit = |d_model, heads| Self { drop_path: 0.1, ..Self::new(224, d_model, 12, heads, 1000) };
        Some(match name {
            "deit_tiny" => deit(192, 3),
            "deit_small" => deit(384, 6),
            "deit_base" => deit(768, 12),
            _ => return None,
        })
    }

    /// The network with the authors' initial values: linear layers, class token and position vectors from N(0, 0.02), biases 0, the
    /// embedding of patches as PyTorch draws it.
    ///
    /// # Errors
    /// If a size is 0, the patches do not divide the image, the heads not the width, or a rate is not in [0, 1).
    pub fn init(&self, device: &Device) -> Result<Vit> {
        Ok(initialise(self.skeleton(device)?, 0.02, 0.02))
    }

    /// The network without memory for its weights: for their number, and to be filled from a checkpoint.
    ///
    /// # Errors
    /// As [`init`](Self::init).
    pub fn skeleton(&self, device: &Device) -> Result<Vit> {
        let sizes =
            [("image", self.image), ("channels", self.channels), ("patch", self.patch), ("d_model", self.d_model), ("layers", self.layers)];
        for (arg, size) in sizes {
            if size == 0 {
                return Err(Error::argument(OP, arg, "at least 1", size));
            }
        }
        if !self.image.is_multiple_of(self.patch) {
            return Err(Error::argument(OP, "image", format!("a multiple of patch = {}", self.patch), self.image));
        }
        if !(self.mlp_ratio > 0.0 && self.mlp_ratio.is_finite()) {
            return Err(Error::argument(OP, "mlp_ratio", "positive and finite", self.mlp_ratio));
        }
        let attention = FullAttentionConfig { heads: self.heads, local: 0, qkv_bias: self.qkv_bias };
        let block = VisionBlockConfig {
            d_ff: (self.mlp_ratio * self.d_model as f64) as usize,
            norm_epsilon: self.norm_epsilon,
            conv: None,
            channel_conv: None,
            layer_scale: None,
        };
        let block = |rate| block.init(self.d_model, attention.init(self.d_model, device)?, device)?.with_drop_path(rate);
        let vectors = Initializer::Normal { mean: 0.0, std: 0.02 };
        let tokens = (self.image / self.patch).pow(2);
        Ok(Vit {
            patch_embed: PatchEmbedding { proj: PatchMerge::new(self.channels, self.d_model, self.patch, device)? },
            cls_token: vectors.init([self.d_model], device),
            pos_embed: vectors.init([tokens + 1, self.d_model], device),
            blocks: drop_rates(OP, self.drop_path, self.layers)?.into_iter().map(block).collect::<Result<_>>()?,
            norm: NormKind::Layer.init(self.d_model, self.norm_epsilon, device),
            head: (self.classes > 0).then(|| LinearConfig::new(self.d_model, self.classes).init(device)),
            config: self.clone(),
        })
    }
}
