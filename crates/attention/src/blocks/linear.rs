use std::sync::Arc;

use burn::{
    backend::DispatchTensor,
    module::Param,
    nn::Linear,
    tensor::{Tensor, module},
};

use super::{
    custom_gradient::{GradientRule, with_gradient},
    kernel, matmul,
    split::{cut, join, split},
};

/// `y = x W + b` over the last axis; on the CPU as one kernel in each direction, on NVIDIA GPUs as a product of cuBLASLt's, and its
/// gradients as two: sums in f32, those of f32 exact to its rounding.
///
/// # Shapes
/// - `x`: `[…, n]`; `weight`: `[n, m]`; `bias`: `[m]`; output: `[…, m]`
pub fn linear<const D: usize>(x: Tensor<D>, weight: Tensor<2>, bias: Option<Tensor<1>>) -> Tensor<D> {
    if D > 1 && kernel::on_cpu(&x.device(), x.dtype()) && weight.dtype() == x.dtype() {
        kernel::linear(x, weight, bias)
    } else if D > 1 && cfg!(feature = "cuda") {
        on_gpu(x, weight, bias)
    } else {
        module::linear(x, weight, bias)
    }
}

fn on_gpu<const D: usize>(x: Tensor<D>, weight: Tensor<2>, bias: Option<Tensor<1>>) -> Tensor<D> {
    let inner = [flat(x.clone().inner()), weight.clone().inner()];
    let Some(y) = matmul::fast(&inner[0], &inner[1], bias.as_ref()) else { return module::linear(x, weight, bias) };
    let mut dims = x.dims();
    dims[D - 1] = weight.dims()[1];
    let rule =
        Arc::new(Products { shape: x.dims(), x: inner[0].clone(), weight: inner[1].clone(), turned: matmul::lies_turned(&inner[1]) });
    let (y, x, weight) = (y.reshape(dims), x.into_dispatch(), weight.into_dispatch());
    match bias {
        Some(bias) => with_gradient([x, weight, bias.into_dispatch()], y, rule),
        None => with_gradient([x, weight], y, rule),
    }
}

/// The rows of a tensor.
fn flat<const D: usize>(x: Tensor<D>) -> Tensor<2> {
    let dims = x.dims();
    x.reshape([dims[..D - 1].iter().product::<usize>(), dims[D - 1]])
}

/// The inputs of `y = x W + b` on a GPU.
#[derive(Debug)]
struct Products<const D: usize> {
    shape: [usize; D],
    x: Tensor<2>,
    weight: Tensor<2>,
    /// Whether the columns of the weight lie one after another, as those of an embedding that is also the head.
    turned: bool,
}

impl<const D: usize, const I: usize> GradientRule<I> for Products<D> {
    fn gradients(&self, upstream: DispatchTensor, wanted: [bool; I]) -> [Option<DispatchTensor>; I] {
        let upstream = flat(Tensor::<D>::from_dispatch(upstream));
        let (x, weight) = (&self.x, &self.weight);
        std::array::from_fn(|input| {
            let gradient = || match input {
                0 => matmul::matmul(upstream.clone(), weight.clone().transpose()).reshape(self.shape).into_dispatch(),
                // It lies as the weight does, so that what adds to it or reads both finds numbers side by side.
                1 if self.turned => matmul::matmul(upstream.clone().transpose(), x.clone()).transpose().into_dispatch(),
                1 => matmul::matmul(x.clone().transpose(), upstream.clone()).into_dispatch(),
                // A sum over many rows, in f32 whatever their type.
                _ => {
                    let ones = Tensor::<2>::ones([1, x.dims()[0]], (&upstream.device(), upstream.dtype()));
                    matmul::matmul(ones, upstream.clone()).reshape([weight.dims()[1]]).into_dispatch()
                }
            };
            wanted[input].then(gradient)
        })
    }
}

/// What [`Linear::forward`] computes, by [`linear`].
///
/// # Shapes
/// - `x`: `[…, n]`; output: `[…, m]` for a layer from n to m
pub fn project<const D: usize>(layer: &Linear, x: Tensor<D>) -> Tensor<D> {
    linear(x, layer.weight.val(), layer.bias.as_ref().map(Param::val))
}

/// What [`project`] gives, its last axis cut into parts of `lengths`; on the CPU the parts are views whose gradients are not joined.
///
/// # Shapes
/// - `x`: `[…, n]`; outputs: `[…, length]` each
///
/// # Panics
/// If the lengths do not add up to the outputs of the layer.
pub fn project_split<const D: usize, const N: usize>(layer: &Linear, x: Tensor<D>, lengths: [usize; N]) -> [Tensor<D>; N] {
    if fused(&x, layer) {
        assert_eq!(lengths.iter().sum::<usize>(), layer.weight.dims()[1], "lengths of the parts");
        kernel::linear_split(x, layer.weight.val(), layer.bias.as_ref().map(Param::val), lengths)
    } else {
        split(project(layer, x), D - 1, lengths)
    }
}

/// What [`project`] gives for each of several layers; on the CPU by one product, whose gradient of `x` is one sum.
///
/// # Shapes
/// - `x`: `[…, n]`; outputs: `[…, m]` for each layer from n to m
pub fn project_each<const D: usize, const N: usize>(layers: [&Linear; N], x: Tensor<D>) -> [Tensor<D>; N] {
    let biased = layers[0].bias.is_some();
    // Few tokens read each weight about once: side by side the weights would be copied first.
    let tokens = x.dims()[..D - 1].iter().product::<usize>();
    if tokens < FEW_TOKENS || layers.iter().any(|layer| layer.bias.is_some() != biased || !fused(&x, layer)) {
        return layers.map(|layer| project(layer, x.clone()));
    }
    let weights = layers.map(|layer| layer.weight.val());
    let lengths = weights.each_ref().map(|weight| weight.dims()[1]);
    let biases: Vec<Tensor<1>> = layers.iter().filter_map(|layer| layer.bias.as_ref().map(Param::val)).collect();
    let bias = <[Tensor<1>; N]>::try_from(biases).ok().map(side_by_side);
    kernel::linear_split(x, side_by_side(weights), bias, lengths)
}

/// Tokens below which copies of the weights cost more than one product saves.
const FEW_TOKENS: usize = 64;

fn fused<const D: usize>(x: &Tensor<D>, layer: &Linear) -> bool {
    D > 1 && kernel::on_cpu(&x.device(), x.dtype()) && layer.weight.val().dtype() == x.dtype()
}

/// Tensors joined along their last axis, whose gradients are views of its gradient.
fn side_by_side<const D: usize, const N: usize>(parts: [Tensor<D>; N]) -> Tensor<D> {
    let inner = parts.each_ref().map(|part| part.clone().inner());
    let lengths = inner.each_ref().map(|part| part.dims()[D - 1]);
    with_gradient(parts.map(Tensor::into_dispatch), join(inner.to_vec(), D - 1), Arc::new(Columns::<D, N> { lengths }))
}

#[derive(Debug)]
struct Columns<const D: usize, const N: usize> {
    lengths: [usize; N],
}

impl<const D: usize, const N: usize> GradientRule<N> for Columns<D, N> {
    fn gradients(&self, upstream: DispatchTensor, _: [bool; N]) -> [Option<DispatchTensor>; N] {
        cut(&Tensor::<D>::from_dispatch(upstream), D - 1, self.lengths).map(|gradient| Some(gradient.into_dispatch()))
    }
}
