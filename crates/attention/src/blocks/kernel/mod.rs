//! Fused CPU kernels, forward and backward, of what every block of a network spends its time on: activations, gates, norms, the loss.
//!
//! Burn's automatic differentiation composes these from about ten tensor operations each, every one a pass over memory; here each
//! direction is one pass.

mod activation;
mod autodiff;
mod linear;
mod loss;
mod norm;

pub(crate) use linear::linear;

use burn::{
    backend::{
        Backend, Dispatch, DispatchDevice, Flex, backend_extension,
        tensor::{FloatTensor, IntTensor},
    },
    tensor::{DType, Device, Int, Tensor},
};

/// Whether tensors of this device and type run on the kernels for the CPU.
pub(crate) fn on_cpu(device: &Device, dtype: DType) -> bool {
    dtype == DType::F32 && matches!(device.clone().inner().as_dispatch(), DispatchDevice::Flex(_))
}

/// Both directions of the kernels.
pub(crate) trait Kernels: Backend {
    /// `x Φ(x)`
    fn gelu_forward(x: FloatTensor<Self>) -> FloatTensor<Self>;
    /// The gradient of `x`.
    fn gelu_backward_pass(x: FloatTensor<Self>, grad: FloatTensor<Self>) -> FloatTensor<Self>;
    /// `1 / (1 + exp(−x))`
    fn sigmoid_forward(x: FloatTensor<Self>) -> FloatTensor<Self>;
    /// The gradient of x, given the sigmoid `y` of it.
    fn sigmoid_backward_pass(y: FloatTensor<Self>, grad: FloatTensor<Self>) -> FloatTensor<Self>;
    /// `SiLU(a) ⊙ b`
    fn silu_gate_forward(a: FloatTensor<Self>, b: FloatTensor<Self>) -> FloatTensor<Self>;
    /// The gradients of `a` and `b`.
    fn silu_gate_backward(a: FloatTensor<Self>, b: FloatTensor<Self>, grad: FloatTensor<Self>) -> [FloatTensor<Self>; 2];
    /// The norm of each row, with or without subtracting its mean, times `gamma`.
    fn norm_forward(x: FloatTensor<Self>, gamma: FloatTensor<Self>, epsilon: f64, center: bool) -> FloatTensor<Self>;
    /// The gradients of `x` and `gamma`.
    fn norm_backward(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        epsilon: f64,
        center: bool,
    ) -> [FloatTensor<Self>; 2];
    /// `ln Σ exp(x) − x_target` of each row; 0 where the target is `ignore`.
    fn cross_entropy_forward(logits: FloatTensor<Self>, targets: IntTensor<Self>, ignore: i64) -> FloatTensor<Self>;
    /// The gradient of the logits, given that of each row's loss.
    fn cross_entropy_backward(
        logits: FloatTensor<Self>,
        targets: IntTensor<Self>,
        grad: FloatTensor<Self>,
        ignore: i64,
    ) -> FloatTensor<Self>;
}

/// The entry from tensors: [`Kernels`] with gradients.
#[backend_extension(Flex, Autodiff)]
pub(crate) trait KernelOps: Backend {
    fn fused_gelu(x: FloatTensor<Self>) -> FloatTensor<Self>;
    fn fused_sigmoid(x: FloatTensor<Self>) -> FloatTensor<Self>;
    fn fused_silu_gate(a: FloatTensor<Self>, b: FloatTensor<Self>) -> FloatTensor<Self>;
    fn fused_norm(x: FloatTensor<Self>, gamma: FloatTensor<Self>, epsilon: f64, center: bool) -> FloatTensor<Self>;
    fn fused_cross_entropy(logits: FloatTensor<Self>, targets: IntTensor<Self>, ignore: i64) -> FloatTensor<Self>;
}

impl KernelOps for Flex {
    fn fused_gelu(x: FloatTensor<Self>) -> FloatTensor<Self> {
        Self::gelu_forward(x)
    }

    fn fused_sigmoid(x: FloatTensor<Self>) -> FloatTensor<Self> {
        Self::sigmoid_forward(x)
    }

    fn fused_silu_gate(a: FloatTensor<Self>, b: FloatTensor<Self>) -> FloatTensor<Self> {
        Self::silu_gate_forward(a, b)
    }

    fn fused_norm(x: FloatTensor<Self>, gamma: FloatTensor<Self>, epsilon: f64, center: bool) -> FloatTensor<Self> {
        Self::norm_forward(x, gamma, epsilon, center)
    }

    fn fused_cross_entropy(logits: FloatTensor<Self>, targets: IntTensor<Self>, ignore: i64) -> FloatTensor<Self> {
        Self::cross_entropy_forward(logits, targets, ignore)
    }
}

impl Kernels for Flex {
    fn gelu_forward(x: FloatTensor<Self>) -> FloatTensor<Self> {
        activation::gelu(x)
    }

    fn gelu_backward_pass(x: FloatTensor<Self>, grad: FloatTensor<Self>) -> FloatTensor<Self> {
        activation::gelu_backward(x, grad)
    }

    fn sigmoid_forward(x: FloatTensor<Self>) -> FloatTensor<Self> {
        activation::sigmoid(x)
    }

    fn sigmoid_backward_pass(y: FloatTensor<Self>, grad: FloatTensor<Self>) -> FloatTensor<Self> {
        activation::sigmoid_backward(y, grad)
    }

    fn silu_gate_forward(a: FloatTensor<Self>, b: FloatTensor<Self>) -> FloatTensor<Self> {
        activation::silu_gate(a, b)
    }

    fn silu_gate_backward(a: FloatTensor<Self>, b: FloatTensor<Self>, grad: FloatTensor<Self>) -> [FloatTensor<Self>; 2] {
        activation::silu_gate_backward(a, b, grad)
    }

    fn norm_forward(x: FloatTensor<Self>, gamma: FloatTensor<Self>, epsilon: f64, center: bool) -> FloatTensor<Self> {
        norm::forward(x, gamma, epsilon, center)
    }

    fn norm_backward(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        epsilon: f64,
        center: bool,
    ) -> [FloatTensor<Self>; 2] {
        norm::backward(x, gamma, grad, epsilon, center)
    }

    fn cross_entropy_forward(logits: FloatTensor<Self>, targets: IntTensor<Self>, ignore: i64) -> FloatTensor<Self> {
        loss::forward(logits, targets, ignore)
    }

    fn cross_entropy_backward(
        logits: FloatTensor<Self>,
        targets: IntTensor<Self>,
        grad: FloatTensor<Self>,
        ignore: i64,
    ) -> FloatTensor<Self> {
        loss::backward(logits, targets, grad, ignore)
    }
}

/// `x Φ(x)` on the CPU.
pub(crate) fn gelu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    Tensor::from_dispatch(<Dispatch as KernelOps>::fused_gelu(x.into_dispatch()))
}

/// `1 / (1 + exp(−x))` on the CPU.
pub(crate) fn sigmoid<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    Tensor::from_dispatch(<Dispatch as KernelOps>::fused_sigmoid(x.into_dispatch()))
}

/// `SiLU(a) ⊙ b` on the CPU.
pub(crate) fn silu_gate<const D: usize>(a: Tensor<D>, b: Tensor<D>) -> Tensor<D> {
    Tensor::from_dispatch(<Dispatch as KernelOps>::fused_silu_gate(a.into_dispatch(), b.into_dispatch()))
}

/// LayerNorm without bias (`center`) or RMSNorm of the last axis on the CPU.
pub(crate) fn norm<const D: usize>(x: Tensor<D>, gamma: Tensor<1>, epsilon: f64, center: bool) -> Tensor<D> {
    Tensor::from_dispatch(<Dispatch as KernelOps>::fused_norm(x.into_dispatch(), gamma.into_dispatch(), epsilon, center))
}

/// The cross entropy of each row on the CPU.
pub(crate) fn cross_entropy(logits: Tensor<2>, targets: Tensor<1, Int>, ignore: i64) -> Tensor<1> {
    Tensor::from_dispatch(<Dispatch as KernelOps>::fused_cross_entropy(logits.into_dispatch(), targets.into_dispatch(), ignore))
}
