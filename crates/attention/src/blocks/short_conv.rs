use std::ops::Range;

use burn::{
    module::{Module, Param},
    tensor::{Device, Distribution, Tensor, TensorData, activation},
};

use super::{kernel, kernel::After, l2_norm, lazy_param};
use crate::{Error, Result};

/// Depthwise causal convolution over few tokens, one filter per channel, without bias: `y_t = Σ_{i<n} w_i x_{t-n+1+i}`.
///
/// One kernel in each direction on the CPU, elsewhere n shifted multiply-adds. What lies before the first token is zero or given.
#[derive(Module, Debug)]
pub struct ShortConv {
    /// The filters, oldest token first. `[channels, n]`
    pub weight: Param<Tensor<2>>,
}

impl ShortConv {
    /// `channels` filters of length `kernel`, drawn from U(−1/√n, 1/√n).
    ///
    /// # Errors
    /// If `channels` or `kernel` is 0.
    pub fn new(channels: usize, kernel: usize, device: &Device) -> Result<Self> {
        for (arg, size) in [("channels", channels), ("kernel", kernel)] {
            if size == 0 {
                return Err(Error::argument("short_conv", arg, "at least 1", size));
            }
        }
        let bound = 1.0 / (kernel as f64).sqrt();
        let shape = [channels, kernel];
        let weight = move |device: &Device| Tensor::random(shape, Distribution::Uniform(-bound, bound), device);
        Ok(Self { weight: lazy_param(shape, device, weight) })
    }

    /// Number of inputs before a token that its output depends on.
    pub fn memory(&self) -> usize {
        self.weight.lazy_shape().dims::<2>()[1] - 1
    }

    /// Convolves `x` with the filters `channels`.
    ///
    /// # Shapes
    /// - `x`: `[B, T, n]` with one channel per filter of `channels`
    /// - `before`, the inputs before the first token: `[B, memory, n]`; `None` = zeros
    /// - `cu_seqlens`: boundaries of packed sequences, each of which starts with zeros before it (then without `before`)
    /// - output: as `x`
    ///
    /// # Panics
    /// On shapes that contradict the above.
    pub fn forward(&self, x: Tensor<3>, channels: Range<usize>, before: Option<Tensor<3>>, cu_seqlens: Option<&[usize]>) -> Tensor<3> {
        self.convolve(x, channels, before, cu_seqlens, After::Nothing)
    }

    /// SiLU of [`forward`](Self::forward), in the same pass on the CPU.
    ///
    /// # Panics
    /// As [`forward`](Self::forward).
    pub fn forward_silu(&self, x: Tensor<3>, channels: Range<usize>, before: Option<Tensor<3>>, cu_seqlens: Option<&[usize]>) -> Tensor<3> {
        self.convolve(x, channels, before, cu_seqlens, After::Silu)
    }

    /// SiLU of [`forward`](Self::forward), each of the heads of `width` channels side by side divided by `sqrt(Σ y² + ε)` as by
    /// [`l2_norm`], in the same pass on the CPU.
    ///
    /// # Panics
    /// As [`forward`](Self::forward), and if `width` does not divide the channels.
    pub fn forward_silu_unit(
        &self,
        x: Tensor<3>,
        channels: Range<usize>,
        before: Option<Tensor<3>>,
        cu_seqlens: Option<&[usize]>,
        (width, epsilon): (usize, f64),
    ) -> Tensor<3> {
        assert!(width > 0 && channels.len().is_multiple_of(width), "heads of {width} in {} channels", channels.len());
        self.convolve(x, channels, before, cu_seqlens, After::SiluThenUnit { width, epsilon })
    }

    fn convolve(
        &self,
        x: Tensor<3>,
        channels: Range<usize>,
        before: Option<Tensor<3>>,
        cu_seqlens: Option<&[usize]>,
        after: After,
    ) -> Tensor<3> {
        let [b, t, n] = x.dims();
        let memory = self.memory();
        let weight = self.weight.val().narrow(0, channels.start, channels.len()).transpose(); // [kernel, n]
        if kernel::on_cpu(&x.device(), x.dtype()) && memory > 0 && !x.dims().contains(&0) {
            let numbers = cu_seqlens.map(|bounds| bounds.windows(2).flat_map(|ends| 0..ends[1] - ends[0]).collect());
            let before = before.unwrap_or_else(|| Tensor::zeros([b, memory, n], &x.device()));
            return kernel::short_conv(x, weight, before, numbers, after);
        }
        let tap = |i: usize| weight.clone().narrow(0, i, 1).reshape([1, 1, n]);
        let y = if memory == 0 {
            x * tap(0)
        } else {
            let before = before.unwrap_or_else(|| Tensor::zeros([b, memory, n], (&x.device(), x.dtype())));
            let padded = Tensor::cat(vec![before, x.clone()], 1); // [B, memory + T, n]
            (0..memory).fold(x * tap(memory), |sum, i| {
                let shifted = padded.clone().narrow(1, i, t);
                let shifted = match cu_seqlens {
                    Some(bounds) => shifted * inside(bounds, memory - i, &sum),
                    None => shifted,
                };
                sum + shifted * tap(i)
            })
        };
        match after {
            After::Nothing => y,
            After::Silu => activation::silu(y),
            After::SiluThenUnit { width, epsilon } => {
                let heads = activation::silu(y).reshape([b, t, n / width, width]);
                l2_norm(heads, epsilon).reshape([b, t, n])
            }
        }
    }

    /// The inputs that the outputs after `x` depend on: the last `memory` of `before` and `x`. `[B, memory, n]`
    pub fn remember(&self, before: Tensor<3>, x: Tensor<3>) -> Tensor<3> {
        let memory = self.memory();
        if memory == 0 {
            return before;
        }
        let all = Tensor::cat(vec![before, x], 1);
        let t = all.dims()[1];
        all.narrow(1, t - memory, memory)
    }
}

/// 1 where the token `lag` before is of the same sequence, else 0. `[1, T, 1]`
fn inside(bounds: &[usize], lag: usize, like: &Tensor<3>) -> Tensor<3> {
    let values: Vec<f32> = bounds.windows(2).flat_map(|w| (w[0]..w[1]).map(move |t| if t - w[0] >= lag { 1.0 } else { 0.0 })).collect();
    let t = values.len();
    Tensor::from_data(TensorData::new(values, [1, t, 1]), (&like.device(), like.dtype()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use regard_testkit::{Sampler, assert_close, cpu};

    use super::*;

    fn conv(kernel: usize) -> (ShortConv, Tensor<3>) {
        let mut sampler = Sampler::new(5);
        let conv = ShortConv { weight: Param::from_tensor(sampler.tensor([3, kernel], -1.0, 1.0).f32(&cpu())) };
        (conv, sampler.tensor([2, 7, 3], -1.0, 1.0).f32(&cpu()))
    }

    #[test]
    fn it_is_the_sum_over_the_last_tokens() {
        for kernel in [1, 2, 4] {
            let (conv, x) = conv(kernel);
            let got = conv.forward(x.clone(), 0..3, None, None);
            let [w, x, got] = [conv.weight.val().into_data(), x.into_data(), got.into_data()].map(|d| d.iter::<f32>().collect::<Vec<_>>());
            for (b, t, c) in (0..2).flat_map(|b| (0..7).flat_map(move |t| (0..3).map(move |c| (b, t, c)))) {
                let at = |t: usize| x[(b * 7 + t) * 3 + c];
                let want: f32 = (0..kernel).filter(|i| t + 1 + i >= kernel).map(|i| w[c * kernel + i] * at(t + 1 + i - kernel)).sum();
                assert!((got[(b * 7 + t) * 3 + c] - want).abs() < 1e-6);
            }
        }
    }

    #[test]
    fn a_part_of_the_channels_and_a_split_in_time_give_the_same_numbers() {
        let (conv, x) = conv(4);
        let whole = conv.forward(x.clone(), 0..3, None, None);
        let part = conv.forward(x.clone().narrow(2, 1, 2), 1..3, None, None);
        assert_close("channels 1 and 2", &part, &whole.clone().narrow(2, 1, 2), 0.0);
        let mut before = Tensor::zeros([2, conv.memory(), 3], &cpu());
        let mut parts = Vec::new();
        for (start, len) in [(0, 1), (1, 4), (5, 2)] {
            let x = x.clone().narrow(1, start, len);
            parts.push(conv.forward(x.clone(), 0..3, Some(before.clone()), None));
            before = conv.remember(before, x);
        }
        assert_close("three parts", &Tensor::cat(parts, 1), &whole, 0.0);
    }

    #[test]
    fn packed_sequences_do_not_see_one_another() {
        let (conv, x) = conv(4);
        let x = x.narrow(0, 0, 1);
        let bounds = [0, 2, 2, 7];
        let parts = bounds.windows(2).filter(|w| w[0] < w[1]);
        let alone = parts.map(|w| conv.forward(x.clone().narrow(1, w[0], w[1] - w[0]), 0..3, None, None)).collect();
        assert_close("packed", &conv.forward(x.clone(), 0..3, None, Some(&bounds)), &Tensor::cat(alone, 1), 0.0);
    }

    #[test]
    fn values_and_gradients_are_those_of_shifted_products() {
        use burn::tensor::DType;
        let device = cpu().autodiff();
        let mut sampler = Sampler::new(6);
        for (case, form) in (0..12).flat_map(|case| (0..3).map(move |form| (case, form))) {
            let (heads, width) = (sampler.size(1, 4), sampler.size(1, 40));
            let (kernel, t, n) = (sampler.size(2, 5), sampler.size(1, 200), heads * width);
            let after = [After::Nothing, After::Silu, After::SiluThenUnit { width, epsilon: 0.1 }][form];
            let packed = case % 3 == 0;
            let b = if packed { 1 } else { sampler.size(1, 3) };
            let bounds = packed.then(|| vec![0, t / 3, t / 3, t]);
            let draws = [sampler.tensor([b, t, n], -2.0, 2.0), sampler.tensor([b, kernel - 1, n], -2.0, 2.0)];
            let (weight, cotangent) = (sampler.tensor([n, kernel], -1.0, 1.0), sampler.tensor([b, t, n], -1.0, 1.0));
            let [got, want] = [DType::F32, DType::F64].map(|dtype| {
                let f32s = dtype == DType::F32;
                let place = |x: &regard_testkit::Draw<3>| if f32s { x.f32(&device) } else { x.f64(&device) };
                let [x, before] = draws.each_ref().map(|x| place(x).require_grad());
                let w = if f32s { weight.f32(&device) } else { weight.f64(&device) }.require_grad();
                let conv = ShortConv { weight: Param::from_tensor(w) };
                let given = (!packed).then(|| before.clone());
                let y = conv.convolve(x.clone(), 0..n, given, bounds.as_deref(), after);
                let grads = (y.clone() * place(&cotangent)).sum().backward();
                let d_before = if packed { before.inner().zeros_like() } else { before.grad(&grads).unwrap() };
                let rows = [y.inner(), x.grad(&grads).unwrap(), d_before].map(|x| x.cast(DType::F64).reshape([-1]));
                let d_w: Tensor<1> = conv.weight.val().grad(&grads).unwrap().cast(DType::F64).reshape([-1]);
                rows.into_iter().chain([d_w]).collect::<Vec<Tensor<1>>>()
            });
            for (name, (got, want)) in ["y", "dx", "dbefore", "dw"].iter().zip(got.iter().zip(&want)) {
                assert_close(&format!("{name}, {after:?}, packed {packed}"), got, want, 2e-6);
            }
        }
    }

    #[test]
    fn empty_filters_are_refused() {
        let error = ShortConv::new(3, 0, &cpu()).expect_err("refused");
        assert_eq!(error.to_string(), "short_conv: `kernel` must be at least 1, got 0");
    }
}
