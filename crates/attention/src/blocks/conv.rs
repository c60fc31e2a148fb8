use burn::{
    module::{Initializer, Module, Param},
    tensor::{Device, Tensor, module::conv2d, ops::ConvOptions},
};

use super::{kernel, linear};
use crate::{Error, Result};

/// Configuration of a [`Conv`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConvConfig {
    /// Channels C of the input.
    pub from: usize,
    /// Channels C' of the output.
    pub to: usize,
    /// Rows and columns k of a filter.
    pub kernel: usize,
    /// Distance of neighbouring outputs.
    pub stride: usize,
    /// Rows and columns of zeros around a map.
    pub padding: usize,
    /// Whether there are biases.
    pub bias: bool,
}

impl ConvConfig {
    /// Filters of an odd side k around every token of a map, whose size stays; with biases.
    pub fn same(from: usize, to: usize, kernel: usize) -> Self {
        Self { from, to, kernel, stride: 1, padding: kernel / 2, bias: true }
    }

    /// The same filters around every other token of the rows and columns.
    pub fn halving(from: usize, to: usize, kernel: usize) -> Self {
        Self { stride: 2, ..Self::same(from, to, kernel) }
    }

    /// The convolution with weights and biases from U(−1/√(C k²), 1/√(C k²)), as PyTorch draws them.
    ///
    /// # Errors
    /// If a size is 0, or the padding is not less than a filter.
    pub fn init(&self, device: &Device) -> Result<Conv> {
        const OP: &str = "conv";
        for (arg, size) in [("from", self.from), ("to", self.to), ("kernel", self.kernel), ("stride", self.stride)] {
            if size == 0 {
                return Err(Error::argument(OP, arg, "at least 1", size));
            }
        }
        if self.padding >= self.kernel {
            return Err(Error::argument(OP, "padding", format!("less than the kernel = {}", self.kernel), self.padding));
        }
        let bound = 1.0 / ((self.from * self.kernel * self.kernel) as f64).sqrt();
        let draw = Initializer::Uniform { min: -bound, max: bound };
        Ok(Conv {
            weight: draw.init([self.to, self.from, self.kernel, self.kernel], device),
            bias: self.bias.then(|| draw.init([self.to], device)),
            stride: self.stride,
            padding: self.padding,
        })
    }
}

/// A convolution over all channels of a map: `y_ijd = β_d + Σ_uvc w_dcuv x_(si+u−p)(sj+v−p)c`, zeros outside of the map.
#[derive(Module, Debug)]
pub struct Conv {
    /// The filters. `[C', C, k, k]`
    pub weight: Param<Tensor<4>>,
    /// β, if there are any. `[C']`
    pub bias: Option<Param<Tensor<1>>>,
    stride: usize,
    padding: usize,
}

impl Conv {
    /// Convolves maps.
    ///
    /// # Shapes
    /// - `x`: `[B, Y, X, C]`, with its padding no smaller than a filter; output: `[B, (Y + 2p − k)/s + 1, (X + 2p − k)/s + 1, C']`
    ///
    /// # Panics
    /// If the channels are others, or a map is smaller than a filter.
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        convolve(x, self.weight.val(), self.bias.as_ref().map(Param::val), [self.stride, self.padding])
    }

    /// The rows and columns of the output for a map of Y rows and X columns, 0 where it is smaller than a filter.
    pub fn output(&self, map: [usize; 2]) -> [usize; 2] {
        let [_, _, kernel, _] = self.weight.lazy_shape().dims();
        map.map(|length| (length + 2 * self.padding).checked_sub(kernel).map_or(0, |room| room / self.stride + 1))
    }

    /// Floating-point operations for one map of Y rows and X columns, a multiply-add counted as two.
    pub fn flops(&self, map: [usize; 2]) -> f64 {
        let per_output = 2 * self.weight.lazy_shape().num_elements();
        per_output as f64 * self.output(map).map(|length| length as f64).iter().product::<f64>()
    }
}

/// What [`Conv::forward`] computes, for a stride and a padding. On the CPU as products of patches, which are laid out piece by piece, with a
/// kernel for the gradients.
///
/// # Shapes
/// - `x`: `[B, Y, X, C]`; `weight`: `[C', C, k, k]`; `bias`: `[C']`; output: as of [`Conv::forward`]
///
/// # Panics
/// As [`Conv::forward`].
pub fn convolve(x: Tensor<4>, weight: Tensor<4>, bias: Option<Tensor<1>>, [stride, padding]: [usize; 2]) -> Tensor<4> {
    let ([to, from, kernel, _], [b, y, columns, c]) = (weight.dims(), x.dims());
    assert!(c == from, "{c} channels for filters of {from}");
    assert!(y.min(columns) + 2 * padding >= kernel, "a map of {y} × {columns} for filters of side {kernel}");
    if kernel::on_cpu(&x.device(), x.dtype()) && weight.dtype() == x.dtype() && !x.dims().contains(&0) {
        return kernel::conv(x, weight, bias, [stride, padding]);
    }
    if stride == kernel && padding == 0 && y.is_multiple_of(kernel) && columns.is_multiple_of(kernel) {
        // Patches side by side are a product as they lie.
        let patches = x.reshape([b, y / kernel, kernel, columns / kernel, kernel, c]).swap_dims(2, 3);
        let patches = patches.reshape([b, y / kernel, columns / kernel, kernel * kernel * c]);
        return linear(patches, weight.permute([2, 3, 1, 0]).reshape([kernel * kernel * from, to]), bias);
    }
    let options = ConvOptions::new([stride; 2], [padding; 2], [1; 2], 1);
    conv2d(x.permute([0, 3, 1, 2]), weight, bias, options).permute([0, 2, 3, 1])
}

#[cfg(test)]
mod tests {
    use burn::tensor::{DType, TensorData};
    use regard_testkit::{Draw, Errors, cpu, sweep};

    use super::*;

    /// Output and the gradients of input, filters and biases.
    fn solve(config: ConvConfig, draws: [&Draw<4>; 3], bias: &Draw<1>, dtype: DType) -> Vec<TensorData> {
        let device = cpu().autodiff();
        let double = dtype == DType::F64;
        let [x, weight, cotangent] = draws.map(|x| if double { x.f64(&device) } else { x.f32(&device) }.require_grad());
        let bias = if double { bias.f64(&device) } else { bias.f32(&device) }.require_grad();
        let conv = Conv {
            weight: Param::from_tensor(weight),
            bias: config.bias.then(|| Param::from_tensor(bias)),
            stride: config.stride,
            padding: config.padding,
        };
        let [b, y, columns, _] = x.dims();
        let o = conv.forward(x.clone());
        let [out_y, out_x] = conv.output([y, columns]);
        assert_eq!(o.dims(), [b, out_y, out_x, config.to]);
        let grads = (o.clone() * cotangent).sum().backward();
        let bias = conv.bias.map(|bias| bias.val().grad(&grads).unwrap().into_data());
        let weight = conv.weight.val().grad(&grads).unwrap().into_data();
        [o.into_data(), x.grad(&grads).unwrap().into_data(), weight].into_iter().chain(bias).collect()
    }

    #[test]
    fn the_kernel_is_the_convolution_of_tensors_in_f64_over_random_maps() {
        let errors = Errors::new("convolution", &["y", "dx", "dw", "db"], 1e-5);
        sweep("convolution", 300, |s| {
            let kernel = s.size(1, 6);
            let (stride, padding) = (s.size(1, 7), s.size(0, kernel - 1));
            let least = kernel.saturating_sub(2 * padding).max(1);
            let (b, from, to) = (s.size(1, 3), s.size(1, 20), s.size(1, 20));
            let [y, x] = [s.size(least, least + 12), s.size(least, least + 12)];
            let config = ConvConfig { from, to, kernel, stride, padding, bias: s.flip() };
            let [out_y, out_x] = [y, x].map(|length| (length + 2 * padding - kernel) / stride + 1);
            let input = s.tensor([b, y, x, from], -1.0, 1.0);
            let (weight, bias) = (s.tensor([to, from, kernel, kernel], -1.0, 1.0), s.tensor([to], -1.0, 1.0));
            let cotangent = s.tensor([b, out_y, out_x, to], -1.0, 1.0);
            let solve = |dtype| solve(config, [&input, &weight, &cotangent], &bias, dtype);
            errors.add(&format!("{:?} {config:?}", [b, y, x]), solve(DType::F32), solve(DType::F32), solve(DType::F64));
        });
        errors.finish();
    }

    #[test]
    fn sizes_that_make_no_convolution_are_refused() {
        let message = |config: ConvConfig| config.init(&cpu()).unwrap_err().to_string();
        let base = ConvConfig::same(4, 8, 3);
        assert_eq!(message(ConvConfig { from: 0, ..base }), "conv: `from` must be at least 1, got 0");
        assert_eq!(message(ConvConfig { stride: 0, ..base }), "conv: `stride` must be at least 1, got 0");
        let wrong = ConvConfig { padding: 3, ..base };
        assert_eq!(message(wrong), "conv: `padding` must be less than the kernel = 3, got 3");
    }

    #[test]
    fn operations_are_counted_where_there_are_outputs() {
        let conv = ConvConfig::halving(3, 5, 3).init(&cpu()).unwrap();
        assert_eq!((conv.output([7, 8]), conv.output([1, 1])), ([4, 4], [1, 1]));
        assert!((conv.flops([7, 8]) - 2.0 * 16.0 * (3.0 * 9.0 * 5.0)).abs() < 1e-9);
        let patches = ConvConfig { padding: 0, ..ConvConfig::same(3, 5, 4) }.init(&cpu()).unwrap();
        assert_eq!(patches.output([3, 4]), [0, 1]);
    }
}
