//! Maps of images: sizes that divide, windows, norms over batches.

use burn::{
    nn::BatchNorm,
    tensor::{Tensor, ops::PadMode},
};

use super::kernel;

/// Zeros to the right and below, so that the sides are multiples of `sides`.
///
/// # Shapes
/// - `x`: `[B, Y, X, D]`; output: `[B, Y', X', D]`, Y' and X' the next multiples
pub fn pad_map(x: Tensor<4>, sides: [usize; 2]) -> Tensor<4> {
    let [_, y, columns, _] = x.dims();
    let [below, right] = [(y, sides[0]), (columns, sides[1])].map(|(length, side)| length.next_multiple_of(side) - length);
    if below + right == 0 { x } else { x.pad([(0, 0), (0, below), (0, right), (0, 0)], PadMode::Constant(0.0)) }
}

/// The first rows and columns: the reverse of [`pad_map`].
///
/// # Shapes
/// - `x`: `[B, Y', X', D]`; output: `[B, Y, X, D]`
pub fn crop_map(x: Tensor<4>, [y, columns]: [usize; 2]) -> Tensor<4> {
    if x.dims()[1..3] == [y, columns] { x } else { x.narrow(1, 0, y).narrow(2, 0, columns) }
}

/// A map in windows of P × Q tokens, row-major, as the tokens of each, row-major.
///
/// # Shapes
/// - `x`: `[B, Y, X, D]`, sides multiples of those of the windows; output: `[B, Y/P · X/Q, P · Q, D]`
pub fn to_windows(x: Tensor<4>, [p, q]: [usize; 2]) -> Tensor<4> {
    let [b, y, columns, d] = x.dims();
    let x = x.reshape([b, y / p, p, columns / q, q, d]).swap_dims(2, 3);
    x.reshape([b, y / p * (columns / q), p * q, d])
}

/// The reverse of [`to_windows`], for maps of Y × X tokens.
///
/// # Shapes
/// - `x`: `[B, Y/P · X/Q, P · Q, D]`; output: `[B, Y, X, D]`
pub fn from_windows(x: Tensor<4>, [p, q]: [usize; 2], [y, columns]: [usize; 2]) -> Tensor<4> {
    let [b, _, _, d] = x.dims();
    x.reshape([b, y / p, columns / q, p, q, d]).swap_dims(2, 3).reshape([b, y, columns, d])
}

/// A batch norm over all tokens of all maps, per channel: what Burn's own computes of channels in the second axis; on the CPU by kernels.
///
/// In training, on a device with automatic differentiation and unless its flag is off, by the statistics of the batch, of which the running
/// ones take their share.
///
/// # Shapes
/// - `x`: `[B, Y, X, D]`; output: the same
pub fn batch_norm(norm: &BatchNorm, x: Tensor<4>) -> Tensor<4> {
    let (dims, device) = (x.dims(), x.device());
    if dims.contains(&0) {
        return x;
    }
    let training = device.is_autodiff() && norm.training.is_enabled();
    let (gamma, beta) = (norm.gamma.val(), norm.beta.val());
    if !kernel::on_cpu(&device, x.dtype()) || gamma.dtype() != x.dtype() || !training && device.is_autodiff() {
        return norm.forward(x.reshape([-1, dims[3] as i64])).reshape(dims);
    }
    if !training {
        return kernel::batch_norm(&x, [&norm.running_mean.value(), &norm.running_var.value()], [&gamma, &beta], norm.epsilon);
    }
    let (y, found) = kernel::batch_norm_train(x, gamma, beta, norm.epsilon);
    for (running, found) in [&norm.running_mean, &norm.running_var].into_iter().zip(found) {
        let before = running.value_sync().inner();
        let now = before * (1.0 - norm.momentum) + found * norm.momentum;
        running.update(Tensor::from_inner(now));
    }
    y
}

#[cfg(test)]
mod tests {
    use burn::{
        module::{Module, Param, RunningState},
        nn::BatchNormConfig,
        tensor::{DType, TensorData},
    };
    use regard_testkit::{Draw, Errors, cpu, sweep};

    use super::*;

    /// Output, gradients and running statistics of a norm in training, and then the output of one that has these.
    fn solve([x, cotangent]: [&Draw<4>; 2], [gamma, beta]: [&Draw<1>; 2], dtype: DType) -> Vec<TensorData> {
        let device = cpu().autodiff();
        let double = dtype == DType::F64;
        let [x, cotangent] = [x, cotangent].map(|x| if double { x.f64(&device) } else { x.f32(&device) }.require_grad());
        let [gamma, beta] = [gamma, beta].map(|x| if double { x.f64(&device) } else { x.f32(&device) }.require_grad());
        let mut norm = BatchNormConfig::new(x.dims()[3]).init(&device);
        norm.running_mean = RunningState::new(norm.running_mean.value().cast(dtype));
        norm.running_var = RunningState::new(norm.running_var.value().cast(dtype));
        (norm.gamma, norm.beta) = (Param::from_tensor(gamma), Param::from_tensor(beta));
        let y = batch_norm(&norm, x.clone());
        let grads = (y.clone() * cotangent).sum().backward();
        let [gamma, beta] = [&norm.gamma, &norm.beta].map(|x| x.val().grad(&grads).unwrap().into_data());
        let running = [&norm.running_mean, &norm.running_var].map(|state| state.value_sync().into_data());
        let valid = norm.valid();
        let after = batch_norm(&valid, x.clone().inner());
        let [mean, variance] = running;
        vec![y.into_data(), x.grad(&grads).unwrap().into_data(), gamma, beta, mean, variance, after.into_data()]
    }

    #[test]
    fn the_norm_of_a_batch_is_burns_in_f64_over_random_maps() {
        let errors = Errors::new("batch norm", &["y", "dx", "dγ", "dβ", "mean", "variance", "after"], 2e-5);
        sweep("batch norm", 200, |s| {
            let shape = [s.size(1, 4), s.size(1, 20), s.size(2, 20), s.size(1, 40)];
            let (x, cotangent) = (s.tensor(shape, -1.0, 3.0), s.tensor(shape, -1.0, 1.0));
            let (gamma, beta) = (s.tensor([shape[3]], 0.5, 1.5), s.tensor([shape[3]], -1.0, 1.0));
            let solve = |dtype| solve([&x, &cotangent], [&gamma, &beta], dtype);
            errors.add(&format!("{shape:?}"), solve(DType::F32), solve(DType::F32), solve(DType::F64));
        });
        errors.finish();
    }
}
