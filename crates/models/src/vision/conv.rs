use burn::{
    module::{Module, Param},
    nn::{
        BatchNorm, BatchNormConfig, Initializer, PaddingConfig2d,
        conv::{Conv2d, Conv2dConfig},
    },
    tensor::{Device, Tensor, module::max_pool2d, ops::MaxPoolOptions},
};
use regard::{
    Error, Result,
    blocks::{self, batch_norm},
};

/// A convolution of maps, by [`regard::blocks::convolve`] unless its channels are in groups or its filters are not square.
///
/// # Shapes
/// - `x`: `[B, Y, X, C]`; output: `[B, Y', X', C']`, as the convolution says
pub fn convolve(conv: &Conv2d, x: Tensor<4>) -> Tensor<4> {
    let (square, dense) = (|[down, across]: [usize; 2]| down == across, (conv.groups, conv.dilation) == (1, [1, 1]));
    let padding = match conv.padding {
        PaddingConfig2d::Valid => Some(0),
        PaddingConfig2d::Explicit(top, left, bottom, right) if [left, bottom, right] == [top; 3] => Some(top),
        _ => None,
    };
    match padding {
        Some(padding) if dense && square(conv.kernel_size) && square(conv.stride) => {
            blocks::convolve(x, conv.weight.val(), conv.bias.as_ref().map(Param::val), [conv.stride[0], padding])
        }
        _ => conv.forward(x.permute([0, 3, 1, 2])).permute([0, 2, 3, 1]),
    }
}

/// The largest of each 3 × 3 tokens around every second one.
///
/// # Shapes
/// - `x`: `[B, Y, X, C]`; output: `[B, ⌈Y/2⌉, ⌈X/2⌉, C]`
pub fn max_pool(x: Tensor<4>) -> Tensor<4> {
    let options = MaxPoolOptions::new([3, 3]).with_stride([2, 2]).with_padding([1, 1]);
    max_pool2d(x.permute([0, 3, 1, 2]), options).permute([0, 2, 3, 1])
}

/// Configuration of a [`ConvNorm`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ConvNormConfig {
    /// Channels of the input and of the output.
    pub channels: [usize; 2],
    /// Rows and columns of a filter, odd.
    pub kernel: usize,
    /// Distance of neighbouring outputs.
    pub stride: usize,
    /// Parts of the channels that do not see one another.
    pub groups: usize,
    /// Whether the convolution has biases.
    pub bias: bool,
    /// ε of the norm.
    pub epsilon: f64,
}

impl ConvNormConfig {
    /// Filters of `kernel` × `kernel` tokens around every `stride`-th one, without biases, ε = 1e-5.
    pub fn new(from: usize, to: usize, kernel: usize, stride: usize) -> Self {
        Self { channels: [from, to], kernel, stride, groups: 1, bias: false, epsilon: 1e-5 }
    }

    /// The convolution with weights from N(0, 2/(k² C'/groups)), as for rectifiers, or PyTorch's usual values where it has biases; a norm of
    /// γ = 1.
    ///
    /// # Errors
    /// If a size is 0, the filters have no centre, the groups do not divide the channels, or ε is not positive.
    pub fn init(&self, device: &Device) -> Result<ConvNorm> {
        const OP: &str = "conv_norm";
        let [from, to] = self.channels;
        for (arg, size) in [("channels", from.min(to)), ("stride", self.stride), ("groups", self.groups)] {
            if size == 0 {
                return Err(Error::argument(OP, arg, "at least 1", size));
            }
        }
        if self.kernel.is_multiple_of(2) {
            return Err(Error::argument(OP, "kernel", "odd", self.kernel));
        }
        if !from.is_multiple_of(self.groups) || !to.is_multiple_of(self.groups) {
            return Err(Error::argument(OP, "groups", format!("a divisor of {from} and {to} channels"), self.groups));
        }
        if !(self.epsilon > 0.0 && self.epsilon.is_finite()) {
            return Err(Error::argument(OP, "epsilon", "positive and finite", self.epsilon));
        }
        let half = self.kernel / 2;
        let padding = if half == 0 { PaddingConfig2d::Valid } else { PaddingConfig2d::Explicit(half, half, half, half) };
        let conv = Conv2dConfig::new(self.channels, [self.kernel; 2])
            .with_stride([self.stride; 2])
            .with_groups(self.groups)
            .with_padding(padding)
            .with_bias(self.bias);
        let conv = if self.bias {
            conv
        } else {
            conv.with_initializer(Initializer::KaimingNormal { gain: std::f64::consts::SQRT_2, fan_out_only: true })
        };
        Ok(ConvNorm { conv: conv.init(device), bn: BatchNormConfig::new(to).with_epsilon(self.epsilon).init(device) })
    }
}

/// A convolution and the batch norm behind it.
///
/// The norm uses the statistics of the batch, and updates its own, on a device with automatic differentiation, unless
/// [they are frozen](super::freeze_statistics).
#[derive(Module, Debug)]
pub struct ConvNorm {
    /// The convolution.
    pub conv: Conv2d,
    /// The norm.
    pub bn: BatchNorm,
}

impl ConvNorm {
    /// Transforms maps.
    ///
    /// # Shapes
    /// - `x`: `[B, Y, X, C]`; output: `[B, ⌈Y/s⌉, ⌈X/s⌉, C']`
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        batch_norm(&self.bn, convolve(&self.conv, x))
    }

    /// Multiply-adds for one image whose map it makes one of Y × X tokens; of that map.
    pub fn multiply_adds(&self, output: [usize; 2]) -> f64 {
        super::conv_multiply_adds(&self.conv, output)
    }
}
