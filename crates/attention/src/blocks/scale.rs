use burn::tensor::Tensor;

use super::kernel;

/// Numbers that add up to `Σ x²`, without gradients; in one pass on the CPU, in an order that does not depend on the number of threads,
/// and on NVIDIA GPUs, in f32 at least.
///
/// # Shapes
/// - output: `[parts]`, one on the CPU
pub fn sum_of_squares<const D: usize>(x: &Tensor<D>) -> Tensor<1> {
    let x = x.clone().inner();
    #[cfg(feature = "cube")]
    if let Some(parts) = kernel::gpu::sum_of_squares(&x) {
        return parts;
    }
    if kernel::on_cpu(&x.device(), x.dtype()) { Tensor::from_floats([kernel::sum_of_squares(&x)], &x.device()) } else { x.square().sum() }
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
