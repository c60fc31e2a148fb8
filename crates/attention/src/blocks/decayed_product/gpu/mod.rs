//! Fused kernels for GPUs. Forward and backward are made of one thing, the sweep over the past or from the future that the kernels for
//! the CPU are made of; its segments run in parallel.

mod kernels;
mod step;
mod sweep;

use burn::{
    backend::{Cube, TensorMetadata},
    tensor::DType,
};
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::{
    Plan,
    extension::{Cotangents, InputGradients, Inputs},
};
use crate::blocks::{
    Maybe,
    cube::{
        address_type, element, rows,
        tensors::{buffer, constant, dims, empty_like, with_whole_rows},
    },
};
use sweep::{Direction, Lanes, Roles, Sweep};

/// Whether the kernels take heads of this type and these widths.
pub(super) fn takes(client: &Client, dtype: DType, d_k: usize, d_v: usize) -> bool {
    matches!(dtype, DType::F32 | DType::BF16 | DType::F16)
        && Lanes::new(client, dtype, d_k, d_v).is_some()
        && Lanes::new(client, dtype, d_v, d_k).is_some()
}

/// The columns of a tensor `[B, H, T, width]`.
pub(super) fn width(x: &CubeTensor) -> usize {
    dims(x)[3]
}

/// Output and final state.
///
/// # Panics
/// On packed sequences, and where [`takes`] says no.
pub(super) fn forward(inputs: Inputs<Cube>, plan: &Plan) -> (CubeTensor, CubeTensor) {
    assert!(plan.bounds.is_none(), "packed sequences are cut before the kernels");
    let [q, k, v] = [inputs.q, inputs.k, inputs.v].map(with_whole_rows);
    let state = rows(inputs.state);
    if dims(&q)[2] == 1 {
        return one_token([q, k, v], state, plan);
    }
    let sweep = Sweep::new(plan, dims(&q), dims(&v)[3], Direction::Past, &q);
    let (states, last) = sweep.states(&k, &v, state);
    let o = sweep.outputs(Roles { a: &q, b: &k, c: &v }, &states, false);
    (o, last)
}

/// Gradients of q, k, v and the initial state, those that are wanted: sweeps as in the kernels for the CPU.
///
/// # Panics
/// As [`forward`].
pub(super) fn backward(
    inputs: Inputs<Cube>,
    cotangents: Cotangents<Cube>,
    plan: &Plan,
    [want_q, want_k, want_v, want_state]: [bool; 4],
) -> InputGradients<Cube> {
    assert!(plan.bounds.is_none(), "packed sequences are cut before the kernels");
    let [q, k, v] = [inputs.q, inputs.k, inputs.v].map(with_whole_rows);
    let zeros = |like: &CubeTensor, dtype: DType| {
        burn_cubecl::ops::numeric::zeros_client(like.client.clone(), like.device.clone(), like.shape(), dtype)
    };
    let state = rows(inputs.state);
    let d_o = cotangents.o.into_option().map_or_else(|| rows(zeros(&v, v.dtype)), with_whole_rows);
    let ([b, h, t, d_k], d_v) = (dims(&q), dims(&v)[3]);
    let mut gradients = InputGradients { q: Maybe::None, k: Maybe::None, v: Maybe::None, state: Maybe::None };
    if want_q {
        let states = Sweep::new(plan, [b, h, t, d_k], d_v, Direction::Past, &q).states(&k, &v, state.clone()).0;
        let sweep = Sweep::new(plan, [b, h, t, d_v], d_k, Direction::Past, &q);
        gradients.q = Maybe::Some(sweep.outputs(Roles { a: &d_o, b: &v, c: &k }, &states, true));
    }
    if want_k || want_v || want_state {
        let d_state = rows(cotangents.state.into_option().unwrap_or_else(|| zeros(&state, DType::F32)));
        let sweep = Sweep::new(plan, [b, h, t, d_k], d_v, Direction::Future, &q);
        let (states, first) = sweep.states(&q, &d_o, d_state);
        if want_v {
            gradients.v = Maybe::Some(sweep.outputs(Roles { a: &k, b: &q, c: &d_o }, &states, false));
        }
        if want_k {
            let sweep = Sweep::new(plan, [b, h, t, d_v], d_k, Direction::Future, &q);
            gradients.k = Maybe::Some(sweep.outputs(Roles { a: &v, b: &d_o, c: &q }, &states, true));
        }
        if want_state {
            gradients.state = Maybe::Some(first);
        }
    }
    gradients
}

/// The state changes where it lies if nobody else holds it.
fn one_token([q, k, v]: [CubeTensor; 3], state: CubeTensor, plan: &Plan) -> (CubeTensor, CubeTensor) {
    let ([b, h, t, _], d_v) = (dims(&q), dims(&v)[3]);
    // A copy may have gaps between its rows.
    let state = if state.can_mut() { state } else { rows(state.copy()) };
    let out = empty_like(&q, [b, h, t, d_v], q.dtype);
    let decays = plan.heads(h).map(|slope| (-slope).exp() as f32).collect::<Vec<_>>();
    let client = q.client.clone();
    let address = address_type(&[&q, &k, &v, &state, &out]);
    let (kind, powers) = (element(&q), constant(&q, &decays));
    let cubes = CubeCount::Static(d_v.div_ceil(step::COLUMNS) as u32, (b * h) as u32, 1);
    // SAFETY: rows and columns are checked against the shapes, which `state` agrees with.
    unsafe {
        step::step::launch_unchecked(
            &client,
            cubes,
            CubeDim::new_1d((step::COLUMNS * step::GROUPS) as u32),
            address,
            q.into_tensor_arg(),
            k.into_tensor_arg(),
            v.into_tensor_arg(),
            powers,
            buffer(&state),
            out.clone().into_tensor_arg(),
            plan.scale as f32,
            kind,
        );
    }
    (out, state)
}
