use burn::{
    module::{Initializer, Module, Param},
    tensor::{Device, Tensor},
};

use super::{conv::convolve, pad_map};
use crate::{Error, Result};

/// A convolution whose filters of P × P tokens lie side by side, as of patch embeddings and merging: each patch of a map becomes one token.
/// Maps whose sides are not multiples of P have zeros to the right and below.
#[derive(Module, Debug)]
pub struct PatchMerge {
    /// The filters. `[C', C, P, P]`
    pub weight: Param<Tensor<4>>,
    /// `[C']`
    pub bias: Param<Tensor<1>>,
}

impl PatchMerge {
    /// From `from` to `to` channels, with weights and biases from U(−1/√(C P²), 1/√(C P²)), as PyTorch draws them.
    ///
    /// # Errors
    /// If a size is 0.
    pub fn new(from: usize, to: usize, side: usize, device: &Device) -> Result<Self> {
        for (arg, size) in [("from", from), ("to", to), ("side", side)] {
            if size == 0 {
                return Err(Error::argument("patch_merge", arg, "at least 1", size));
            }
        }
        let bound = 1.0 / ((from * side * side) as f64).sqrt();
        let draw = Initializer::Uniform { min: -bound, max: bound };
        Ok(Self { weight: draw.init([to, from, side, side], device), bias: draw.init([to], device) })
    }

    /// Merges the patches of maps.
    ///
    /// # Shapes
    /// - `x`: `[B, Y, X, C]`; output: `[B, ⌈Y/P⌉, ⌈X/P⌉, C']`
    ///
    /// # Panics
    /// If the channels are others.
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let [_, _, side, _] = self.weight.dims();
        convolve(pad_map(x, [side; 2]), self.weight.val(), Some(self.bias.val()), [side, 0])
    }
}
