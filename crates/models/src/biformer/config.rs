use burn::{
    nn::{BatchNormConfig, LinearConfig},
    tensor::Device,
};
use regard::{
    Error, Result,
    bi_level_routing::{BiLevelRoutingConfig, FullAttentionConfig, RoutedPadding, RoutedScale},
    blocks::{PatchMerge, VisionBlock, VisionBlockConfig},
};
use serde::{Deserialize, Serialize};

use super::model::{BiFormer, BiFormerAttention, Downsample};
use crate::{
    decoder::initialise,
    vision::{ConvNorm, ConvNormConfig, drop_rates},
};

pub(super) const OP: &str = "biformer";

/// How a [`BiFormer`] makes its maps smaller.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BiFormerLayout {
    /// Convolutions of 3 × 3 tokens, which overlap: two in the stem, with a GELU between, and one between stages, norms behind them.
    #[default]
    Overlapping,
    /// As Swin Transformer: patches of 4 × 4 pixels, a norm behind them, and 2 × 2 tokens merged between stages, a norm before.
    Patches,
}

/// Configuration of a [`BiFormer`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BiFormerConfig {
    /// Channels of an image.
    #[serde(default = "three")]
    pub channels: usize,
    /// Width of each stage.
    pub widths: Vec<usize>,
    /// Number of blocks of each stage.
    pub depths: Vec<usize>,
    /// Regions that each region sees, for each stage; 0 = all tokens see all, by a layer of its own kind.
    pub topk: Vec<usize>,
    /// Regions S per side of a map.
    #[serde(default = "seven")]
    pub regions: usize,
    /// Width of a head of the stages with routing; divides their widths.
    #[serde(default = "thirty_two")]
    pub head_width: usize,
    /// Number of heads of the stages without.
    #[serde(default = "eight")]
    pub full_heads: usize,
    /// The factor on scores of the stages with routing.
    #[serde(default)]
    pub scale: RoutedScale,
    /// What becomes of maps that regions do not divide.
    #[serde(default)]
    pub padding: RoutedPadding,
    /// Side of the depthwise convolution beside attention; odd, or 0 for none.
    #[serde(default = "five")]
    pub local: usize,
    /// Side of the depthwise convolution before attention; odd, or 0 for none.
    #[serde(default = "three")]
    pub conv: usize,
    /// Inner width of the channel mixers as a multiple of the stage's, rounded down.
    #[serde(default = "mlp_ratio")]
    pub mlp_ratio: f64,
    /// How maps are made smaller.
    #[serde(default)]
    pub layout: BiFormerLayout,
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

fn three() -> usize {
    3
}

fn five() -> usize {
    5
}

fn seven() -> usize {
    7
}

fn eight() -> usize {
    8
}

fn thirty_two() -> usize {
    32
}

fn mlp_ratio() -> f64 {
    3.0
}

fn epsilon() -> f64 {
    1e-6
}

fn batch_epsilon() -> f64 {
    1e-5
}

impl BiFormerConfig {
    /// The names of the published networks.
    pub const NAMES: [&str; 4] = ["biformer_tiny", "biformer_small", "biformer_base", "biformer_stl"];

    /// Four stages of these widths and depths, of which the last has full attention; published choices otherwise.
    pub fn new(widths: [usize; 4], depths: [usize; 4], classes: usize) -> Self {
        Self {
            channels: three(),
            widths: widths.to_vec(),
            depths: depths.to_vec(),
            topk: vec![1, 4, 16, 0],
            regions: seven(),
            head_width: thirty_two(),
            full_heads: eight(),
            scale: RoutedScale::Width,
            padding: RoutedPadding::Input,
            local: five(),
            conv: three(),
            mlp_ratio: mlp_ratio(),
            layout: BiFormerLayout::Overlapping,
            classes,
            drop_path: 0.0,
            norm_epsilon: epsilon(),
            batch_epsilon: batch_epsilon(),
        }
    }

    /// The network of that name, for 1000 classes; `None` if there is none.
    pub fn named(name: &str) -> Option<Self> {
        Some(match name {
            "biformer_tiny" => Self { drop_path: 0.1, ..Self::new([64, 128, 256, 512], [2, 2, 8, 2], 1000) },
            "biformer_small" => Self { drop_path: 0.15, ..Self::new([64, 128, 256, 512], [4, 4, 18, 4], 1000) },
            "biformer_base" => Self { drop_path: 0.4, ..Self::new([96, 192, 384, 768], [4, 4, 18, 4], 1000) },
            "biformer_stl" => {
                Self { mlp_ratio: 4.0, conv: 0, layout: BiFormerLayout::Patches, ..Self::new([96, 192, 384, 768], [2, 2, 6, 2], 1000) }
            }
            _ => return None,
        })
    }

    /// The network with linear layers drawn from N(0, 0.02).
    ///
    /// # Errors
    /// As [`skeleton`](Self::skeleton).
    pub fn init(&self, device: &Device) -> Result<BiFormer> {
        Ok(initialise(self.skeleton(device)?, 0.02, 0.02))
    }

    /// The network without memory for its weights, to count them or to be filled from a checkpoint.
    ///
    /// # Errors
    /// If a size is 0, the lists have different lengths, the heads do not divide a width, or a layer's own configuration is invalid.
    pub fn skeleton(&self, device: &Device) -> Result<BiFormer> {
        for (arg, size) in [("channels", self.channels), ("widths", self.widths.len()), ("classes", self.classes)] {
            if size == 0 {
                return Err(Error::argument(OP, arg, "at least 1", size));
            }
        }
        let stages = self.widths.len();
        for (arg, length) in [("depths", self.depths.len()), ("topk", self.topk.len())] {
            if length != stages {
                return Err(Error::argument(OP, arg, format!("one for each of {stages} stages"), length));
            }
        }
        if self.conv > 0 && self.conv.is_multiple_of(2) {
            return Err(Error::argument(OP, "conv", "odd, or 0", self.conv));
        }
        if !(self.mlp_ratio > 0.0 && self.mlp_ratio.is_finite()) {
            return Err(Error::argument(OP, "mlp_ratio", "positive and finite", self.mlp_ratio));
        }
        if !(self.batch_epsilon > 0.0 && self.batch_epsilon.is_finite()) {
            return Err(Error::argument(OP, "batch_epsilon", "positive and finite", self.batch_epsilon));
        }
        let mut rates = drop_rates(OP, self.drop_path, self.depths.iter().sum())?.into_iter();
        let mut from = self.channels;
        let (mut downsample, mut blocks) = (Vec::new(), Vec::new());
        for (stage, &width) in self.widths.iter().enumerate() {
            if width == 0 {
                return Err(Error::argument(OP, "widths", "at least 1 each", width));
            }
            downsample.push(self.downsample(stage, [from, width], device)?);
            let rates = rates.by_ref().take(self.depths[stage]);
            blocks.push(rates.map(|rate| self.block(stage, width, device)?.with_drop_path(rate)).collect::<Result<Vec<_>>>()?);
            from = width;
        }
        Ok(BiFormer {
            downsample,
            stages: blocks,
            norm: BatchNormConfig::new(from).with_epsilon(self.batch_epsilon).init(device),
            head: LinearConfig::new(from, self.classes).init(device),
            config: self.clone(),
        })
    }

    fn downsample(&self, stage: usize, [from, to]: [usize; 2], device: &Device) -> Result<Downsample> {
        let conv = |from, to| -> Result<ConvNorm> {
            ConvNormConfig { bias: true, epsilon: self.batch_epsilon, ..ConvNormConfig::new(from, to, 3, 2) }.init(device)
        };
        let norm = |width| BatchNormConfig::new(width).with_epsilon(self.batch_epsilon).init(device);
        Ok(match (self.layout, stage) {
            (BiFormerLayout::Overlapping, 0) if to < 2 => return Err(Error::argument(OP, "widths", "at least 2 in the first stage", to)),
            (BiFormerLayout::Overlapping, 0) => Downsample::Convs(vec![conv(from, to / 2)?, conv(to / 2, to)?]),
            (BiFormerLayout::Overlapping, _) => Downsample::Convs(vec![conv(from, to)?]),
            (BiFormerLayout::Patches, 0) => Downsample::patches(PatchMerge::new(from, to, 4, device)?, norm(to)),
            (BiFormerLayout::Patches, _) => Downsample::merging(norm(from), PatchMerge::new(from, to, 2, device)?),
        })
    }

    fn block(&self, stage: usize, width: usize, device: &Device) -> Result<VisionBlock<BiFormerAttention>> {
        let block = VisionBlockConfig {
            d_ff: (self.mlp_ratio * width as f64) as usize,
            norm_epsilon: self.norm_epsilon,
            conv: (self.conv > 0).then_some(self.conv),
            channel_conv: None,
            layer_scale: None,
        };
        let mixer = match self.topk[stage] {
            0 => {
                let config = FullAttentionConfig { heads: self.full_heads, local: self.local, qkv_bias: false };
                BiFormerAttention::Full(config.init(width, device)?)
            }
            topk => {
                if self.head_width == 0 || !width.is_multiple_of(self.head_width) {
                    return Err(Error::argument(OP, "head_width", format!("a divisor of the width {width}"), self.head_width));
                }
                let config = BiLevelRoutingConfig {
                    regions: self.regions,
                    topk,
                    scale: self.scale,
                    local: self.local,
                    padding: self.padding,
                    ..BiLevelRoutingConfig::new(width / self.head_width)
                };
                BiFormerAttention::Routed(config.init(width, device)?)
            }
        };
        block.init(width, mixer, device)
    }
}
