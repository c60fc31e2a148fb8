use burn::{
    module::Module,
    nn::{Linear, LinearConfig},
    tensor::{Device, Tensor},
};
use regard::{
    Error, Result,
    blocks::{Conv, ConvConfig, Norm, NormKind, pad_map, project},
};

use super::config::{NatLayout, OP};

/// From images to the tokens of the first level: two overlapping convolutions that halve the sides, or one of patches side by side, and a
/// norm.
#[derive(Module, Debug)]
pub struct NatStem {
    /// The convolutions.
    pub proj: Vec<Conv>,
    /// The norm behind them.
    pub norm: Norm,
    /// What the sides of images are padded to multiples of.
    side: usize,
}

impl NatStem {
    pub(super) fn new(layout: NatLayout, [from, to]: [usize; 2], epsilon: f64, device: &Device) -> Result<Self> {
        let (convs, side) = match layout {
            NatLayout::Overlapping if to < 2 => return Err(Error::argument(OP, "d_model", "at least 2", to)),
            NatLayout::Overlapping => (vec![ConvConfig::halving(from, to / 2, 3), ConvConfig::halving(to / 2, to, 3)], 1),
            NatLayout::Patches(0) => return Err(Error::argument(OP, "layout.patches", "at least 1", 0)),
            NatLayout::Patches(side) => (vec![ConvConfig { from, to, kernel: side, stride: side, padding: 0, bias: true }], side),
        };
        let proj = convs.iter().map(|conv| conv.init(device)).collect::<Result<_>>()?;
        Ok(Self { proj, norm: NormKind::Layer.init(to, epsilon, device), side })
    }

    /// The tokens of maps of pixels.
    ///
    /// # Shapes
    /// - `x`: `[B, Y, X, C]`; output: `[B, Y', X', D]`
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let x = pad_map(x, [self.side; 2]);
        self.norm.forward(self.proj.iter().fold(x, |x, conv| conv.forward(x)))
    }

    /// The sides of the map that it makes, and operations for it.
    pub(super) fn cost(&self, image: [usize; 2]) -> ([usize; 2], f64) {
        let padded = image.map(|length| length.next_multiple_of(self.side));
        self.proj.iter().fold((padded, 0.0), |(map, sum), conv| (conv.output(map), sum + conv.flops(map)))
    }
}

/// From the tokens of a level to half as many rows and columns of twice the width.
#[derive(Module, Debug)]
pub enum NatDownsample {
    /// By a convolution that overlaps.
    Conv(ConvDownsampler),
    /// By merging tokens.
    Merge(PatchMerging),
}

/// A convolution of 3 × 3 tokens without biases, and a norm.
#[derive(Module, Debug)]
pub struct ConvDownsampler {
    /// The convolution.
    pub reduction: Conv,
    /// The norm behind it.
    pub norm: Norm,
}

/// The numbers of 2 × 2 tokens side by side, those of a column one after another, a norm, and a projection without biases. A row or column
/// that is left over is merged with zeros.
#[derive(Module, Debug)]
pub struct PatchMerging {
    /// The norm.
    pub norm: Norm,
    /// The projection.
    pub reduction: Linear,
}

impl NatDownsample {
    pub(super) fn new(layout: NatLayout, width: usize, epsilon: f64, device: &Device) -> Result<Self> {
        Ok(match layout {
            NatLayout::Overlapping => {
                let reduction = ConvConfig { bias: false, ..ConvConfig::halving(width, 2 * width, 3) }.init(device)?;
                Self::Conv(ConvDownsampler { reduction, norm: NormKind::Layer.init(2 * width, epsilon, device) })
            }
            NatLayout::Patches(_) => Self::Merge(PatchMerging {
                norm: NormKind::Layer.init(4 * width, epsilon, device),
                reduction: LinearConfig::new(4 * width, 2 * width).with_bias(false).init(device),
            }),
        })
    }

    /// Makes maps smaller.
    ///
    /// # Shapes
    /// - `x`: `[B, Y, X, D]`; output: `[B, ⌈Y/2⌉, ⌈X/2⌉, 2 D]`
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        match self {
            Self::Conv(ConvDownsampler { reduction, norm }) => norm.forward(reduction.forward(x)),
            Self::Merge(PatchMerging { norm, reduction }) => {
                let x = pad_map(x, [2; 2]);
                let [b, y, columns, d] = x.dims();
                let x = x.reshape([b, y / 2, 2, columns / 2, 2, d]).permute([0, 1, 3, 4, 2, 5]);
                project(reduction, norm.forward(x.reshape([b, y / 2, columns / 2, 4 * d])))
            }
        }
    }

    /// Operations for a map, as [`NatStem::cost`].
    pub(super) fn cost(&self, map: [usize; 2]) -> ([usize; 2], f64) {
        let smaller = map.map(|length| length.div_ceil(2));
        match self {
            Self::Conv(ConvDownsampler { reduction, .. }) => (smaller, reduction.flops(map)),
            Self::Merge(PatchMerging { reduction, .. }) => {
                (smaller, (2 * reduction.weight.lazy_shape().num_elements() * smaller[0] * smaller[1]) as f64)
            }
        }
    }
}
