use burn::{
    module::Module,
    nn::{
        BatchNorm, BatchNormConfig, PaddingConfig2d,
        conv::{Conv2d, Conv2dConfig},
    },
    tensor::{Device, Tensor, activation::relu},
};
use regard::{Error, Result, blocks::PatchMerge};
use serde::{Deserialize, Serialize};

/// What makes tokens of pixels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StemKind {
    /// A linear map of each patch.
    #[default]
    Patch,
    /// Convolutions of 3 × 3 pixels that halve the image until a token is a patch (Xiao et al. 2021, arXiv 2106.14881).
    Conv,
}

impl StemKind {
    /// The stem from images of `channels` to tokens of width `d_model`, one for each patch of side `patch`.
    ///
    /// # Errors
    /// If a size is 0, or convolutions cannot halve down to the patch.
    pub(super) fn init(self, channels: usize, d_model: usize, patch: usize, device: &Device) -> Result<Stem> {
        if self == Self::Patch {
            return PatchMerge::new(channels, d_model, patch, device).map(Stem::Patch);
        }
        if !patch.is_power_of_two() {
            return Err(Error::argument(super::config::OP, "patch", "a power of two for a stem of convolutions", patch));
        }
        // One convolution at least; without halving it keeps the pixels.
        let halvings = patch.ilog2();
        let count = halvings.max(1);
        let stride = if halvings == 0 { 1 } else { 2 };
        let mut from = channels;
        let layers = (0..count).map(|index| {
            let to = (d_model >> (count - 1 - index)).max(1);
            let config = Conv2dConfig::new([from, to], [3; 2]).with_stride([stride; 2]).with_bias(false);
            from = to;
            ConvNorm {
                conv: config.with_padding(PaddingConfig2d::Explicit(1, 1, 1, 1)).init(device),
                norm: BatchNormConfig::new(to).init(device),
            }
        });
        let layers = layers.collect();
        Ok(Stem::Conv(ConvStem { layers, proj: Conv2dConfig::new([d_model, d_model], [1; 2]).init(device) }))
    }
}

/// From pixels to tokens.
#[derive(Module, Debug)]
#[allow(clippy::large_enum_variant, reason = "one per network")]
pub enum Stem {
    /// A linear map of each patch.
    Patch(PatchMerge),
    /// Convolutions.
    Conv(ConvStem),
}

/// Convolutions with norms and rectifiers, and a linear map of each token.
#[derive(Module, Debug)]
pub struct ConvStem {
    /// The convolutions.
    pub layers: Vec<ConvNorm>,
    /// The linear map.
    pub proj: Conv2d,
}

/// A convolution and the norm behind it.
#[derive(Module, Debug)]
pub struct ConvNorm {
    /// The convolution.
    pub conv: Conv2d,
    /// The norm.
    pub norm: BatchNorm,
}

impl Stem {
    /// Tokens of images.
    ///
    /// # Shapes
    /// - `images`: `[B, C, Y, X]`; output: `[B, ⌈Y/P⌉, ⌈X/P⌉, D]`
    ///
    /// # Panics
    /// If the channels are others.
    pub fn forward(&self, images: Tensor<4>) -> Tensor<4> {
        match self {
            Self::Patch(patches) => patches.forward(images.permute([0, 2, 3, 1])),
            Self::Conv(stem) => {
                let layer = |x, layer: &ConvNorm| relu(layer.norm.forward(layer.conv.forward(x)));
                stem.proj.forward(stem.layers.iter().fold(images, layer)).permute([0, 2, 3, 1])
            }
        }
    }

    /// Channels of the images that it takes.
    pub(super) fn channels(&self) -> usize {
        match self {
            Self::Patch(patches) => patches.weight.lazy_shape().dims::<4>()[1],
            Self::Conv(stem) => stem.layers[0].conv.weight.lazy_shape().dims::<4>()[1],
        }
    }
}
