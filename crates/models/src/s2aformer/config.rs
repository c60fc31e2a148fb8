use burn::{
    nn::{BatchNormConfig, LinearConfig},
    tensor::Device,
};
use regard::{
    Error, Result,
    blocks::{NormKind, PatchMerge},
    strip_attention::{HybridPerception, HybridPerceptionConfig, StripAttentionConfig},
};
use serde::{Deserialize, Serialize};

use super::{init::initialise, model::S2aFormer};
use crate::vision::{ConvNormConfig, drop_rates};

pub(super) const OP: &str = "s2aformer";

/// Configuration of an [`S2aFormer`].
///
/// The paper gives the kinds of layers and their order; widths, depths, heads, strips, reductions and the head are this project's, fitted to
/// the published numbers of weights and operations.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct S2aFormerConfig {
    /// Channels of an image.
    #[serde(default = "three")]
    pub channels: usize,
    /// Distances of neighbouring outputs of the stem's convolutions.
    #[serde(default = "stem_strides")]
    pub stem_strides: Vec<usize>,
    /// Width of each stage; the stem has half of the first.
    pub widths: Vec<usize>,
    /// Number of blocks of each stage.
    pub depths: Vec<usize>,
    /// Number of heads of each stage; divides its width.
    pub heads: Vec<usize>,
    /// Rows and columns of tokens that make one key, for each stage.
    pub reductions: Vec<usize>,
    /// Numbers of a query and of a key per head.
    #[serde(default = "one")]
    pub strip: usize,
    /// The error up to which attention with strips of one number may be interpolated; `None` = exactly.
    #[serde(default)]
    pub interpolate: Option<f64>,
    /// Inner width of the channel mixers as a multiple of the stage's, rounded down.
    #[serde(default = "mlp_ratio")]
    pub mlp_ratio: f64,
    /// Width of the layer before the classes.
    #[serde(default = "head_width")]
    pub head_width: usize,
    /// Number of classes. A file may leave it out: training takes it from the images.
    #[serde(default)]
    pub classes: usize,
    /// The probability with which training leaves out a branch of the last block; it rises linearly to that.
    #[serde(default)]
    pub drop_path: f64,
    /// ε of the norms of tokens.
    #[serde(default = "epsilon")]
    pub norm_epsilon: f64,
    /// ε of the batch norms.
    #[serde(default = "batch_epsilon")]
    pub batch_epsilon: f64,
}

fn one() -> usize {
    1
}

fn three() -> usize {
    3
}

fn stem_strides() -> Vec<usize> {
    vec![2, 1, 1]
}

fn mlp_ratio() -> f64 {
    4.0
}

fn head_width() -> usize {
    1280
}

fn epsilon() -> f64 {
    1e-6
}

fn batch_epsilon() -> f64 {
    1e-5
}

impl S2aFormerConfig {
    /// The names of the variants.
    pub const NAMES: [&str; 5] = ["s2aformer_mini", "s2aformer_t", "s2aformer_xs", "s2aformer_s", "s2aformer_m"];

    /// Four stages of these widths and depths; 1, 2, 4 and 8 heads, keys of 8, 4, 2 and 1 rows and columns of tokens.
    pub fn new(widths: [usize; 4], depths: [usize; 4], classes: usize) -> Self {
        Self {
            channels: three(),
            stem_strides: stem_strides(),
            widths: widths.to_vec(),
            depths: depths.to_vec(),
            heads: vec![1, 2, 4, 8],
            reductions: vec![8, 4, 2, 1],
            strip: one(),
            interpolate: None,
            mlp_ratio: mlp_ratio(),
            head_width: head_width(),
            classes,
            drop_path: 0.0,
            norm_epsilon: epsilon(),
            batch_epsilon: batch_epsilon(),
        }
    }

    /// The variant of that name, for 1000 classes; `None` if there is none.
    pub fn named(name: &str) -> Option<Self> {
        let (widths, depths) = match name {
            "s2aformer_mini" => ([28, 56, 140, 280], [2, 3, 3, 3]),
            "s2aformer_t" => ([32, 64, 128, 320], [2, 2, 10, 2]),
            "s2aformer_xs" => ([32, 64, 160, 320], [2, 2, 9, 2]),
            "s2aformer_s" => ([40, 80, 200, 400], [3, 4, 8, 3]),
            "s2aformer_m" => ([64, 128, 320, 512], [3, 4, 13, 3]),
            _ => return None,
        };
        Some(Self::new(widths, depths, 1000))
    }

    /// The network with matrices drawn from N(0, 0.02), filters of 3 × 3 as for rectifiers, no biases.
    ///
    /// # Errors
    /// As [`skeleton`](Self::skeleton).
    pub fn init(&self, device: &Device) -> Result<S2aFormer> {
        Ok(initialise(self.skeleton(device)?))
    }

    /// The network without memory for its weights, to count them or to be filled from a checkpoint.
    ///
    /// # Errors
    /// If a size is 0, the lists have different lengths, the heads do not divide a width, or a layer's own configuration is invalid.
    pub fn skeleton(&self, device: &Device) -> Result<S2aFormer> {
        let sizes = [
            ("channels", self.channels),
            ("stem_strides", self.stem_strides.len()),
            ("widths", self.widths.len()),
            ("head_width", self.head_width),
            ("classes", self.classes),
        ];
        for (arg, size) in sizes {
            if size == 0 {
                return Err(Error::argument(OP, arg, "at least 1", size));
            }
        }
        let stages = self.widths.len();
        for (arg, length) in [("depths", self.depths.len()), ("heads", self.heads.len()), ("reductions", self.reductions.len())] {
            if length != stages {
                return Err(Error::argument(OP, arg, format!("one for each of {stages} stages"), length));
            }
        }
        if self.widths.contains(&0) || self.widths[0] < 2 {
            return Err(Error::argument(OP, "widths", "at least 1 each, and 2 in the first stage", format!("{:?}", self.widths)));
        }
        if !(self.mlp_ratio > 0.0 && self.mlp_ratio.is_finite()) {
            return Err(Error::argument(OP, "mlp_ratio", "positive and finite", self.mlp_ratio));
        }
        let mut rates = drop_rates(OP, self.drop_path, self.depths.iter().sum())?.into_iter();
        let (mut stem, mut stem_bn) = (Vec::new(), Vec::new());
        let mut from = self.channels;
        for &stride in &self.stem_strides {
            let config = ConvNormConfig { epsilon: self.batch_epsilon, ..ConvNormConfig::new(from, self.widths[0] / 2, 3, stride) };
            let block = config.init(device)?;
            from = self.widths[0] / 2;
            stem.push(block.conv);
            stem_bn.push(block.bn);
        }
        let norm = |width| NormKind::Layer.init(width, self.norm_epsilon, device);
        let (mut embed, mut embed_norm, mut blocks) = (Vec::new(), Vec::new(), Vec::new());
        for (stage, &width) in self.widths.iter().enumerate() {
            embed.push(PatchMerge::new(from, width, 2, device)?);
            embed_norm.push(norm(width));
            let rates = rates.by_ref().take(self.depths[stage]);
            blocks.push(rates.map(|rate| self.block(stage, width, device)?.with_drop_path(rate)).collect::<Result<Vec<_>>>()?);
            from = width;
        }
        Ok(S2aFormer {
            stem,
            stem_bn,
            embed,
            embed_norm,
            stages: blocks,
            norm: norm(from),
            pre_head: LinearConfig::new(from, self.head_width).init(device),
            head: LinearConfig::new(self.head_width, self.classes).init(device),
            config: self.clone(),
        })
    }

    fn block(&self, stage: usize, width: usize, device: &Device) -> Result<HybridPerception> {
        let attention = StripAttentionConfig {
            heads: self.heads[stage],
            strip: self.strip,
            reduction: self.reductions[stage],
            interpolate: self.interpolate,
        };
        let d_ff = (self.mlp_ratio * width as f64) as usize;
        let mut block = HybridPerceptionConfig { attention, d_ff, norm_epsilon: self.norm_epsilon }.init(width, device)?;
        let norm = || BatchNormConfig::new(width).with_epsilon(self.batch_epsilon).init(device);
        block.lim.bn = norm();
        block.ssa.reduce_norm = block.ssa.reduce_norm.map(|_| norm());
        Ok(block)
    }
}
