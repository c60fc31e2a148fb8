use burn::{
    module::{Initializer, Module, Param},
    tensor::{Device, Tensor, module::conv2d, ops::ConvOptions},
};

use super::kernel;
use crate::{Error, Result};

/// Configuration of a [`DepthwiseConv`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DepthwiseConvConfig {
    /// Channels C, each with a filter of its own.
    pub channels: usize,
    /// Rows and columns k of a filter.
    pub kernel: usize,
    /// Distance of neighbouring outputs.
    pub stride: usize,
    /// Rows and columns of zeros around a map.
    pub padding: usize,
    /// Whether there are biases.
    pub bias: bool,
}

impl DepthwiseConvConfig {
    /// Filters of an odd side k over every token of a map, whose size stays; with biases.
    pub fn same(channels: usize, kernel: usize) -> Self {
        Self { channels, kernel, stride: 1, padding: kernel / 2, bias: true }
    }

    /// The convolution with weights from U(−1/k, 1/k), as PyTorch draws them.
    ///
    /// # Errors
    /// If a size is 0, or the padding is not less than a filter.
    pub fn init(&self, device: &Device) -> Result<DepthwiseConv> {
        const OP: &str = "depthwise_conv";
        for (arg, size) in [("channels", self.channels), ("kernel", self.kernel), ("stride", self.stride)] {
            if size == 0 {
                return Err(Error::argument(OP, arg, "at least 1", size));
            }
        }
        if self.padding >= self.kernel {
            return Err(Error::argument(OP, "padding", format!("less than the kernel = {}", self.kernel), self.padding));
        }
        let bound = 1.0 / self.kernel as f64;
        let draw = Initializer::Uniform { min: -bound, max: bound };
        Ok(DepthwiseConv {
            weight: draw.init([self.channels, 1, self.kernel, self.kernel], device),
            bias: self.bias.then(|| draw.init([self.channels], device)),
            stride: self.stride,
            padding: self.padding,
        })
    }
}

/// A convolution of each channel of a map with a filter of its own: `y_ijc = β_c + Σ_uv w_cuv x_(si+u−p)(sj+v−p)c`, zeros outside of the map.
/// On the CPU as one kernel in each direction.
#[derive(Module, Debug)]
pub struct DepthwiseConv {
    /// The filters. `[C, 1, k, k]`
    pub weight: Param<Tensor<4>>,
    /// β, if there are any. `[C]`
    pub bias: Option<Param<Tensor<1>>>,
    stride: usize,
    padding: usize,
}

impl DepthwiseConv {
    /// Convolves maps.
    ///
    /// # Shapes
    /// - `x`: `[B, Y, X, C]`, with its padding no smaller than a filter; output: `[B, (Y + 2p − k)/s + 1, (X + 2p − k)/s + 1, C]`
    ///
    /// # Panics
    /// If the channels are others, or a map is smaller than a filter.
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let (weight, bias) = (self.weight.val(), self.bias.as_ref().map(Param::val));
        let [c, _, kernel, _] = weight.dims();
        let [_, y, columns, channels] = x.dims();
        assert!(channels == c, "{channels} channels for {c} filters");
        assert!(y.min(columns) + 2 * self.padding >= kernel, "a map of {y} × {columns} for filters of side {kernel}");
        if kernel::on_cpu(&x.device(), x.dtype()) && weight.dtype() == x.dtype() && !x.dims().contains(&0) {
            return kernel::depthwise_conv(x, weight, bias, [self.stride, self.padding]);
        }
        let options = ConvOptions::new([self.stride; 2], [self.padding; 2], [1; 2], c);
        conv2d(x.permute([0, 3, 1, 2]), weight, bias, options).permute([0, 2, 3, 1])
    }

    /// Multiply-adds for one output token, counted as two operations each.
    pub(crate) fn flops_per_output(&self) -> usize {
        2 * self.weight.lazy_shape().num_elements()
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{DType, TensorData};
    use regard_testkit::{Draw, Errors, cpu, sweep};

    use super::*;

    /// Output and the gradients of input, filters and biases.
    fn solve(
        config: DepthwiseConvConfig,
        x: &Draw<4>,
        weight: &Draw<4>,
        bias: &Draw<1>,
        cotangent: &Draw<4>,
        dtype: DType,
    ) -> Vec<TensorData> {
        let device = cpu().autodiff();
        let double = dtype == DType::F64;
        let place = |x: &Draw<4>| if double { x.f64(&device) } else { x.f32(&device) }.require_grad();
        let (x, weight) = (place(x), place(weight));
        let bias = if double { bias.f64(&device) } else { bias.f32(&device) }.require_grad();
        let conv = DepthwiseConv {
            weight: Param::from_tensor(weight),
            bias: config.bias.then(|| Param::from_tensor(bias)),
            stride: config.stride,
            padding: config.padding,
        };
        let y = conv.forward(x.clone());
        let grads = (y.clone() * place(cotangent)).sum().backward();
        let bias = conv.bias.map(|bias| bias.val().grad(&grads).unwrap().into_data());
        let weight = conv.weight.val().grad(&grads).unwrap().into_data();
        [y.into_data(), x.grad(&grads).unwrap().into_data(), weight].into_iter().chain(bias).collect()
    }

    #[test]
    fn the_kernel_is_the_convolution_of_tensors_in_f64_over_random_maps() {
        let errors = Errors::new("depthwise convolution", &["y", "dx", "dw", "db"], 1e-5);
        sweep("depthwise convolution", 300, |s| {
            let kernel = s.size(1, 6);
            let (stride, padding) = (s.size(1, 4), s.size(0, kernel - 1));
            let least = kernel.saturating_sub(2 * padding).max(1);
            let (b, channels) = (s.size(1, 2), s.size(1, 40));
            let [y, x] = [s.size(least, least + 12), s.size(least, least + 12)];
            let config = DepthwiseConvConfig { channels, kernel, stride, padding, bias: s.flip() };
            let [out_y, out_x] = [y, x].map(|length| (length + 2 * padding - kernel) / stride + 1);
            let input = s.tensor([b, y, x, channels], -1.0, 1.0);
            let (weight, bias) = (s.tensor([channels, 1, kernel, kernel], -1.0, 1.0), s.tensor([channels], -1.0, 1.0));
            let cotangent = s.tensor([b, out_y, out_x, channels], -1.0, 1.0);
            let solve = |dtype| solve(config, &input, &weight, &bias, &cotangent, dtype);
            errors.add(&format!("{:?} {config:?}", [b, y, x]), solve(DType::F32), solve(DType::F32), solve(DType::F64));
        });
        errors.finish();
    }

    #[test]
    fn sizes_that_make_no_convolution_are_refused() {
        let message = |config: DepthwiseConvConfig| config.init(&cpu()).unwrap_err().to_string();
        let base = DepthwiseConvConfig::same(4, 3);
        assert_eq!(message(DepthwiseConvConfig { channels: 0, ..base }), "depthwise_conv: `channels` must be at least 1, got 0");
        assert_eq!(message(DepthwiseConvConfig { stride: 0, ..base }), "depthwise_conv: `stride` must be at least 1, got 0");
        let wrong = DepthwiseConvConfig { padding: 3, ..base };
        assert_eq!(message(wrong), "depthwise_conv: `padding` must be less than the kernel = 3, got 3");
    }
}
