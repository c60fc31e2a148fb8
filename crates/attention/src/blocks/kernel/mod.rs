//! Fused CPU kernels, forward and backward, of what every block of a network spends its time on: activations, gates, norms, the loss.
//!
//! Burn's automatic differentiation composes these from about ten tensor operations each, every one a pass over memory; here each
//! direction is one pass.

mod activation;
mod head;
mod linear;
mod loss;
mod matrix;
mod norm;

pub(crate) use head::linear_cross_entropy;
pub(crate) use linear::linear;

use std::{fmt, sync::Arc};

use burn::{
    backend::{DispatchDevice, DispatchTensor, Flex, tensor::FloatTensor},
    tensor::{DType, Device, Int, Tensor},
};

use super::custom_gradient::{GradientRule, of_backend, primitive, with_gradient};

type Flat = FloatTensor<Flex>;

/// Whether tensors of this device and type run on the kernels for the CPU.
pub(crate) fn on_cpu(device: &Device, dtype: DType) -> bool {
    dtype == DType::F32 && matches!(device.clone().inner().as_dispatch(), DispatchDevice::Flex(_))
}

/// `x Φ(x)` on the CPU.
pub(crate) fn gelu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    let inner = flat(&x);
    let y = activation::gelu(inner.clone());
    node([x.into_dispatch()], y, [inner], |[x], grad| [activation::gelu_backward(x, grad)])
}

/// `1 / (1 + exp(−x))` on the CPU. Its gradient needs the output alone.
pub(crate) fn sigmoid<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    let y = activation::sigmoid(flat(&x));
    node([x.into_dispatch()], y.clone(), [y], |[y], grad| [activation::sigmoid_backward(y, grad)])
}

/// `SiLU(a) ⊙ b` on the CPU.
pub(crate) fn silu_gate<const D: usize>(a: Tensor<D>, b: Tensor<D>) -> Tensor<D> {
    let inner = [flat(&a), flat(&b)];
    let [y_a, y_b] = inner.clone();
    let y = activation::silu_gate(y_a, y_b);
    node([a.into_dispatch(), b.into_dispatch()], y, inner, |[a, b], grad| activation::silu_gate_backward(a, b, grad))
}

/// LayerNorm without bias (`center`) or RMSNorm of the last axis on the CPU.
pub(crate) fn norm<const D: usize>(x: Tensor<D>, gamma: Tensor<1>, epsilon: f64, center: bool) -> Tensor<D> {
    let inner = [flat(&x), flat(&gamma)];
    let [flat_x, flat_gamma] = inner.clone();
    let y = norm::forward(flat_x, flat_gamma, epsilon, center);
    let backward = move |[x, gamma]: [Flat; 2], grad| norm::backward(x, gamma, grad, epsilon, center);
    node([x.into_dispatch(), gamma.into_dispatch()], y, inner, backward)
}

/// The cross entropy of each row on the CPU.
pub(crate) fn cross_entropy(logits: Tensor<2>, targets: Tensor<1, Int>, ignore: i64) -> Tensor<1> {
    let inner = flat(&logits);
    let targets: Vec<i64> = targets.into_data().iter::<i64>().collect();
    let losses = loss::forward(inner.clone(), &targets, ignore);
    let backward = move |[logits]: [Flat; 1], grad| [loss::backward(logits, &targets, grad, ignore)];
    node([logits.into_dispatch()], losses, [inner], backward)
}

/// The tensor without automatic differentiation.
fn flat<const D: usize>(x: &Tensor<D>) -> Flat {
    primitive::<Flex>(x.clone().inner().into_dispatch())
}

/// What a kernel computed, as a node of the graph with a kernel for its gradients.
fn node<const D: usize, const N: usize, const S: usize>(
    inputs: [DispatchTensor; N],
    output: Flat,
    saved: [Flat; S],
    backward: impl Fn([Flat; S], Flat) -> [Flat; N] + Send + Sync + 'static,
) -> Tensor<D> {
    with_gradient(inputs, Tensor::from_dispatch(of_backend::<Flex>(output)), Arc::new(Kernel { saved, backward }))
}

/// A backward kernel and what it needs.
struct Kernel<const S: usize, F> {
    saved: [Flat; S],
    backward: F,
}

impl<const S: usize, F> fmt::Debug for Kernel<S, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kernel").field("saved", &self.saved).finish_non_exhaustive()
    }
}

impl<const N: usize, const S: usize, F> GradientRule<N> for Kernel<S, F>
where
    F: Fn([Flat; S], Flat) -> [Flat; N] + Send + Sync,
{
    fn gradients(&self, upstream: DispatchTensor, _: [bool; N]) -> [Option<DispatchTensor>; N] {
        (self.backward)(self.saved.clone(), primitive::<Flex>(upstream)).map(|gradient| Some(of_backend::<Flex>(gradient)))
    }
}
