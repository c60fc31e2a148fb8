use burn::{
    module::Module,
    nn::{
        BatchNormConfig, PaddingConfig2d,
        conv::{Conv2d, Conv2dConfig, ConvTranspose2dConfig},
    },
    tensor::{Device, Tensor, activation},
};
use regard::{Error, Result, polarized_attention::PolarizedAttentionConfig};
use serde::{Deserialize, Serialize};

use super::pose::DeconvNorm;
use crate::{
    resnet::{ResNetBlock, ResNetBlockConfig, ResNetBlockKind},
    vision::{ConvNorm, check_images, convolve, to_map},
};

const OP: &str = "psa_heatmap";

/// A window of a convolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Window {
    /// Rows and columns.
    pub kernel: usize,
    /// Distance of neighbours.
    pub stride: usize,
    /// Rows and columns of zeros around a map.
    pub padding: usize,
}

impl Window {
    fn check(self, arg: &'static str) -> Result<()> {
        let Self { kernel, stride, padding } = self;
        if kernel == 0 || stride == 0 || padding >= kernel {
            let want = "of a kernel and a stride of at least 1 and a padding less than the kernel";
            return Err(Error::argument(OP, arg, want, format!("{self:?}")));
        }
        Ok(())
    }
}

/// Configuration of a [`PsaHeatmap`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PsaHeatmapConfig {
    /// Channels of all layers.
    pub width: usize,
    /// Number of keypoints K.
    pub keypoints: usize,
    /// Number of residual blocks.
    #[serde(default = "one")]
    pub blocks: usize,
    /// Their attention, if they have one.
    #[serde(default)]
    pub psa: Option<PolarizedAttentionConfig>,
    /// The first convolution.
    #[serde(default = "stem")]
    pub stem: Window,
    /// The transposed convolution.
    #[serde(default = "deconv")]
    pub deconv: Window,
    /// ε of the batch norms.
    #[serde(default = "epsilon")]
    pub norm_epsilon: f64,
}

fn one() -> usize {
    1
}

fn stem() -> Window {
    Window { kernel: 3, stride: 2, padding: 1 }
}

fn deconv() -> Window {
    Window { kernel: 4, stride: 2, padding: 1 }
}

fn epsilon() -> f64 {
    1e-5
}

impl PsaHeatmapConfig {
    /// One block, without attention.
    pub fn new(width: usize, keypoints: usize) -> Self {
        Self { width, keypoints, blocks: one(), psa: None, stem: stem(), deconv: deconv(), norm_epsilon: epsilon() }
    }

    /// The network; its weights are drawn when they are first used.
    ///
    /// # Errors
    /// If a number is 0, or the attention does not fit the width.
    pub fn init(&self, device: &Device) -> Result<PsaHeatmap> {
        for (arg, size) in [("width", self.width), ("keypoints", self.keypoints)] {
            if size == 0 {
                return Err(Error::argument(OP, arg, "at least 1", size));
            }
        }
        self.stem.check("stem")?;
        self.deconv.check("deconv")?;
        if !(self.norm_epsilon > 0.0 && self.norm_epsilon.is_finite()) {
            return Err(Error::argument(OP, "norm_epsilon", "positive and finite", self.norm_epsilon));
        }
        let (width, Window { kernel, stride, padding }) = (self.width, self.stem);
        let config = ResNetBlockConfig { psa: self.psa, epsilon: self.norm_epsilon, ..ResNetBlockConfig::new(ResNetBlockKind::Basic) };
        let conv = Conv2dConfig::new([3, width], [kernel; 2])
            .with_stride([stride; 2])
            .with_padding(PaddingConfig2d::Explicit(padding, padding, padding, padding))
            .with_bias(false);
        let deconv = ConvTranspose2dConfig::new([width; 2], [self.deconv.kernel; 2])
            .with_stride([self.deconv.stride; 2])
            .with_padding([self.deconv.padding; 2]);
        Ok(PsaHeatmap {
            stem: ConvNorm { conv: conv.init(device), bn: BatchNormConfig::new(width).with_epsilon(self.norm_epsilon).init(device) },
            blocks: config.stage(width, width, 1, self.blocks, device)?,
            deconv: DeconvNorm::new(&deconv, self.norm_epsilon, device),
            last: Conv2dConfig::new([width, self.keypoints], [1, 1]).init(device),
        })
    }
}

/// A small network for heatmaps: a convolution, residual blocks, a transposed convolution, a heatmap for each keypoint.
#[derive(Module, Debug)]
pub struct PsaHeatmap {
    /// The first convolution and its norm.
    pub stem: ConvNorm,
    /// The blocks.
    pub blocks: Vec<ResNetBlock>,
    /// The transposed convolution and its norm.
    pub deconv: DeconvNorm,
    /// To a heatmap for each keypoint.
    pub last: Conv2d,
}

impl PsaHeatmap {
    /// Heatmaps.
    ///
    /// # Shapes
    /// - `images`: `[B, 3, Y, X]`; output: `[B, K, Y', X']`, with the usual windows of the image's sides, rounded up to even numbers
    ///
    /// # Errors
    /// If the images have other channels or no pixels, or are smaller than the first window.
    pub fn forward(&self, images: Tensor<4>) -> Result<Tensor<4>> {
        check_images(OP, &images, 3)?;
        let [_, _, y, x] = images.dims();
        let PaddingConfig2d::Explicit(padding, ..) = self.stem.conv.padding else {
            return Err(Error::argument(OP, "stem", "of an explicit padding", format!("{:?}", self.stem.conv.padding)));
        };
        if y.min(x) + 2 * padding < self.stem.conv.kernel_size[0] {
            let want = format!("no smaller than the first window of {} pixels", self.stem.conv.kernel_size[0]);
            return Err(Error::argument(OP, "images", want, format!("{:?}", images.dims())));
        }
        let x = activation::relu(self.stem.forward(to_map(images)));
        let x = self.blocks.iter().fold(x, |x, block| block.forward(x));
        let x = activation::relu(self.deconv.forward(x));
        Ok(convolve(&self.last, x).permute([0, 3, 1, 2]))
    }
}
