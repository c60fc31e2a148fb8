use burn::tensor::{Tensor, activation};

use super::kernel;
#[cfg(feature = "cube")]
use super::kernel::gpu::{self, Activation};

/// The exact GELU, `x Φ(x)`.
pub fn gelu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    #[cfg(feature = "cube")]
    if let Some(y) = gpu::activation(&x, Activation::Gelu) {
        return y;
    }
    if kernel::on_cpu(&x.device(), x.dtype()) { kernel::gelu(x) } else { activation::gelu(x) }
}

/// The approximate GELU, `x/2 · (1 + tanh(√(2/π) (x + 0.044715 x³)))`.
pub fn gelu_tanh<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    #[cfg(feature = "cube")]
    if let Some(y) = gpu::activation(&x, Activation::GeluTanh) {
        return y;
    }
    activation::gelu_approximate(x)
}

/// `x / (1 + exp(−x))`
pub fn silu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    #[cfg(feature = "cube")]
    if let Some(y) = gpu::activation(&x, Activation::Silu) {
        return y;
    }
    if kernel::on_cpu(&x.device(), x.dtype()) { kernel::silu(x) } else { activation::silu(x) }
}

/// `max(x, 0)`, with the slope 0 at 0.
pub fn relu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    if kernel::on_cpu(&x.device(), x.dtype()) { kernel::relu(x) } else { activation::relu(x) }
}

/// `a ⊙ b`
///
/// # Panics
/// If the shapes differ.
pub fn product<const D: usize>(a: Tensor<D>, b: Tensor<D>) -> Tensor<D> {
    assert_eq!(a.dims(), b.dims(), "shapes of the factors");
    #[cfg(feature = "cube")]
    if let Some(y) = gpu::gate(&a, &b, Activation::Identity) {
        return y;
    }
    if kernel::on_cpu(&a.device(), a.dtype()) { kernel::product(a, b) } else { a * b }
}

/// `SiLU(gate) ⊙ x`, the gate of SwiGLU.
pub fn silu_gate<const D: usize>(gate: Tensor<D>, x: Tensor<D>) -> Tensor<D> {
    #[cfg(feature = "cube")]
    if let Some(y) = gpu::gate(&gate, &x, Activation::Silu) {
        return y;
    }
    if kernel::on_cpu(&x.device(), x.dtype()) { kernel::silu_gate(gate, x) } else { activation::silu(gate) * x }
}

/// `1 / (1 + exp(−x))`
pub fn sigmoid<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    #[cfg(feature = "cube")]
    if let Some(y) = gpu::activation(&x, Activation::Sigmoid) {
        return y;
    }
    if kernel::on_cpu(&x.device(), x.dtype()) { kernel::sigmoid(x) } else { activation::sigmoid(x) }
}
