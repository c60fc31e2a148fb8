use burn::{
    module::Module,
    nn::conv::{Conv2d, Conv2dConfig},
    tensor::{Device, Tensor, activation},
};
use regard::{Error, Result};
use serde::{Deserialize, Serialize};

use super::{
    hrnet::HrNetConfig,
    pose::{OP, Trunk, TrunkConfig},
};
use crate::vision::{ConvNorm, ConvNormConfig, Resize, conv_multiply_adds, convolve};

/// Configuration of a [`SegmentationNet`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SegmentationConfig {
    /// The trunk.
    pub trunk: TrunkConfig,
    /// Width of the convolution that reads the maps of the trunk side by side; `None` = theirs together.
    #[serde(default)]
    pub width: Option<usize>,
    /// How maps are made as large as the largest, and scores as large as the image.
    #[serde(default)]
    pub resize: Resize,
    /// Number of classes.
    pub classes: usize,
}

impl SegmentationConfig {
    /// The names of the networks for the 19 classes of Cityscapes (`_psa_p`, `_psa_s`: with the released parallel or sequential attention).
    pub const NAMES: [&str; 6] = [
        "segmentation_hrnet_w18",
        "segmentation_hrnet_w18_psa_p",
        "segmentation_hrnet_w18_psa_s",
        "segmentation_hrnet_w48",
        "segmentation_hrnet_w48_psa_p",
        "segmentation_hrnet_w48_psa_s",
    ];

    /// HRNetV2's head on a high-resolution network that ends with all its maps.
    pub fn hrnet(width: usize, classes: usize) -> Self {
        let resize = Resize::Bilinear;
        Self { trunk: TrunkConfig::HrNet(HrNetConfig { all_maps: true, resize, ..HrNetConfig::new(width) }), width: None, resize, classes }
    }

    /// The network of that name; `None` if there is none.
    pub fn named(name: &str) -> Option<Self> {
        if !Self::NAMES.contains(&name) {
            return None;
        }
        let (base, psa) = super::attention_of(name);
        let config = Self::hrnet(base.strip_prefix("segmentation_hrnet_w")?.parse().ok()?, 19);
        Some(Self { trunk: config.trunk.with_psa(psa), ..config })
    }

    /// The network; its weights are drawn when they are first used.
    ///
    /// # Errors
    /// If a number is 0, or the trunk's configuration is invalid.
    pub fn init(&self, device: &Device) -> Result<SegmentationNet> {
        for (arg, size) in [("classes", self.classes), ("width", self.width.unwrap_or(1))] {
            if size == 0 {
                return Err(Error::argument(OP, arg, "at least 1", size));
            }
        }
        let trunk = self.trunk.init(device)?;
        let together: usize = self.trunk.widths().iter().sum();
        let width = self.width.unwrap_or(together);
        // Behind a norm a bias does nothing; it is there in the published weights.
        let joint = ConvNormConfig { bias: true, ..ConvNormConfig::new(together, width, 1, 1) }.init(device)?;
        let last = Conv2dConfig::new([width, self.classes], [1, 1]).init(device);
        Ok(SegmentationNet { trunk, joint, last, resize: self.resize })
    }
}

/// A class for each pixel: see the [module's page](super).
#[derive(Module, Debug)]
pub struct SegmentationNet {
    /// The trunk.
    pub trunk: Trunk,
    /// From its maps side by side, of the sides of the largest.
    pub joint: ConvNorm,
    /// To the classes.
    pub last: Conv2d,
    #[module(skip)]
    resize: Resize,
}

impl SegmentationNet {
    /// Logits of the classes of each pixel.
    ///
    /// # Shapes
    /// - `images`: `[B, 3, Y, X]`; output: `[B, classes, Y, X]`
    ///
    /// # Errors
    /// If the images have other channels or no pixels.
    pub fn forward(&self, images: Tensor<4>) -> Result<Tensor<4>> {
        let [_, _, rows, columns] = images.dims();
        let maps = self.trunk.features(images)?;
        let [_, y, x, _] =
            maps.first().map(Tensor::dims).ok_or_else(|| Error::argument(OP, "trunk", "one that ends with a map", "none"))?;
        let maps = maps.into_iter().map(|map| self.resize.apply(map, [y, x])).collect();
        let joint = activation::relu(self.joint.forward(Tensor::cat(maps, 3)));
        Ok(self.resize.apply(convolve(&self.last, joint), [rows, columns]).permute([0, 3, 1, 2]))
    }

    /// Multiply-adds of a forward pass for one image `[Y, X]`: convolutions and attention, without norms, activations and resizing.
    pub fn multiply_adds(&self, image: [usize; 2]) -> f64 {
        let (sum, maps) = self.trunk.cost(image);
        let largest = maps.first().copied().unwrap_or_default();
        sum + self.joint.multiply_adds(largest) + conv_multiply_adds(&self.last, largest)
    }
}
