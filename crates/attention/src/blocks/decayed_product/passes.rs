//! Forward and backward, group by group. Within a group all blocks are computed at once; the states before them come from one small
//! triangular product, so that nothing runs block by block.

use burn::backend::Backend;

use super::factors::{Plan, Span};
use crate::blocks::raw::Raw;

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

/// Output and final state, joined on axis 2.
pub(super) fn forward<B: Backend>([q, k, v]: [Raw<B>; 3], mut state: Raw<B>, plan: &Plan) -> Raw<B> {
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
    out.push(state);
    Raw::cat(out, 2)
}

/// Gradients of q, k, v and the initial state, from the gradient of the joined result.
///
/// In the order of time dQ = ((dO Vᵀ) ⊙ M) K + Λ dO Sᵀ, S computed again as in the forward pass; against it
/// dK = ((dO Vᵀ) ⊙ M)ᵀ Q + P V dSᵀ, dV = ((Q Kᵀ) ⊙ M)ᵀ dO + P K dS and dS ← λ^C dS + (Λ Q)ᵀ dO,
/// with Λ = diag(λ … λ^C) and P = diag(λ^(C-1) … 1).
pub(super) fn backward<B: Backend>([q, k, v]: [Raw<B>; 3], mut state: Raw<B>, grad: Raw<B>, plan: &Plan) -> [Raw<B>; 4] {
    let [_, _, t, d_k] = q.dims();
    let d_out = grad.narrow(2, 0, t);
    let mut d_state = grad.narrow(2, t, d_k);
    let groups = plan.groups(t, &q);

    let mut dq = Vec::with_capacity(groups.len());
    for (span, f) in &groups {
        let [k, v, d_out] = [&k, &v, &d_out].map(|x| cut(x, *span));
        let d_scores = d_out.clone().matmul(v.clone().transpose()) * f.inside.clone();
        let inside = d_scores.matmul(k.clone());
        let states = f.carry(state, f.write(k).transpose().matmul(v));
        let across = f.read(d_out.matmul(states.narrow(2, 0, span.blocks).transpose()));
        dq.push(join(inside + across));
        state = at(&states, span.blocks);
    }

    let (mut dk, mut dv) = (Vec::with_capacity(groups.len()), Vec::with_capacity(groups.len()));
    for (span, f) in groups.iter().rev() {
        let [q, k, v, d_out] = [&q, &k, &v, &d_out].map(|x| cut(x, *span));
        let read = f.read(q.clone()).transpose().matmul(d_out.clone()); // [B, H, n, K, V]
        let d_states = f.carry_back(read, d_state);
        let after = d_states.narrow(2, 1, span.blocks);
        let d_scores = d_out.clone().matmul(v.clone().transpose()) * f.inside.clone();
        let scores = q.clone().matmul(k.clone().transpose()) * f.inside.clone();
        dk.push(join(d_scores.transpose().matmul(q) + f.write(v.matmul(after.clone().transpose()))));
        dv.push(join(scores.transpose().matmul(d_out) + f.write(k.matmul(after))));
        d_state = at(&d_states, 0);
    }
    dk.reverse();
    dv.reverse();
    [Raw::cat(dq, 2), Raw::cat(dk, 2), Raw::cat(dv, 2), d_state]
}
