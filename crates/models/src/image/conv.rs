use burn::{
    module::Module,
    nn::{
        BatchNorm, BatchNormConfig, PaddingConfig2d,
        conv::{Conv2d, Conv2dConfig},
    },
    tensor::{Device, Tensor, activation::relu},
};
use regard::{Error, Result, blocks::batch_norm};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::vision::convolve;

/// Configuration of a [`ConvBlock`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename = "conv")]
pub struct ConvConfig {
    /// Rows and columns of a filter, odd.
    pub kernel: usize,
}

fn three() -> usize {
    3
}

impl Default for ConvConfig {
    fn default() -> Self {
        Self { kernel: three() }
    }
}

impl ConvConfig {
    /// Its `kind` in a file.
    pub const KIND: &'static str = "conv";

    /// Reads a table with a `kind`.
    pub(super) fn read(mut table: Value) -> serde_json::Result<Self> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Fields {
            #[serde(default = "three")]
            kernel: usize,
        }
        if let Value::Object(fields) = &mut table {
            fields.remove("kind");
        }
        Fields::deserialize(table).map(|Fields { kernel }| Self { kernel })
    }

    /// The block of width `d_model` with `inner` channels between the convolutions.
    ///
    /// # Errors
    /// If a size is 0 or the kernel is even.
    pub fn init(&self, d_model: usize, inner: usize, device: &Device) -> Result<ConvBlock> {
        const OP: &str = "conv";
        for (arg, size) in [("d_model", d_model), ("d_ff", inner)] {
            if size == 0 {
                return Err(Error::argument(OP, arg, "at least 1", 0));
            }
        }
        if self.kernel.is_multiple_of(2) {
            return Err(Error::argument(OP, "kernel", "odd", self.kernel));
        }
        let side = self.kernel / 2;
        let conv = |from, to| {
            let config = Conv2dConfig::new([from, to], [self.kernel; 2]).with_bias(false);
            config.with_padding(PaddingConfig2d::Explicit(side, side, side, side)).init(device)
        };
        let norm = |width| BatchNormConfig::new(width).init(device);
        Ok(ConvBlock { norm1: norm(d_model), conv1: conv(d_model, inner), norm2: norm(inner), conv2: conv(inner, d_model) })
    }
}

/// The basic block of a ResNet with its norms in front (He et al. 2016, arXiv 1603.05027, figure 4 (e)):
///
/// ```text
/// x ← x + conv(relu(norm(conv(relu(norm(x))))))
/// ```
///
/// The norms use the statistics of the batch, and update their own, on a device with automatic differentiation.
#[derive(Module, Debug)]
pub struct ConvBlock {
    /// Before the first convolution.
    pub norm1: BatchNorm,
    /// D → inner channels.
    pub conv1: Conv2d,
    /// Before the second.
    pub norm2: BatchNorm,
    /// Back to D.
    pub conv2: Conv2d,
}

impl ConvBlock {
    /// Transforms maps.
    ///
    /// # Shapes
    /// - `x`: `[B, Y, X, D]`; output: the same
    ///
    /// # Panics
    /// If the width of `x` is not D.
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let inner = convolve(&self.conv1, relu(batch_norm(&self.norm1, x.clone())));
        x + convolve(&self.conv2, relu(batch_norm(&self.norm2, inner)))
    }

    /// Floating-point operations of the forward pass for one map, a multiply-add counted as two.
    pub(super) fn flops(&self, [y, x]: [usize; 2]) -> f64 {
        let weights = [&self.conv1, &self.conv2].map(|conv| conv.weight.lazy_shape().num_elements());
        2.0 * (y * x) as f64 * weights.iter().sum::<usize>() as f64
    }
}
