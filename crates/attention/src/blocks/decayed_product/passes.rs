//! Forward and backward, group by group. Within a group all blocks are computed at once; the states before them come from one small
//! triangular product, so that nothing runs block by block.

use burn::backend::{Backend, TensorMetadata};

use super::{
    extension::{Cotangents, InputGradients, Inputs},
    factors::{Plan, Span},
};
use crate::blocks::{Maybe, raw::Raw};

/// Tokens of one group: `[B, H, T, W]` → `[B, H, n, C, W]`.
fn cut<B: Backend>(x: &Raw<B>, span: Span) -> Raw<B> {
    let [b, h, _, width] = x.dims();
    x.narrow(2, span.start, span.blocks * span.block).reshape([b, h, span.blocks, span.block, width])
}

/// The reverse of [`cut`].
fn join<B: Backend>(x: Raw<B>) -> Raw<B> {
    let [b, h, n, c, width] = x.dims();
    x.reshape([b, h, n * c, width])
}

/// One matrix of a stack `[B, H, n, K, V]` → `[B, H, K, V]`.
fn at<B: Backend>(x: &Raw<B>, index: usize) -> Raw<B> {
    let [b, h, _, d_k, d_v] = x.dims();
    x.narrow(2, index, 1).reshape([b, h, d_k, d_v])
}

/// Output and final state.
///
/// # Panics
/// On packed sequences, which this form does not know.
pub(super) fn forward<B: Backend>([q, k, v]: [Raw<B>; 3], mut state: Raw<B>, plan: &Plan) -> (Raw<B>, Raw<B>) {
    assert!(plan.bounds.is_none(), "packed sequences are cut before the passes in tensor operations");
    let [_, _, t, _] = q.dims();
    let mut out = Vec::new();
    for (span, f) in plan.groups(t, &q) {
        let [q, k, v] = [&q, &k, &v].map(|x| cut(x, span));
        let scores = q.clone().matmul(k.clone().transpose()) * f.inside.clone(); // [B, H, n, C, C]
        let inside = scores.matmul(v.clone());
        let states = f.carry(state, f.write(k).transpose().matmul(v)); // [B, H, n + 1, K, V]
        let across = f.read(q).matmul(states.narrow(2, 0, span.blocks));
        out.push(join(inside + across));
        state = at(&states, span.blocks);
    }
    (Raw::cat(out, 2), state)
}

/// Gradients of q, k, v and the initial state.
///
/// In the order of time dQ = ((dO Vᵀ) ⊙ M) K + Λ dO Sᵀ, S computed again as in the forward pass; against it
/// dK = ((dO Vᵀ) ⊙ M)ᵀ Q + P V dSᵀ, dV = ((Q Kᵀ) ⊙ M)ᵀ dO + P K dS and dS ← λ^C dS + (Λ Q)ᵀ dO,
/// with Λ = scale · diag(λ … λ^C), P = diag(λ^(C-1) … 1) and M times the scale.
///
/// # Panics
/// As [`forward`].
pub(super) fn backward<B: Backend>(
    inputs: Inputs<B>,
    cotangents: Cotangents<B>,
    plan: &Plan,
    [want_q, want_k, want_v, want_state]: [bool; 4],
) -> InputGradients<B> {
    assert!(plan.bounds.is_none(), "packed sequences are cut before the passes in tensor operations");
    let [q, k, v] = [inputs.q, inputs.k, inputs.v].map(Raw::<B>);
    let mut state = Raw::<B>(inputs.state);
    let zeros = |like: &Raw<B>| Raw::<B>(B::float_zeros(like.0.shape(), &like.0.device(), like.0.dtype().into()));
    let d_out = cotangents.o.into_option().map_or_else(|| zeros(&v), Raw::<B>);
    let mut d_state = cotangents.state.into_option().map_or_else(|| zeros(&state), Raw::<B>);
    let groups = plan.groups(q.dims::<4>()[2], &q);

    let mut dq = Vec::new();
    for (span, f) in groups.iter().filter(|_| want_q) {
        let [k, v, d_out] = [&k, &v, &d_out].map(|x| cut(x, *span));
        let d_scores = d_out.clone().matmul(v.clone().transpose()) * f.inside.clone();
        let inside = d_scores.matmul(k.clone());
        let states = f.carry(state, f.write(k).transpose().matmul(v));
        let across = f.read(d_out.matmul(states.narrow(2, 0, span.blocks).transpose()));
        dq.push(join(inside + across));
        state = at(&states, span.blocks);
    }

    let (mut dk, mut dv) = (Vec::new(), Vec::new());
    for (span, f) in groups.iter().rev().filter(|_| want_k || want_v || want_state) {
        let [q, k, v, d_out] = [&q, &k, &v, &d_out].map(|x| cut(x, *span));
        let read = f.read(q.clone()).transpose().matmul(d_out.clone()); // [B, H, n, K, V]
        let d_states = f.carry_back(read, d_state);
        let after = d_states.narrow(2, 1, span.blocks);
        if want_k {
            let d_scores = d_out.clone().matmul(v.clone().transpose()) * f.inside.clone();
            dk.push(join(d_scores.transpose().matmul(q.clone()) + f.write(v.matmul(after.clone().transpose()))));
        }
        if want_v {
            let scores = q.matmul(k.clone().transpose()) * f.inside.clone();
            dv.push(join(scores.transpose().matmul(d_out) + f.write(k.matmul(after))));
        }
        d_state = at(&d_states, 0);
    }
    dk.reverse();
    dv.reverse();
    let joined = |wanted: bool, parts: Vec<Raw<B>>| if wanted { Maybe::Some(Raw::cat(parts, 2).0) } else { Maybe::None };
    let state = if want_state { Maybe::Some(d_state.0) } else { Maybe::None };
    InputGradients { q: joined(want_q, dq), k: joined(want_k, dk), v: joined(want_v, dv), state }
}
