//! Fused attention for GPUs, in CubeCL: on matrix units for f16 and bf16 where there are such, by warpgroups on NVIDIA's Hopper,
//! otherwise by multiply-adds in f32.
//! Results are the same bits in every run.

mod backward;
mod backward_hopper;
mod decode;
mod forward;
mod forward_hopper;
mod plan;
mod scores;

use burn::{
    backend::{
        Cube, TensorMetadata,
        ops::{BoolTensorOps, FloatTensorOps},
        tensor::FloatTensor,
    },
    tensor::{DType, FloatDType, IntDType, Shape, Slice},
};
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::{Gradients, Inputs, Maybe, MaybeBool, Options, Saved};
use crate::blocks::cube::{address_type, element, empty, rows, tensors::empty_like, tiles::exponent_unit};

pub(super) use plan::Plan;
use scores::Form;

/// Launches `kernel` over blocks × heads × sequences: inputs, what else it reads, scores' terms, what it writes, what it is compiled for.
macro_rules! launch {
    ($($kernel:ident)::+, $problem:ident, $form:expr, $cubes:expr, reads: [$($read:expr),*], writes: [$($write:expr),*], $($rest:expr),+) => {{
        let form: Form = $form;
        let [blocks, heads, sequences] = $cubes;
        // SAFETY: kernels read and write within the shapes, whatever the values.
        unsafe {
            $($kernel)::+::launch_unchecked(
                &$problem.q.client,
                CubeCount::Static(blocks as u32, heads as u32, sequences as u32),
                CubeDim::new_1d(form.units() as u32),
                $problem.address_type(&[$($write),*]),
                $problem.lanes,
                tensor(&$problem.q),
                tensor(&$problem.k),
                tensor(&$problem.v),
                $(tensor($read),)*
                $problem.bias(),
                $problem.distances(),
                $problem.padding(),
                $problem.scale(form),
                exponent_unit(form.products),
                $(tensor($write),)*
                $($rest,)+
                element(&$problem.q),
            );
        }
    }};
}

/// The output and the log-sum-exp.
pub(super) fn softmax_forward(plan: &Plan, inputs: Inputs<Cube>, options: Options) -> (FloatTensor<Cube>, FloatTensor<Cube>) {
    let ([b, h, t, k_width], [_, g, _, v_width]) = (dims(&inputs.q), dims(&inputs.v));
    let dtype = inputs.q.dtype();
    if t == 1 && matches!((&inputs.bias, &inputs.distances), (Maybe::None, Maybe::None)) {
        // The heads of a group as queries of one head, so that their keys and values are read once. One query sees all keys, causal or not.
        let inputs = Inputs { q: Cube::float_reshape(inputs.q.clone(), Shape::new([b, g, h / g, k_width])), ..inputs.clone() };
        let options = Options { causal: false, ..options };
        if let Some(plan) = Plan::new(&inputs, options)
            && (h > g || decode::takes(&plan, 1))
        {
            let (o, lse) = if decode::takes(&plan, h / g) {
                decode::decode(&Problem::new(inputs, options, &plan), &plan, v_width)
            } else {
                softmax_forward(&plan, inputs, options)
            };
            return (Cube::float_reshape(o, Shape::new([b, h, 1, v_width])), Cube::float_reshape(lse, Shape::new([b, h, 1])));
        }
    }
    let problem = Problem::new(inputs, options, plan);
    let o = empty_like(&problem.q, [b, h, t, plan.value_width], dtype);
    let lse = empty(&problem.q, [b, h, t], DType::F32);
    let form = plan.forward;
    let cubes = [t.div_ceil(form.rows()), h, b];
    if plan.warpgroups {
        let bf16 = dtype == DType::BF16;
        launch!(forward_hopper::forward_hopper, problem, form, cubes, reads: [], writes: [&o, &lse], form, bf16);
    } else {
        launch!(forward::forward, problem, form, cubes, reads: [], writes: [&o, &lse], form);
    }
    (narrow(o, v_width), lse)
}

/// The gradients that are `wanted`; that of the bias by distance is not computed.
pub(super) fn softmax_backward(
    plan: &Plan,
    inputs: Inputs<Cube>,
    options: Options,
    saved: Saved<Cube>,
    wanted: [bool; 5],
) -> Gradients<Cube> {
    let ([b, h, t, k_width], [_, g, s, v_width]) = (dims(&inputs.q), dims(&inputs.v));
    let dtype = inputs.q.dtype();
    let bf16 = dtype == DType::BF16;
    let problem = Problem::new(inputs, options, plan);
    let d_o = saved.d_o.into_option().unwrap_or_else(|| Cube::float_zeros(saved.o.shape(), &saved.o.device(), float(dtype)));
    let d_o = readable(widen(d_o, plan.value_width), plan.lanes);
    let lse = rows(saved.lse);
    let delta = delta(&readable(widen(saved.o, plan.value_width), plan.lanes), &d_o, saved.d_lse, plan);
    let scale = options.scale as f32;
    let mut gradients = Gradients { q: Maybe::None, k: Maybe::None, v: Maybe::None, bias: Maybe::None, distances: Maybe::None };
    if wanted[0] {
        let form = plan.queries;
        let d_q = empty_like(&problem.q, [b, h, t, plan.key_width], dtype);
        let cubes = [t.div_ceil(form.rows()), h, b];
        if plan.warpgroups {
            launch!(backward_hopper::queries_hopper, problem, form, cubes, reads: [&d_o, &lse, &delta], writes: [&d_q], scale, form, bf16);
        } else {
            launch!(backward::queries, problem, form, cubes, reads: [&d_o, &lse, &delta], writes: [&d_q], scale, form);
        }
        gradients.q = Maybe::Some(narrow(d_q, k_width));
    }
    if wanted[1] || wanted[2] {
        let form = plan.keys;
        let d_k = empty_like(&problem.k, [b, g, s, plan.key_width], dtype);
        let d_v = empty_like(&problem.v, [b, g, s, plan.value_width], dtype);
        let cubes = [s.div_ceil(form.rows()), g, b];
        if plan.warpgroups {
            launch!(backward_hopper::keys_hopper, problem, form, cubes, reads: [&d_o, &lse, &delta], writes: [&d_k, &d_v], scale, form, bf16);
        } else {
            launch!(backward::keys, problem, form, cubes, reads: [&d_o, &lse, &delta], writes: [&d_k, &d_v], scale, form);
        }
        gradients.k = Maybe::Some(narrow(d_k, k_width));
        gradients.v = Maybe::Some(narrow(d_v, v_width));
    }
    if wanted[3]
        && let Some(bias) = &problem.bias
    {
        let form = plan.bias;
        let [d_b, d_h, d_t, _] = dims(bias);
        let d_bias = empty(&problem.q, [d_b, d_h, d_t, s], dtype);
        let cubes = [s.div_ceil(form.columns()), if d_t == 1 { 1 } else { t.div_ceil(form.rows()) }, d_b * d_h];
        launch!(backward::bias, problem, form, cubes, reads: [&d_o, &lse, &delta], writes: [&d_bias], form);
        gradients.bias = Maybe::Some(d_bias);
    }
    gradients
}

/// What is subtracted from the gradients of weights, a number for each query.
fn delta(o: &CubeTensor, d_o: &CubeTensor, d_lse: Maybe<Cube>, plan: &Plan) -> CubeTensor {
    let [b, h, t, _] = dims(o);
    let delta = empty(o, [b, h, t], DType::F32);
    let d_lse = d_lse.into_option().map(rows);
    let has_d_lse = d_lse.is_some();
    let d_lse = d_lse.unwrap_or_else(|| delta.clone());
    let planes = 8;
    // SAFETY: rows past the last are not touched.
    unsafe {
        backward::delta::launch_unchecked(
            &o.client,
            CubeCount::Static((b * h * t).div_ceil(planes) as u32, 1, 1),
            CubeDim::new_1d(32 * planes as u32),
            address_type(&[o, d_o]),
            tensor(o),
            tensor(d_o),
            tensor(&d_lse),
            tensor(&delta),
            plan.value_width,
            has_d_lse,
            element(o),
        );
    }
    delta
}

/// Inputs as the kernels read them.
struct Problem {
    lanes: usize,
    q: CubeTensor,
    k: CubeTensor,
    v: CubeTensor,
    bias: Option<CubeTensor>,
    distances: Option<CubeTensor>,
    padding: Option<CubeTensor>,
    scale: f64,
}

impl Problem {
    fn new(inputs: Inputs<Cube>, options: Options, plan: &Plan) -> Self {
        let Inputs { q, k, v, bias, distances, padding } = inputs;
        Self {
            lanes: plan.lanes,
            q: readable(widen(q, plan.key_width), plan.lanes),
            k: readable(widen(k, plan.key_width), plan.lanes),
            v: readable(widen(v, plan.value_width), plan.lanes),
            bias: bias.into_option().map(rows),
            distances: distances.into_option().map(rows),
            padding: match padding {
                MaybeBool::Some(padding) => Some(rows(Cube::bool_into_int(padding, IntDType::I32))),
                MaybeBool::None => None,
            },
            scale: options.scale,
        }
    }

    fn scale(&self, form: Form) -> f32 {
        self.scale as f32 * exponent_unit(form.products)
    }

    /// Strides of 0 along what the bias is broadcast over.
    fn bias(&self) -> TensorArg {
        let Some(bias) = &self.bias else { return tensor(&self.q) };
        let shape = dims(bias);
        let strides = bias.meta.strides();
        let strides: [usize; 4] = std::array::from_fn(|i| if shape[i] == 1 { 0 } else { strides[i] });
        // SAFETY: every index within the broadcast shape is within the tensor.
        unsafe { TensorArg::from_raw_parts(bias.handle.clone(), strides.into(), bias.shape()) }
    }

    fn distances(&self) -> TensorArg {
        tensor(self.distances.as_ref().unwrap_or(&self.q))
    }

    fn padding(&self) -> TensorArg {
        tensor(self.padding.as_ref().unwrap_or(&self.q))
    }

    fn address_type(&self, others: &[&CubeTensor]) -> AddressType {
        let own = [&self.q, &self.k, &self.v].into_iter().chain(&self.bias);
        address_type(&own.chain(others.iter().copied()).collect::<Vec<_>>())
    }
}

fn tensor(x: &CubeTensor) -> TensorArg {
    x.clone().into_tensor_arg()
}

fn dims(x: &CubeTensor) -> [usize; 4] {
    x.shape().dims()
}

fn float(dtype: DType) -> FloatDType {
    dtype.into()
}

/// Rows that start at whole vectors of `lanes` numbers, in any order: a copy only if they do not.
fn readable(x: CubeTensor, lanes: usize) -> CubeTensor {
    let (shape, strides) = (dims(&x), x.meta.strides());
    let fits = !x.meta.is_tiled() && strides[3] == 1 && (0..3).all(|i| shape[i] == 1 || strides[i].is_multiple_of(lanes));
    if fits { x } else { rows(x) }
}

/// Rows with zeros behind, `width` numbers in all: zeros change no product.
fn widen(x: CubeTensor, width: usize) -> CubeTensor {
    let [a, b, c, d] = dims(&x);
    if d == width {
        return x;
    }
    let wide = Cube::float_zeros(Shape::new([a, b, c, width]), &x.device(), float(x.dtype()));
    Cube::float_slice_assign(wide, &[Slice::from(0..a), Slice::from(0..b), Slice::from(0..c), Slice::from(0..d)], x)
}

/// The reverse of [`widen`].
fn narrow(x: CubeTensor, width: usize) -> CubeTensor {
    let [a, b, c, d] = dims(&x);
    if d == width { x } else { Cube::float_slice(x, &[Slice::from(0..a), Slice::from(0..b), Slice::from(0..c), Slice::from(0..width)]) }
}
