//! Fused kernels for GPUs, chunk by chunk as those for the CPU: what chunks have besides the state, all at once; the state from chunk
//! to chunk, by slices of its columns; backward the same in reverse, and the gradients inside the chunks, all at once.

mod backward;
mod chunk;
mod decays;
mod form;
mod forward;
mod packed;
mod problem;
mod step;

use burn::{
    backend::{Cube, TensorMetadata, ops::FloatTensorOps},
    tensor::{DType, Shape},
};
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::{Gradients, Inputs, Options, Output, Saved};
use crate::blocks::cube::{
    address_type, element, empty, rows,
    tensors::{buffer, dims, empty_like, vector_size, with_whole_rows},
};
pub(super) use problem::takes;
use problem::{Problem, heads_first, tokens_first};

/// The outputs; what is kept are the states before the chunks, `[B·W, chunks, K, V]`; of packed sequences, one after another.
///
/// # Panics
/// Where [`takes`] says no.
pub(super) fn forward(inputs: Inputs<Cube>, options: &Options, keep: bool) -> Output<Cube> {
    match &options.boundaries {
        Some(boundaries) => packed::forward(&inputs, boundaries, options, keep),
        None => sequences(inputs, options, keep),
    }
}

/// Sequences of one length.
fn sequences(inputs: Inputs<Cube>, options: &Options, keep: bool) -> Output<Cube> {
    let problem = Problem::new(inputs, options);
    if !keep && problem.tokens == 1 {
        return one_token(problem);
    }
    let prepared = problem.prepare(false);
    let [b, w, d_k, d_v] = dims(&problem.state);
    let (like, first) = (&problem.v, &problem.state);
    let out = empty_like(like, [b, w, problem.tokens, d_v], like.dtype);
    let last = empty(first, [b, w, d_k, d_v], DType::F32);
    let kept = if keep { [b * w, problem.chunks, d_k, d_v] } else { [1; 4] };
    let states = empty(first, kept, DType::F32);
    // SAFETY: the kernels check tokens and columns against the shapes; scratch has room for whole chunks.
    unsafe {
        forward::carry::launch_unchecked(
            &like.client,
            problem.slices(),
            problem.form.cube(),
            address_type(&[like, first, &states, &prepared.w, &prepared.u]),
            prepared.vector,
            buffer(&prepared.q_start),
            buffer(&prepared.k_end),
            buffer(&prepared.w),
            buffer(&prepared.u),
            buffer(&prepared.scores),
            buffer(&prepared.total),
            buffer(first),
            buffer(&last),
            buffer(&states),
            out.clone().into_tensor_arg(),
            d_k,
            keep,
            problem.form,
            problem.types(),
        );
    }
    Output { o: tokens_first(out), state: last, states }
}

/// The gradients of all inputs.
///
/// # Panics
/// Where [`takes`] says no.
pub(super) fn backward(inputs: Inputs<Cube>, options: &Options, saved: Saved<Cube>) -> Gradients<Cube> {
    match &options.boundaries {
        Some(boundaries) => packed::backward(&inputs, boundaries, options, saved),
        None => gradients(inputs, options, saved),
    }
}

/// Of sequences of one length.
fn gradients(inputs: Inputs<Cube>, options: &Options, saved: Saved<Cube>) -> Gradients<Cube> {
    let g_width = dims(&inputs.g)[3];
    let problem = Problem::new(inputs, options);
    let prepared = problem.prepare(true);
    let ([b, w, d_k, d_v], [_, h, t, _]) = (dims(&problem.state), dims(&problem.q));
    let (like, form, by_chunk, chunks) = (&problem.v, problem.form, problem.by_chunk(), problem.chunks);
    let zeros = |shape: Shape, dtype: DType| Cube::float_zeros(shape, &like.device, dtype.into());
    let d_o = saved.d_o.into_option().unwrap_or_else(|| zeros(Shape::from([b, t, w, d_v]), like.dtype));
    let d_o = with_whole_rows(heads_first(d_o));
    let d_last = rows(saved.d_state.into_option().unwrap_or_else(|| zeros(problem.state.shape(), DType::F32)));
    // Of packed sequences, a part of those of all.
    let states = rows(saved.states);
    let scratch = |width: [usize; 2], dtype: DType| empty(like, [b * w, chunks, width[0], width[1]], dtype);
    let d_state = empty(like, [b, w, d_k, d_v], DType::F32);
    let [d_states, d_writes] = [form.d_k, form.chunk].map(|rows| scratch([rows, form.d_v], problem.tile));
    let [d_scores, d_corrections] = [(); 2].map(|()| scratch([form.chunk; 2], problem.tile));
    let [row_q, row_k, column_k] = [(); 3].map(|()| scratch([form.chunk, form.d_k], DType::F32));
    let d_total = scratch([1, form.d_k], DType::F32);
    let d_v_out = empty_like(like, [b, w, t, d_v], like.dtype);
    let [d_q, d_k_out] = [&problem.q, &problem.k].map(|x| empty_like(x, [b, w, t, d_k], x.dtype));
    let d_g = empty_like(&problem.g, [b, w, t, d_k], DType::F32);
    let by_channels = by_chunk.of_channels();
    let slices = form.d_k / by_channels.d_k;
    let by_values = empty(like, [b * w, t], DType::F32);
    let by_keys = empty(like, [slices, b * w, t], DType::F32);
    let address = address_type(&[like, &states, &d_states, &row_q, &d_g]);
    let vector = vector_size(&[&problem.q, &problem.k, like, &d_o, &d_v_out], problem.tile).min(prepared.vector);
    let (client, types) = (&like.client, problem.types());
    // SAFETY: as in `forward`.
    unsafe {
        backward::carry_back::launch_unchecked(
            client,
            problem.slices(),
            form.cube(),
            address,
            vector,
            buffer(&prepared.q_start),
            buffer(&prepared.k_end),
            buffer(&prepared.w),
            buffer(&prepared.scores),
            buffer(&prepared.total),
            d_o.clone().into_tensor_arg(),
            buffer(&d_last),
            buffer(&d_state),
            buffer(&d_states),
            buffer(&d_writes),
            d_k,
            form,
            types,
        );
        backward::through_states::launch_unchecked(
            client,
            problem.all_chunks(1),
            by_chunk.cube(),
            address,
            vector,
            like.clone().into_tensor_arg(),
            problem.beta.clone().into_tensor_arg(),
            d_o.into_tensor_arg(),
            buffer(&prepared.w),
            buffer(&prepared.u),
            buffer(&prepared.inverse),
            buffer(&prepared.total),
            buffer(&states),
            buffer(&d_states),
            buffer(&d_writes),
            buffer(&d_scores),
            buffer(&d_corrections),
            d_v_out.clone().into_tensor_arg(),
            buffer(&by_values),
            buffer(&row_q),
            buffer(&row_k),
            buffer(&column_k),
            buffer(&d_total),
            d_k,
            by_chunk,
            types,
        );
        decays::through_decays::launch_unchecked(
            client,
            problem.all_chunks(slices),
            by_channels.cube(),
            address,
            vector,
            problem.q.clone().into_tensor_arg(),
            problem.k.clone().into_tensor_arg(),
            problem.g.clone().into_tensor_arg(),
            problem.beta.clone().into_tensor_arg(),
            buffer(&d_scores),
            buffer(&d_corrections),
            buffer(&row_q),
            buffer(&row_k),
            buffer(&column_k),
            buffer(&d_total),
            d_q.clone().into_tensor_arg(),
            d_k_out.clone().into_tensor_arg(),
            d_g.clone().into_tensor_arg(),
            buffer(&by_keys),
            problem.scale,
            form.d_k,
            by_channels,
            types,
        );
    }
    // The heads that read one query/key head, and a decay that all channels share.
    let grouped = |x: CubeTensor| {
        let x = tokens_first(x);
        if h == w {
            return x;
        }
        let x = Cube::float_reshape(x, Shape::from([b, t, h, w / h, d_k]));
        Cube::float_reshape(Cube::float_sum_dim(x, 3), Shape::from([b, t, h, d_k]))
    };
    let d_g = tokens_first(d_g);
    let d_beta = Cube::float_add(Cube::float_reshape(Cube::float_sum_dim(by_keys, 0), Shape::from([b * w, t])), by_values);
    let d_beta = Cube::float_swap_dims(Cube::float_reshape(d_beta, Shape::from([b, w, t])), 1, 2);
    Gradients {
        q: grouped(d_q),
        k: grouped(d_k_out),
        v: tokens_first(d_v_out),
        g: if g_width == d_k { d_g } else { Cube::float_sum_dim(d_g, 3) },
        beta: d_beta,
        state: d_state,
    }
}

/// The state changes where it lies if nobody else holds it.
fn one_token(problem: Problem) -> Output<Cube> {
    let Problem { q, k, v, g, beta, state, scale, .. } = problem;
    let [b, w, _, d_v] = dims(&state);
    // A copy may have gaps between its rows.
    let state = if state.can_mut() { state } else { rows(state.copy()) };
    let out = empty_like(&v, [b, w, 1, d_v], v.dtype);
    let (client, kind) = (v.client.clone(), element(&v));
    let address = address_type(&[&q, &k, &v, &g, &state]);
    // SAFETY: rows and columns are checked against the shapes, which `state` agrees with.
    unsafe {
        step::step::launch_unchecked(
            &client,
            CubeCount::Static(d_v.div_ceil(step::COLUMNS) as u32, (b * w) as u32, 1),
            CubeDim::new_1d((step::COLUMNS * step::GROUPS) as u32),
            address,
            q.into_tensor_arg(),
            k.into_tensor_arg(),
            v.into_tensor_arg(),
            g.into_tensor_arg(),
            beta.into_tensor_arg(),
            buffer(&state),
            out.clone().into_tensor_arg(),
            scale,
            kind,
        );
    }
    let none = empty(&state, [1; 4], DType::F32);
    Output { o: tokens_first(out), state, states: none }
}
