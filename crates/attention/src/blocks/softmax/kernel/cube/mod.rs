//! Fused attention for GPUs, in CubeCL: on matrix units for f16 and bf16 where there are such, otherwise by multiply-adds in f32.
//! Results are the same bits in every run.

mod backward;
mod forward;
mod plan;
mod scores;

use burn::{
    backend::{Backend, Cube, TensorMetadata, ops::FloatTensorOps, tensor::FloatTensor},
    tensor::{DType, IntDType, Shape, Slice},
};
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::{Gradients, Inputs, Maybe, MaybeBool, Options, Saved};
use crate::blocks::cube::{address_type, element, empty, rows, tiles::exponent_unit};

pub(super) use plan::Plan;
use scores::Form;

/// The output and the log-sum-exp.
pub(super) fn softmax_forward(plan: &Plan, inputs: Inputs<Cube>, options: Options) -> (FloatTensor<Cube>, FloatTensor<Cube>) {
    let [b, h, t, _] = dims(&inputs.q);
    let v_width = dims(&inputs.v)[3];
    let problem = Problem::new(inputs, options, plan);
    let o = empty(&problem.q, [b, h, t, plan.value_width], problem.q.dtype());
    let lse = empty(&problem.q, [b, h, t], DType::F32);
    let form = plan.forward;
    // SAFETY: the kernel reads and writes within the shapes, whatever the values.
    unsafe {
        forward::forward::launch_unchecked(
            &problem.q.client,
            CubeCount::Static(t.div_ceil(form.rows()) as u32, h as u32, b as u32),
            CubeDim::new_1d(form.units() as u32),
            problem.address_type(&[&o]),
            plan.lanes,
            tensor(&problem.q),
            tensor(&problem.k),
            tensor(&problem.v),
            problem.bias(),
            problem.distances(),
            problem.padding(),
            problem.scale(form),
            exponent_unit(form.products),
            tensor(&o),
            tensor(&lse),
            form,
            element(&problem.q),
        );
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
    let (q_shape, k_shape, v_shape) = (dims(&inputs.q), dims(&inputs.k), dims(&inputs.v));
    let ([b, h, t, k_width], [_, g, s, v_width]) = (q_shape, v_shape);
    let dtype = inputs.q.dtype();
    let problem = Problem::new(inputs, options, plan);
    let d_o = saved.d_o.into_option().unwrap_or_else(|| Cube::float_zeros(saved.o.shape(), &saved.o.device(), float(dtype)));
    let d_o = readable(widen(d_o, plan.value_width), plan.lanes);
    let lse = rows(saved.lse);
    let delta = delta(rows(widen(saved.o, plan.value_width)), &d_o, saved.d_lse, plan);
    let units = |form: Form| CubeDim::new_1d(form.units() as u32);
    let client = &problem.q.client;
    let mut gradients = Gradients { q: Maybe::None, k: Maybe::None, v: Maybe::None, bias: Maybe::None, distances: Maybe::None };
    if wanted[0] {
        let form = plan.queries;
        let d_q = empty(&problem.q, [b, h, t, plan.key_width], dtype);
        // SAFETY: as in the forward pass.
        unsafe {
            backward::queries::launch_unchecked(
                client,
                CubeCount::Static(t.div_ceil(form.rows()) as u32, h as u32, b as u32),
                units(form),
                problem.address_type(&[&d_o]),
                plan.lanes,
                tensor(&problem.q),
                tensor(&problem.k),
                tensor(&problem.v),
                tensor(&d_o),
                tensor(&lse),
                tensor(&delta),
                problem.bias(),
                problem.distances(),
                problem.padding(),
                problem.scale(form),
                exponent_unit(form.products),
                tensor(&d_q),
                options.scale as f32,
                form,
                element(&problem.q),
            );
        }
        gradients.q = Maybe::Some(narrow(d_q, k_width));
    }
    if wanted[1] || wanted[2] {
        let form = plan.keys;
        let d_k = empty(&problem.q, [b, g, s, plan.key_width], dtype);
        let d_v = empty(&problem.q, [b, g, s, plan.value_width], dtype);
        // SAFETY: as in the forward pass.
        unsafe {
            backward::keys::launch_unchecked(
                client,
                CubeCount::Static(s.div_ceil(form.rows()) as u32, g as u32, b as u32),
                units(form),
                problem.address_type(&[&d_o]),
                plan.lanes,
                tensor(&problem.q),
                tensor(&problem.k),
                tensor(&problem.v),
                tensor(&d_o),
                tensor(&lse),
                tensor(&delta),
                problem.bias(),
                problem.distances(),
                problem.padding(),
                problem.scale(form),
                exponent_unit(form.products),
                tensor(&d_k),
                tensor(&d_v),
                options.scale as f32,
                form,
                element(&problem.q),
            );
        }
        gradients.k = Maybe::Some(narrow(d_k, k_shape[3]));
        gradients.v = Maybe::Some(narrow(d_v, v_width));
    }
    if wanted[3]
        && let Some(bias) = &problem.bias
    {
        let form = plan.bias;
        let [d_b, d_h, d_t, _] = dims(bias);
        let d_bias = empty(&problem.q, [d_b, d_h, d_t, s], dtype);
        let blocks = if d_t == 1 { 1 } else { t.div_ceil(form.rows()) };
        // SAFETY: as in the forward pass.
        unsafe {
            backward::bias::launch_unchecked(
                client,
                CubeCount::Static(s.div_ceil(form.columns()) as u32, blocks as u32, (d_b * d_h) as u32),
                units(form),
                problem.address_type(&[&d_o, &d_bias]),
                plan.lanes,
                tensor(&problem.q),
                tensor(&problem.k),
                tensor(&problem.v),
                tensor(&d_o),
                tensor(&lse),
                tensor(&delta),
                problem.bias(),
                problem.distances(),
                problem.padding(),
                problem.scale(form),
                exponent_unit(form.products),
                tensor(&d_bias),
                form,
                element(&problem.q),
            );
        }
        gradients.bias = Maybe::Some(d_bias);
    }
    gradients
}

/// What is subtracted from the gradients of weights, a number for each query.
fn delta(o: CubeTensor, d_o: &CubeTensor, d_lse: Maybe<Cube>, plan: &Plan) -> CubeTensor {
    let [b, h, t, _] = dims(&o);
    let d_o = rows(d_o.clone());
    let delta = empty(&o, [b, h, t], DType::F32);
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
            address_type(&[&o]),
            tensor(&o),
            tensor(&d_o),
            tensor(&d_lse),
            tensor(&delta),
            plan.value_width,
            has_d_lse,
            element(&o),
        );
    }
    delta
}

/// Inputs as the kernels read them.
struct Problem {
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

fn float(dtype: DType) -> burn::tensor::FloatDType {
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
