use burn::{nn::LinearConfig, tensor::Device};
use regard::{Error, Result, polarized_attention::PolarizedAttentionConfig};
use serde::{Deserialize, Serialize};

use super::{block::ResNetBlockConfig, model::ResNet};
use crate::vision::ConvNormConfig;

pub(super) const OP: &str = "resnet";

const MOST_STAGES: usize = 8;

/// What a residual block is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ResNetBlockKind {
    /// Two convolutions of 3 × 3 tokens.
    Basic,
    /// One of 3 × 3 tokens between two of single ones, the last of which gives four times as many channels. The one in the middle has the
    /// stride.
    Bottleneck,
}

impl ResNetBlockKind {
    /// Channels of the output for each inner one.
    pub(crate) fn expansion(self) -> usize {
        match self {
            Self::Basic => 1,
            Self::Bottleneck => 4,
        }
    }
}

/// The first convolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ResNetStem {
    /// 7 × 7 pixels with a stride of 2, then the largest of 3 × 3 with a stride of 2.
    ImageNet,
    /// 3 × 3 pixels, for small images.
    Cifar,
}

/// What a block adds to its branch where the output has another shape than the input.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Shortcut {
    /// A convolution of single tokens and a norm.
    Projection,
    /// Every so many-th token, with zeros for the new channels.
    Padding,
}

/// Configuration of a [`ResNet`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ResNetConfig {
    /// Channels of an image.
    #[serde(default = "three")]
    pub channels: usize,
    /// The first convolution.
    pub stem: ResNetStem,
    /// What a block is made of.
    pub block: ResNetBlockKind,
    /// Inner width of the first stage; each further one is twice as wide.
    pub width: usize,
    /// Number of blocks of each stage.
    pub depths: Vec<usize>,
    /// What a block adds where shapes differ.
    pub shortcut: Shortcut,
    /// Polarized self-attention in all blocks, behind the first convolution of 3 × 3 tokens; `None` = there is none.
    #[serde(default)]
    pub psa: Option<PolarizedAttentionConfig>,
    /// Number of classes; 0 = no classifier. A file may leave it out: training takes it from the images.
    #[serde(default)]
    pub classes: usize,
}

fn three() -> usize {
    3
}

impl ResNetConfig {
    /// The names that [`named`](Self::named) knows.
    pub const NAMES: &'static [&'static str] =
        &["resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "resnet20", "resnet32", "resnet44", "resnet56", "resnet110"];

    /// A network for ImageNet with stages of these depths.
    pub fn imagenet(block: ResNetBlockKind, depths: impl Into<Vec<usize>>, classes: usize) -> Self {
        let (stem, shortcut) = (ResNetStem::ImageNet, Shortcut::Projection);
        Self { channels: three(), stem, block, width: 64, depths: depths.into(), shortcut, psa: None, classes }
    }

    /// A network for images of 32 × 32 pixels with three stages of `depth` blocks: 6 depth + 2 layers.
    pub fn cifar(depth: usize, classes: usize) -> Self {
        let (stem, shortcut) = (ResNetStem::Cifar, Shortcut::Padding);
        Self { channels: three(), stem, block: ResNetBlockKind::Basic, width: 16, depths: vec![depth; 3], shortcut, psa: None, classes }
    }

    /// The network of that name, `None` if there is none: see the table on the [module's page](super).
    pub fn named(name: &str) -> Option<Self> {
        use ResNetBlockKind::{Basic, Bottleneck};
        Some(match name {
            "resnet18" => Self::imagenet(Basic, [2, 2, 2, 2], 1000),
            "resnet34" => Self::imagenet(Basic, [3, 4, 6, 3], 1000),
            "resnet50" => Self::imagenet(Bottleneck, [3, 4, 6, 3], 1000),
            "resnet101" => Self::imagenet(Bottleneck, [3, 4, 23, 3], 1000),
            "resnet152" => Self::imagenet(Bottleneck, [3, 8, 36, 3], 1000),
            "resnet20" => Self::cifar(3, 10),
            "resnet32" => Self::cifar(5, 10),
            "resnet44" => Self::cifar(7, 10),
            "resnet56" => Self::cifar(9, 10),
            "resnet110" => Self::cifar(18, 10),
            _ => return None,
        })
    }

    /// The network: convolutions from N(0, 2/(k² C')), norms with γ = 1; weights are drawn when they are first used.
    ///
    /// # Errors
    /// If a size is 0, there are more than 8 stages, or the attention does not fit a width.
    pub fn init(&self, device: &Device) -> Result<ResNet> {
        let sizes = [("channels", self.channels), ("width", self.width), ("depths", self.depths.iter().copied().min().unwrap_or_default())];
        for (arg, size) in sizes {
            if size == 0 {
                return Err(Error::argument(OP, arg, "at least 1", size));
            }
        }
        // Statistics of norms take memory at once, and each stage twice as much.
        if self.depths.len() > MOST_STAGES {
            return Err(Error::argument(OP, "depths", format!("at most {MOST_STAGES} stages"), self.depths.len()));
        }
        let stem = match self.stem {
            ResNetStem::ImageNet => ConvNormConfig::new(self.channels, self.width, 7, 2),
            ResNetStem::Cifar => ConvNormConfig::new(self.channels, self.width, 3, 1),
        };
        let block = ResNetBlockConfig { shortcut: self.shortcut, psa: self.psa, ..ResNetBlockConfig::new(self.block) };
        let (mut from, mut inner, mut stages) = (self.width, self.width, Vec::with_capacity(self.depths.len()));
        for (stage, &depth) in self.depths.iter().enumerate() {
            if stage > 0 {
                inner *= 2;
            }
            stages.push(block.stage(from, inner, if stage > 0 { 2 } else { 1 }, depth, device)?);
            from = inner * self.block.expansion();
        }
        Ok(ResNet {
            stem: stem.init(device)?,
            stages,
            head: (self.classes > 0).then(|| LinearConfig::new(from, self.classes).init(device)),
            config: self.clone(),
        })
    }

    /// Widths of the maps that the stages end with.
    pub(crate) fn widths(&self) -> Vec<usize> {
        (0..self.depths.len()).map(|stage| (self.width * self.block.expansion()) << stage).collect()
    }
}
