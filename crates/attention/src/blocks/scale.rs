use std::sync::Arc;

use burn::{
    backend::DispatchTensor,
    tensor::{DType, Tensor},
};

use super::{
    custom_gradient::{GradientRule, with_gradient},
    kernel,
};

/// `√Σ x²` over all numbers of all tensors, without gradients, in f32 at least; on the CPU and on NVIDIA GPUs each is read once, in an
/// order that does not depend on the number of threads.
///
/// # Shapes
/// - output: `[1]`
///
/// # Panics
/// Without tensors.
pub fn norm_of_all(tensors: &[Tensor<1>]) -> Tensor<1> {
    #[cfg(feature = "cube")]
    if let Some(norm) = kernel::gpu::norm_of_all(tensors) {
        return norm;
    }
    Tensor::cat(tensors.iter().map(sum_of_squares).collect(), 0).sum().sqrt()
}

fn sum_of_squares(x: &Tensor<1>) -> Tensor<1> {
    let x = x.clone().inner();
    if kernel::on_cpu(&x.device(), x.dtype()) {
        return Tensor::from_floats([kernel::sum_of_squares(&x)], &x.device());
    }
    if matches!(x.dtype(), DType::F16 | DType::BF16) { x.cast(DType::F32) } else { x }.square().sum()
}

/// `x · by`, without gradients; on the CPU in one pass, or none if `by` is 1.
///
/// # Shapes
/// - `by`: `[1]`; output: as `x`
pub fn scale<const D: usize>(x: Tensor<D>, by: &Tensor<1>) -> Tensor<D> {
    let (x, by) = (x.inner(), by.clone().inner());
    if !kernel::on_cpu(&x.device(), x.dtype()) {
        return x * by.reshape([1; D]);
    }
    match by.into_scalar::<f32>() {
        1.0 => x,
        by => kernel::scale(&x, by),
    }
}

/// `x` rounded to a float type. Unlike that of a cast, its gradient comes in that type, not in that of `x`.
pub fn round<const D: usize>(x: Tensor<D>, dtype: DType) -> Tensor<D> {
    let rounded = x.clone().inner().cast(dtype);
    with_gradient([x.into_dispatch()], rounded, Arc::new(AsItIs))
}

#[derive(Debug)]
struct AsItIs;

impl GradientRule<1> for AsItIs {
    fn gradients(&self, upstream: DispatchTensor, _: [bool; 1]) -> [Option<DispatchTensor>; 1] {
        [Some(upstream)]
    }
}
