//! Fused kernels, forward and backward, of what every block of a network spends its time on: activations, gates, norms, the loss. Those
//! for GPUs are in a folder of their own.
//!
//! Burn's automatic differentiation composes these from about ten tensor operations each, every one a pass over memory; here each
//! direction is one pass.

mod activation;
mod adamw;
mod batch_norm;
mod conv;
mod decay_gate;
mod depthwise;
mod gated_norm;
#[cfg(feature = "cube")]
pub(crate) mod gpu;
mod head;
mod join;
mod linear;
mod loss;
mod matrix;
mod norm;
mod parts;
mod row;
mod scale;
mod short_conv;
mod unit;

use activation::Pointwise;
pub(crate) use head::linear_cross_entropy;
pub(crate) use linear::{linear, linear_split};

use std::{fmt, sync::Arc};

use burn::{
    backend::{Backend, DispatchDevice, DispatchKindConversion, DispatchTensor, Flex, tensor::FloatTensor},
    tensor::{DType, Device, Int, Tensor, TensorData},
};

use super::{
    adamw::AdamWStep,
    custom_gradient::{GradientRule, JointRule, of_backend, primitive, with_gradient, with_gradients},
};

type Flat = FloatTensor<Flex>;

/// Whether tensors of this device and type run on the kernels for the CPU.
pub(crate) fn on_cpu(device: &Device, dtype: DType) -> bool {
    dtype == DType::F32 && matches!(device.clone().inner().as_dispatch(), DispatchDevice::Flex(_))
}

/// `x Φ(x)` on the CPU.
pub(crate) fn gelu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    pointwise(x, activation::Gelu)
}

/// `x / (1 + exp(−x))` on the CPU.
pub(crate) fn silu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    pointwise(x, activation::Silu)
}

/// `1 / (1 + exp(−x))` on the CPU.
pub(crate) fn sigmoid<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    pointwise(x, activation::Sigmoid)
}

fn pointwise<const D: usize, F: Pointwise>(x: Tensor<D>, f: F) -> Tensor<D> {
    let inner = flat(&x);
    let y = activation::map(&inner, f);
    let saved = if F::BY_OUTPUT { y.clone() } else { inner };
    node::<Flex, _, _, _>([x.into_dispatch()], y, [saved], move |[saved], grad| [activation::map_backward(&saved, &grad, f)])
}

/// `SiLU(a) ⊙ b` on the CPU.
pub(crate) fn silu_gate<const D: usize>(a: Tensor<D>, b: Tensor<D>) -> Tensor<D> {
    gate(a, b, activation::Silu)
}

/// `a ⊙ b`, of the same shape, on the CPU.
pub(crate) fn product<const D: usize>(a: Tensor<D>, b: Tensor<D>) -> Tensor<D> {
    gate(a, b, activation::Identity)
}

fn gate<const D: usize, F: Pointwise>(a: Tensor<D>, b: Tensor<D>, f: F) -> Tensor<D> {
    let inner = [flat(&a), flat(&b)];
    let y = activation::gate(&inner[0], &inner[1], f);
    node::<Flex, _, _, _>([a.into_dispatch(), b.into_dispatch()], y, inner, move |[a, b], grad| activation::gate_backward(&a, &b, &grad, f))
}

/// `max(x, 0)` on the CPU.
pub(crate) fn relu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    pointwise(x, activation::Relu)
}

/// Maps `[…, C]` normed by the statistics of all their tokens on the CPU, and these: mean and variance, without automatic differentiation.
pub(crate) fn batch_norm_train(x: Tensor<4>, gamma: Tensor<1>, beta: Tensor<1>, epsilon: f64) -> (Tensor<4>, [Tensor<1>; 2]) {
    let (width, inner) = (x.dims()[3], [flat(&x).to_contiguous(), flat(&gamma)]);
    let batch_norm::Statistics { mean, variance } = batch_norm::statistics(&inner[0], width);
    let factor = batch_norm::factors(&variance, epsilon);
    let y = batch_norm::forward(&inner[0], [&mean, &factor], [&inner[1], &flat(&beta)]);
    let found = [&mean, &variance].map(|values| Tensor::from_data(TensorData::new(values.clone(), [width]), &x.device().inner()));
    let inputs = [x.into_dispatch(), gamma.into_dispatch(), beta.into_dispatch()];
    let y = node::<Flex, _, _, _>(inputs, y, inner, move |[x, gamma], grad| batch_norm::backward(&x, &gamma, [&mean, &factor], &grad));
    (y, found)
}

/// Maps `[…, C]` without automatic differentiation normed by given means and variances on the CPU.
pub(crate) fn batch_norm(x: &Tensor<4>, [mean, variance]: [&Tensor<1>; 2], [gamma, beta]: [&Tensor<1>; 2], epsilon: f64) -> Tensor<4> {
    let [mean, variance] = [mean, variance].map(|x| flat(x).to_contiguous());
    let factor = batch_norm::factors(activation::slice(&variance), epsilon);
    let x = flat(x).to_contiguous();
    let y = batch_norm::forward(&x, [activation::slice(&mean), &factor], [&flat(gamma), &flat(beta)]);
    Tensor::from_dispatch(of_backend::<Flex>(y))
}

/// LayerNorm without bias (`center`) or RMSNorm of the last axis on the CPU.
pub(crate) fn norm<const D: usize>(x: Tensor<D>, gamma: Tensor<1>, epsilon: f64, center: bool) -> Tensor<D> {
    let inner = [flat(&x), flat(&gamma)];
    let [flat_x, flat_gamma] = inner.clone();
    let y = norm::forward(flat_x, flat_gamma, epsilon, center);
    let backward = move |[x, gamma]: [Flat; 2], grad| norm::backward([&x, &gamma], &grad, None, epsilon, center);
    node::<Flex, _, _, _>([x.into_dispatch(), gamma.into_dispatch()], y, inner, backward)
}

/// `x + update`, and its [`norm`], on the CPU.
pub(crate) fn add_norm<const D: usize>(x: Tensor<D>, update: Tensor<D>, gamma: Tensor<1>, epsilon: f64, center: bool) -> [Tensor<D>; 2] {
    let inner = [flat(&x), flat(&update), flat(&gamma)];
    let outputs = norm::add_forward(&inner, epsilon, center);
    let [_, _, gamma_values] = inner;
    let rule = AddNorm { sum: outputs[0].clone(), gamma: gamma_values, epsilon, center };
    let outputs = outputs.map(|y| Tensor::from_dispatch(of_backend::<Flex>(y)));
    with_gradients([x.into_dispatch(), update.into_dispatch(), gamma.into_dispatch()], outputs, rule)
}

#[derive(Debug)]
struct AddNorm {
    sum: Flat,
    gamma: Flat,
    epsilon: f64,
    center: bool,
}

impl JointRule<3, 2> for AddNorm {
    fn gradients(&self, upstream: [Option<DispatchTensor>; 2], _: [bool; 3]) -> [Option<DispatchTensor>; 3] {
        let [of_sum, of_norm] = upstream.map(|gradient| gradient.map(primitive::<Flex>));
        let (of_input, of_gamma) = match of_norm {
            Some(grad) => {
                let [of_input, of_gamma] = norm::backward([&self.sum, &self.gamma], &grad, of_sum.as_ref(), self.epsilon, self.center);
                (Some(of_input), Some(of_gamma))
            }
            None => (of_sum, None),
        };
        [of_input.clone(), of_input, of_gamma].map(|gradient| gradient.map(of_backend::<Flex>))
    }
}

/// RMSNorm of the last axis times the sigmoid of a gate on the CPU, or times the gate itself.
pub(crate) fn gated_norm<const D: usize>(x: Tensor<D>, gamma: Tensor<1>, gate: Tensor<D>, epsilon: f64, sigmoid: bool) -> Tensor<D> {
    let inner = [flat(&x), flat(&gamma), flat(&gate)];
    let inputs = [x.into_dispatch(), gamma.into_dispatch(), gate.into_dispatch()];
    if sigmoid { gated(inputs, inner, epsilon, activation::Sigmoid) } else { gated(inputs, inner, epsilon, activation::Identity) }
}

fn gated<const D: usize, F: Pointwise>(inputs: [DispatchTensor; 3], inner: [Flat; 3], epsilon: f64, f: F) -> Tensor<D> {
    let y = gated_norm::forward(&inner, epsilon, f);
    node::<Flex, _, _, _>(inputs, y, inner, move |saved, grad| gated_norm::backward(&saved, epsilon, &grad, f))
}

/// The last axis divided by `sqrt(Σ x² + ε)` on the CPU.
pub(crate) fn unit<const D: usize>(x: Tensor<D>, epsilon: f64) -> Tensor<D> {
    let (inner, width) = (flat(&x), x.dims()[D - 1]);
    let y = unit::forward(&inner, width, epsilon);
    node::<Flex, _, _, _>([x.into_dispatch()], y, [inner], move |[x], grad| [unit::backward(&x, width, epsilon, &grad)])
}

/// Depthwise causal convolution of `x` `[B, T, n]` with filters `[kernel, n]`, oldest token first, on the CPU; then SiLU if wanted.
/// `before`, the inputs before the first token: `[B, kernel − 1, n]`; for packed sequences it is not read, and `numbers` holds the
/// number of each token in its own.
pub(crate) fn short_conv(x: Tensor<3>, filters: Tensor<2>, before: Tensor<3>, numbers: Option<Vec<usize>>, silu: bool) -> Tensor<3> {
    let inner = [flat(&x), flat(&filters), flat(&before)];
    let plan = short_conv::Plan { packed: numbers, silu };
    let y = short_conv::forward(&inner, &plan);
    let inputs = [x.into_dispatch(), filters.into_dispatch(), before.into_dispatch()];
    node::<Flex, _, _, _>(inputs, y, inner, move |saved, grad| short_conv::backward(&saved, &plan, &grad))
}

/// Maps `[B, Y, X, C]` convolved with filters `[C', C, k, k]`, and biases `[C']` added, on the CPU.
pub(crate) fn conv(x: Tensor<4>, filters: Tensor<4>, bias: Option<Tensor<1>>, [stride, padding]: [usize; 2]) -> Tensor<4> {
    let plan = depthwise::Plan { kernel: filters.dims()[2], stride, padding };
    let saved = conv::Saved { x: flat(&x).to_contiguous(), filters: flat(&filters).to_contiguous(), plan };
    let y = conv::forward(&saved.x, &saved.filters, bias.as_ref().map(flat).as_ref(), plan);
    let y = Tensor::from_dispatch(of_backend::<Flex>(y));
    let (x, filters) = (x.into_dispatch(), filters.into_dispatch());
    match bias {
        Some(bias) => with_gradient([x, filters, bias.into_dispatch()], y, Arc::new(saved)),
        None => with_gradient([x, filters], y, Arc::new(saved)),
    }
}

/// Maps `[B, Y, X, C]` convolved with filters `[C, 1, k, k]`, one per channel, and biases `[C]` added, on the CPU.
pub(crate) fn depthwise_conv(x: Tensor<4>, filters: Tensor<4>, bias: Option<Tensor<1>>, [stride, padding]: [usize; 2]) -> Tensor<4> {
    let plan = depthwise::Plan { kernel: filters.dims()[2], stride, padding };
    let saved = [flat(&x), flat(&filters)];
    let y = depthwise::forward(&saved[0], &saved[1], bias.as_ref().map(flat).as_ref(), plan);
    let (x, filters) = (x.into_dispatch(), filters.into_dispatch());
    match bias {
        Some(bias) => node::<Flex, _, _, _>([x, filters, bias.into_dispatch()], y, saved, move |[x, filters], grad| {
            depthwise::backward(&x, &filters, &grad, plan)
        }),
        None => node::<Flex, _, _, _>([x, filters], y, saved, move |[x, filters], grad| {
            let [x, filters, _] = depthwise::backward(&x, &filters, &grad, plan);
            [x, filters]
        }),
    }
}

/// `−exp(a_log) softplus(f + bias)`, or `bound · sigmoid(exp(a_log) (f + bias))`, on the CPU: `f` `[B, T, H, K]`, `a_log` `[H]`, `bias`
/// `[H, K]`.
pub(crate) fn decay_gate(f: Tensor<4>, a_log: Tensor<1>, bias: Tensor<2>, bound: Option<f64>) -> Tensor<4> {
    let inner = [flat(&f), flat(&a_log), flat(&bias)];
    let bound = bound.map(|bound| bound as f32);
    let y = decay_gate::forward(&inner, bound);
    let inputs = [f.into_dispatch(), a_log.into_dispatch(), bias.into_dispatch()];
    node::<Flex, _, _, _>(inputs, y, inner, move |saved, grad| decay_gate::backward(&saved, bound, &grad))
}

/// Parameter, first and second moment after a step of AdamW, from parameter, gradient and moments without automatic differentiation, on the
/// CPU.
pub(crate) fn adamw<const D: usize>(inputs: [&Tensor<D>; 4], step: AdamWStep) -> [Tensor<D>; 3] {
    adamw::update(&inputs.map(flat), step).map(|x| Tensor::from_dispatch(of_backend::<Flex>(x)))
}

/// `Σ x²` of a tensor without automatic differentiation, on the CPU.
pub(crate) fn sum_of_squares<const D: usize>(x: &Tensor<D>) -> f32 {
    scale::sum_of_squares(&flat(x))
}

/// `x · by` without automatic differentiation, on the CPU.
pub(crate) fn scale<const D: usize>(x: &Tensor<D>, by: f32) -> Tensor<D> {
    Tensor::from_dispatch(of_backend::<Flex>(scale::scale(&flat(x), by)))
}

/// Tensors without automatic differentiation side by side along their last axis, on the CPU.
pub(crate) fn join<const D: usize>(parts: &[Tensor<D>]) -> Tensor<D> {
    let parts: Vec<Flat> = parts.iter().map(flat).collect();
    Tensor::from_dispatch(of_backend::<Flex>(join::join(&parts)))
}

/// The cross entropy of each row on the CPU.
pub(crate) fn cross_entropy(logits: Tensor<2>, targets: Tensor<1, Int>, ignore: i64) -> Tensor<1> {
    let inner = flat(&logits);
    let targets: Vec<i64> = targets.into_data().iter::<i64>().collect();
    let losses = loss::forward(inner.clone(), &targets, ignore);
    let backward = move |[logits]: [Flat; 1], grad| [loss::backward(logits, &targets, grad, ignore)];
    node::<Flex, _, _, _>([logits.into_dispatch()], losses, [inner], backward)
}

/// The tensor without automatic differentiation.
fn flat<const D: usize>(x: &Tensor<D>) -> Flat {
    primitive::<Flex>(x.clone().inner().into_dispatch())
}

/// What a kernel computed, as a node of the graph with a kernel for its gradients.
fn node<B, const D: usize, const N: usize, const S: usize>(
    inputs: [DispatchTensor; N],
    output: FloatTensor<B>,
    saved: [FloatTensor<B>; S],
    backward: impl Fn([FloatTensor<B>; S], FloatTensor<B>) -> [FloatTensor<B>; N] + Send + Sync + 'static,
) -> Tensor<D>
where
    B: Backend,
    DispatchTensor: DispatchKindConversion<B>,
{
    with_gradient(inputs, Tensor::from_dispatch(of_backend::<B>(output)), Arc::new(Kernel::<B, S, _> { saved, backward }))
}

/// A backward kernel and what it needs.
struct Kernel<B: Backend, const S: usize, F> {
    saved: [FloatTensor<B>; S],
    backward: F,
}

impl<B: Backend, const S: usize, F> fmt::Debug for Kernel<B, S, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kernel").field("saved", &self.saved).finish_non_exhaustive()
    }
}

impl<B, const N: usize, const S: usize, F> GradientRule<N> for Kernel<B, S, F>
where
    B: Backend,
    DispatchTensor: DispatchKindConversion<B>,
    F: Fn([FloatTensor<B>; S], FloatTensor<B>) -> [FloatTensor<B>; N] + Send + Sync,
{
    fn gradients(&self, upstream: DispatchTensor, _: [bool; N]) -> [Option<DispatchTensor>; N] {
        (self.backward)(self.saved.clone(), primitive::<B>(upstream)).map(|gradient| Some(of_backend::<B>(gradient)))
    }
}
