use burn::{
    module::Module,
    nn::{Linear, LinearConfig},
    tensor::{Device, Tensor, activation::relu},
};
use regard::{
    Error, Result,
    blocks::{PatchMerge, project},
};
use serde::{Deserialize, Serialize};

use crate::vision::{ConvNorm, ConvNormConfig};

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
            let config = ConvNormConfig::new(from, to, 3, stride);
            from = to;
            config.init(device)
        });
        let layers = layers.collect::<Result<_>>()?;
        Ok(Stem::Conv(ConvStem { layers, proj: LinearConfig::new(d_model, d_model).init(device) }))
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
    pub proj: Linear,
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
        let map = images.permute([0, 2, 3, 1]);
        match self {
            Self::Patch(patches) => patches.forward(map),
            Self::Conv(stem) => project(&stem.proj, stem.layers.iter().fold(map, |x, layer| relu(layer.forward(x)))),
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
