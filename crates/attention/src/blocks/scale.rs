use burn::tensor::Tensor;

use super::kernel;

/// `Σ x²`, without gradients; on the CPU in one pass, in an order that does not depend on the number of threads.
///
/// # Shapes
/// - output: `[1]`
pub fn sum_of_squares<const D: usize>(x: &Tensor<D>) -> Tensor<1> {
    let x = x.clone().inner();
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
