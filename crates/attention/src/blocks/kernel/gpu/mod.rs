//! The kernels of the [module](super) for NVIDIA GPUs, in CubeCL, for f32, f16 and bf16 with statistics and sums in f32. Each function
//! gives nothing where it has no kernel for a tensor's device, type or shape.

mod loss;
mod norm;
mod pointwise;
mod table;
mod update;

use burn::{
    backend::{Cube, DispatchDevice, DispatchKindConversion, DispatchTensor, TensorMetadata, tensor::FloatTensor},
    tensor::{DType, Int, IntDType, Tensor},
};
use burn_cubecl::{ops::numeric::empty_device_contiguous_dtype, tensor::CubeTensor};
use cubecl::{ir::AddressType, prelude::*};

use super::node;
use crate::blocks::{
    adamw::AdamWStep,
    cube::{address_type, is_nvidia, rows},
    custom_gradient::{JointRule, of_backend, primitive, with_gradients},
};
pub(crate) use pointwise::Activation;

type Flat = FloatTensor<Cube>;

/// `f(x)`
pub(crate) fn activation<const D: usize>(x: &Tensor<D>, f: Activation) -> Option<Tensor<D>> {
    let inner = flat(x)?;
    let y = pointwise::map(&inner, f);
    Some(node::<Cube, D, 1, 1>([x.clone().into_dispatch()], y, [inner], move |[x], grad| [pointwise::map_backward(&x, &rows(grad), f)]))
}

/// `f(a) ⊙ b`, of one shape.
pub(crate) fn gate<const D: usize>(a: &Tensor<D>, b: &Tensor<D>, f: Activation) -> Option<Tensor<D>> {
    let inner = [flat(a)?, flat(b)?];
    if a.dims() != b.dims() || a.dtype() != b.dtype() {
        return None;
    }
    let y = pointwise::gate(&inner[0], &inner[1], f);
    Some(node::<Cube, D, 2, 2>([a, b].map(|x| x.clone().into_dispatch()), y, inner, move |[a, b], grad| {
        pointwise::gate_backward([&a, &b], &rows(grad), f)
    }))
}

/// `x + update` (`x` without an update), and its LayerNorm without bias (`center`) or RMSNorm over the last axis.
pub(crate) fn norm<const D: usize>(
    x: &Tensor<D>,
    update: Option<&Tensor<D>>,
    gamma: Option<&Tensor<1>>,
    epsilon: f64,
    center: bool,
) -> Option<[Tensor<D>; 2]> {
    let inner = flat(x)?;
    let (dtype, width) = (x.dtype(), x.dims()[D - 1]);
    let [flat_gamma, flat_update] = [gamma.map(flat), update.map(flat)].map(Option::flatten);
    let same = |there: bool, tensor: &Option<Flat>| tensor.as_ref().map_or(!there, |tensor| tensor.dtype == dtype);
    if !norm::takes(dtype, width) || !same(gamma.is_some(), &flat_gamma) || !same(update.is_some(), &flat_update) {
        return None;
    }
    let how = norm::Rows { epsilon: epsilon as f32, center };
    let (sum, y) = norm::forward(&inner, flat_update.as_ref(), flat_gamma.as_ref(), how);
    let rule = Norm { sum: sum.clone().unwrap_or(inner), gamma: flat_gamma, how };
    let x_node = x.clone().into_dispatch();
    let whole = |x: Flat| Tensor::from_dispatch(of_backend::<Cube>(x));
    let y = whole(y);
    let total = sum.map_or_else(|| x.clone().inner(), whole);
    Some(match (update, gamma) {
        (Some(update), Some(gamma)) => {
            with_gradients([x_node, update.clone().into_dispatch(), gamma.clone().into_dispatch()], [total, y], rule)
        }
        (Some(update), None) => with_gradients([x_node, update.clone().into_dispatch()], [total, y], rule),
        (None, Some(gamma)) => {
            let [y] = with_gradients([x_node, gamma.clone().into_dispatch()], [y], rule);
            [x.clone(), y]
        }
        (None, None) => {
            let [y] = with_gradients([x_node], [y], rule);
            [x.clone(), y]
        }
    })
}

#[derive(Debug)]
struct Norm {
    sum: Flat,
    gamma: Option<Flat>,
    how: norm::Rows,
}

/// Inputs: `x`, the update if there is one, γ if there is one; outputs: the sum if there is an update, its norm.
impl<const N: usize, const M: usize> JointRule<N, M> for Norm {
    fn gradients(&self, upstream: [Option<DispatchTensor>; M], _: [bool; N]) -> [Option<DispatchTensor>; N] {
        let mut upstream = upstream.map(|gradient| gradient.map(|gradient| rows(primitive::<Cube>(gradient))));
        let of_norm = upstream[M - 1].take();
        let of_sum = upstream[0].take();
        let (of_input, of_gamma) = match of_norm {
            Some(grad) => {
                let (of_input, of_gamma) = norm::backward(&self.sum, &grad, of_sum.as_ref(), self.gamma.as_ref(), self.how);
                (Some(of_input), of_gamma)
            }
            None => (of_sum, None),
        };
        let (of_input, of_gamma) = (of_input.map(of_backend::<Cube>), of_gamma.map(of_backend::<Cube>));
        std::array::from_fn(|input| if self.gamma.is_some() && input == N - 1 { of_gamma.clone() } else { of_input.clone() })
    }
}

/// The cross entropy of each row in f32.
pub(crate) fn cross_entropy(logits: &Tensor<2>, targets: &Tensor<1, Int>, ignore: i64) -> Option<Tensor<1>> {
    let inner = flat(logits)?;
    let targets = ids(targets)?;
    let ignore = i32::try_from(ignore).ok()?;
    let [losses, log_sums] = loss::forward(&inner, &targets, ignore);
    Some(node::<Cube, 1, 1, 3>(
        [logits.clone().into_dispatch()],
        losses,
        [inner, targets, log_sums],
        move |[logits, targets, sums], grad| [loss::backward(&logits, &targets, [&sums, &rows(grad)], ignore)],
    ))
}

/// The rows `ids` of a table. `[rows, width]`, `[…]` → `[…, width]`
pub(crate) fn look_up(table: &Tensor<2>, numbers: &Tensor<2, Int>) -> Option<Tensor<3>> {
    let _ = flat(table)?;
    let [[b, t], [rows_of_table, width]] = [numbers.dims(), table.dims()];
    let numbers = numbers.clone().inner().reshape([b * t]);
    let found = table.clone().inner().select(0, numbers.clone());
    let found = primitive::<Cube>(found.reshape([b, t, width]).into_dispatch());
    let saved = ids(&numbers)?;
    Some(node::<Cube, 3, 1, 1>([table.clone().into_dispatch()], found, [saved], move |[ids], grad| {
        [table::backward(&ids, &rows(grad), rows_of_table)]
    }))
}

/// Parameter, first and second moment after a step of AdamW, in f32, for a gradient of any type, times `factor`.
pub(crate) fn adamw<const D: usize>(inputs: [&Tensor<D>; 4], factor: Option<&Tensor<1>>, step: AdamWStep) -> Option<[Tensor<D>; 3]> {
    let [parameter, grad, m, v] = inputs.map(flat);
    let state = [parameter?, m?, v?];
    let factor = factor.map(flat);
    if state.iter().chain(factor.iter().flatten()).any(|x| x.dtype != DType::F32) || factor.as_ref().is_some_and(Option::is_none) {
        return None;
    }
    let next = update::adamw(&state, &grad?, factor.flatten().as_ref(), step);
    Some(next.map(|x| Tensor::from_dispatch(of_backend::<Cube>(x))))
}

/// `√Σ x²` over all numbers of all tensors, in f32. `[1]`
pub(crate) fn norm_of_all(tensors: &[Tensor<1>]) -> Option<Tensor<1>> {
    let tensors = tensors.iter().map(flat).collect::<Option<Vec<_>>>()?;
    Some(Tensor::from_dispatch(of_backend::<Cube>(update::norm_of_all(&tensors)?)))
}

/// The tensor without automatic differentiation and with its numbers one after another, if there are kernels for it.
fn flat<const D: usize>(x: &Tensor<D>) -> Option<Flat> {
    if !matches!(x.device().inner().as_dispatch(), DispatchDevice::Cube(_)) || x.dims().contains(&0) {
        return None;
    }
    let x = primitive::<Cube>(x.clone().inner().into_dispatch());
    (matches!(x.dtype, DType::F32 | DType::F16 | DType::BF16) && is_nvidia(&x.client)).then(|| rows(x))
}

/// Integers in 32 bits, which are not differentiated.
fn ids(x: &Tensor<1, Int>) -> Option<Flat> {
    let x = x.clone().inner().cast(IntDType::I32).into_dispatch();
    let x = <DispatchTensor as DispatchKindConversion<Cube>>::try_into_backend(x).ok()?;
    Some(rows(x.int()))
}

/// A tensor to be filled, of the shape and type of another, which is contiguous.
fn like(x: &CubeTensor) -> CubeTensor {
    empty_device_contiguous_dtype(x.client.clone(), x.device.clone(), x.shape(), x.dtype)
}

/// The largest number of elements, up to 16 bytes, in which a row of `width` can be read.
fn vector_of(dtype: DType, width: usize) -> usize {
    [8, 4, 2].into_iter().find(|size| size * dtype.size() <= 16 && width.is_multiple_of(*size)).unwrap_or(1)
}

/// All elements of a contiguous tensor, a vector for each unit.
struct Span {
    vector: usize,
    vectors: usize,
    address: AddressType,
}

impl Span {
    fn of(x: &CubeTensor) -> Self {
        let all = x.meta.num_elements();
        let vector = vector_of(x.dtype, all);
        Self { vector, vectors: all / vector, address: address_type(&[x]) }
    }

    fn cubes(&self) -> CubeCount {
        CubeCount::Static(self.vectors.div_ceil(256) as u32, 1, 1)
    }

    fn cube(&self) -> CubeDim {
        CubeDim::new_1d(256)
    }
}
