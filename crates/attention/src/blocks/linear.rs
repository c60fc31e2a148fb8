use burn::{
    module::Param,
    nn::Linear,
    tensor::{Tensor, module},
};

use super::kernel;

/// `y = x W + b` over the last axis; on the CPU as one kernel in each direction.
///
/// # Shapes
/// - `x`: `[…, n]`; `weight`: `[n, m]`; `bias`: `[m]`; output: `[…, m]`
pub fn linear<const D: usize>(x: Tensor<D>, weight: Tensor<2>, bias: Option<Tensor<1>>) -> Tensor<D> {
    if D > 1 && kernel::on_cpu(&x.device(), x.dtype()) && weight.dtype() == x.dtype() {
        kernel::linear(x, weight, bias)
    } else {
        module::linear(x, weight, bias)
    }
}

/// What [`Linear::forward`] computes, by [`linear`].
///
/// # Shapes
/// - `x`: `[…, n]`; output: `[…, m]` for a layer from n to m
pub fn project<const D: usize>(layer: &Linear, x: Tensor<D>) -> Tensor<D> {
    linear(x, layer.weight.val(), layer.bias.as_ref().map(Param::val))
}
