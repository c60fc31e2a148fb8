use burn::{
    module::Module,
    nn::{
        BatchNorm, BatchNormConfig, Initializer,
        conv::{Conv2d, Conv2dConfig, ConvTranspose2d, ConvTranspose2dConfig},
    },
    tensor::{Device, Tensor, activation},
};
use regard::{Error, Result, blocks::batch_norm, polarized_attention::PolarizedAttentionConfig};
use serde::{Deserialize, Serialize};

use super::hrnet::{HrNet, HrNetConfig};
use crate::{
    resnet::{ResNet, ResNetConfig},
    vision::{conv_multiply_adds, convolve},
};

pub(super) const OP: &str = "psa";

/// The trunk of a network for dense tasks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TrunkConfig {
    /// A residual network, of which the classifier is left out.
    ResNet(ResNetConfig),
    /// A high-resolution network.
    HrNet(HrNetConfig),
}

impl TrunkConfig {
    /// The trunk.
    ///
    /// # Errors
    /// If its configuration is invalid.
    pub fn init(&self, device: &Device) -> Result<Trunk> {
        Ok(match self {
            Self::ResNet(config) => Trunk::ResNet(ResNetConfig { classes: 0, ..config.clone() }.init(device)?),
            Self::HrNet(config) => Trunk::HrNet(config.init(device)?),
        })
    }

    /// The widths of its maps.
    pub fn widths(&self) -> Vec<usize> {
        match self {
            Self::ResNet(config) => config.widths(),
            Self::HrNet(config) => config.widths(),
        }
    }

    /// The same trunk with attention, or without.
    #[must_use]
    pub fn with_psa(mut self, psa: Option<PolarizedAttentionConfig>) -> Self {
        match &mut self {
            Self::ResNet(config) => config.psa = psa,
            Self::HrNet(config) => config.psa = psa,
        }
        self
    }

    /// Its attention, if it has one.
    pub fn psa(&self) -> Option<PolarizedAttentionConfig> {
        match self {
            Self::ResNet(config) => config.psa,
            Self::HrNet(config) => config.psa,
        }
    }
}

/// The trunk of a network for dense tasks.
#[derive(Module, Debug)]
#[allow(clippy::large_enum_variant, reason = "one per network")]
pub enum Trunk {
    /// A residual network.
    ResNet(ResNet),
    /// A high-resolution network.
    HrNet(HrNet),
}

impl Trunk {
    /// Its maps: `[B, 3, Y, X]` → `[B, Y', X', width]`
    ///
    /// # Errors
    /// If the images have other channels or no pixels.
    pub fn features(&self, images: Tensor<4>) -> Result<Vec<Tensor<4>>> {
        match self {
            Self::ResNet(trunk) => trunk.features(images),
            Self::HrNet(trunk) => trunk.features(images),
        }
    }

    /// Multiply-adds for one image `[Y, X]`, and the sides of the maps.
    pub(super) fn cost(&self, image: [usize; 2]) -> (f64, Vec<[usize; 2]>) {
        match self {
            Self::ResNet(trunk) => trunk.cost(image),
            Self::HrNet(trunk) => (trunk.multiply_adds(image), HrNet::maps(image)),
        }
    }
}

/// A transposed convolution and the batch norm behind it.
#[derive(Module, Debug)]
pub struct DeconvNorm {
    /// The transposed convolution.
    pub conv: ConvTranspose2d,
    /// The norm.
    pub bn: BatchNorm,
}

impl DeconvNorm {
    /// The convolution, without biases, and a norm of γ = 1.
    pub(super) fn new(config: &ConvTranspose2dConfig, epsilon: f64, device: &Device) -> Self {
        let bn = BatchNormConfig::new(config.channels[1]).with_epsilon(epsilon).init(device);
        Self { conv: config.clone().with_bias(false).init(device), bn }
    }

    /// Transforms maps: larger by the stride.
    ///
    /// # Shapes
    /// - `x`: `[B, Y, X, D]`; output: `[B, Y', X', D']`
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        batch_norm(&self.bn, self.conv.forward(x.permute([0, 3, 1, 2])).permute([0, 2, 3, 1]))
    }

    /// Multiply-adds for one map of `input` sides.
    fn multiply_adds(&self, input: [usize; 2]) -> f64 {
        (self.conv.weight.lazy_shape().num_elements() * input[0] * input[1]) as f64
    }
}

/// Configuration of a [`PoseNet`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PoseConfig {
    /// The trunk.
    pub trunk: TrunkConfig,
    /// Widths of transposed convolutions of 4 × 4 tokens with a stride of 2 behind the trunk's smallest map; with none, its largest map is read.
    #[serde(default)]
    pub deconvs: Vec<usize>,
    /// Number of keypoints K.
    pub keypoints: usize,
}

impl PoseConfig {
    /// The names of the published networks, each without attention (`_psa_p`, `_psa_s`: with the released parallel or sequential one).
    pub const NAMES: [&str; 15] = [
        "pose_resnet50",
        "pose_resnet50_psa_p",
        "pose_resnet50_psa_s",
        "pose_resnet101",
        "pose_resnet101_psa_p",
        "pose_resnet101_psa_s",
        "pose_resnet152",
        "pose_resnet152_psa_p",
        "pose_resnet152_psa_s",
        "pose_hrnet_w32",
        "pose_hrnet_w32_psa_p",
        "pose_hrnet_w32_psa_s",
        "pose_hrnet_w48",
        "pose_hrnet_w48_psa_p",
        "pose_hrnet_w48_psa_s",
    ];

    /// The network of that name for the 17 keypoints of COCO; `None` if there is none.
    pub fn named(name: &str) -> Option<Self> {
        if !Self::NAMES.contains(&name) {
            return None;
        }
        let (base, psa) = super::attention_of(name);
        let base = base.strip_prefix("pose_")?;
        let (trunk, deconvs) = match ResNetConfig::named(base) {
            Some(config) => (TrunkConfig::ResNet(config), vec![256; 3]),
            None => (TrunkConfig::HrNet(HrNetConfig::new(base.strip_prefix("hrnet_w")?.parse().ok()?)), Vec::new()),
        };
        Some(Self { trunk: trunk.with_psa(psa), deconvs, keypoints: 17 })
    }

    /// The network; its weights are drawn when they are first used.
    ///
    /// # Errors
    /// If a number is 0, or the trunk's configuration is invalid.
    pub fn init(&self, device: &Device) -> Result<PoseNet> {
        let deconvs = self.deconvs.iter().min().copied().unwrap_or(1);
        for (arg, size) in [("keypoints", self.keypoints), ("deconvs", deconvs)] {
            if size == 0 {
                return Err(Error::argument(OP, arg, "at least 1", size));
            }
        }
        let trunk = self.trunk.init(device)?;
        let widths = self.trunk.widths();
        let read = if self.deconvs.is_empty() { widths.first() } else { widths.last() };
        let mut from = read.copied().unwrap_or_default();
        let small = || Initializer::Normal { mean: 0.0, std: 0.001 };
        let mut deconv_layers = Vec::new();
        for &to in &self.deconvs {
            let config = ConvTranspose2dConfig::new([from, to], [4, 4]).with_stride([2, 2]).with_padding([1, 1]);
            deconv_layers.push(DeconvNorm::new(&config.with_initializer(small()), 1e-5, device));
            from = to;
        }
        // No bias is drawn: it starts from 0.
        let last = Conv2dConfig::new([from, self.keypoints], [1, 1]).with_initializer(small()).with_bias(false).init(device);
        let last = Conv2d { bias: Some(Initializer::Zeros.init([self.keypoints], device)), ..last };
        Ok(PoseNet { trunk, deconv_layers, last })
    }
}

/// Heatmaps of keypoints: see the [module's page](super).
#[derive(Module, Debug)]
pub struct PoseNet {
    /// The trunk.
    pub trunk: Trunk,
    /// What makes the trunk's smallest map larger, if that is read.
    pub deconv_layers: Vec<DeconvNorm>,
    /// To a heatmap for each keypoint.
    pub last: Conv2d,
}

impl PoseNet {
    /// Heatmaps, at a 4th of the image's sides with the published trunks.
    ///
    /// # Shapes
    /// - `images`: `[B, 3, Y, X]`; output: `[B, K, Y', X']`
    ///
    /// # Errors
    /// If the images have other channels or no pixels.
    pub fn forward(&self, images: Tensor<4>) -> Result<Tensor<4>> {
        let mut maps = self.trunk.features(images)?;
        let map = if self.deconv_layers.is_empty() { maps.drain(..).next() } else { maps.pop() };
        let map = map.ok_or_else(|| Error::argument(OP, "trunk", "one that ends with a map", "none"))?;
        let map = self.deconv_layers.iter().fold(map, |x, layer| activation::relu(layer.forward(x)));
        Ok(convolve(&self.last, map).permute([0, 3, 1, 2]))
    }

    /// Multiply-adds of a forward pass for one image `[Y, X]`: convolutions and attention, without norms and activations.
    pub fn multiply_adds(&self, image: [usize; 2]) -> f64 {
        let (mut sum, maps) = self.trunk.cost(image);
        let read = if self.deconv_layers.is_empty() { maps.first() } else { maps.last() };
        let mut map = read.copied().unwrap_or_default();
        for layer in &self.deconv_layers {
            sum += layer.multiply_adds(map);
            map = map.map(|side| 2 * side);
        }
        sum + conv_multiply_adds(&self.last, map)
    }
}
