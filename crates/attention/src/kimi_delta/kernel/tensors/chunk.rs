//! Forward and backward of a run of equal chunks.
//!
//! All heads and chunks of the run form one batch of M = B·W·N matrices, the chunks of one head side by side. Only the state goes
//! from chunk to chunk in order; everything else is one batched operation each.

use burn::tensor::Tensor;

use super::halving::{Decays, add_to_half, half, invert_unit_lower, join, scaled, split};
use crate::blocks::matmul;

/// The inputs of a run of chunks.
#[derive(Clone)]
pub(super) struct Chunks {
    /// Scaled queries. `[M, C, K]`
    pub(super) q: Tensor<3>,
    /// `[M, C, K]`
    pub(super) k: Tensor<3>,
    /// `[M, C, V]`
    pub(super) v: Tensor<3>,
    /// Log decays. `[M, C, K]`
    pub(super) g: Tensor<3>,
    /// `[M, C, 1]`
    pub(super) beta: Tensor<3>,
}

/// What of a run does not depend on the state.
struct Prepared {
    decays: Decays,
    /// `Σ_d q_id k_jd exp(gc_id − gc_jd)` for i ≥ j. `[M, C, C]`
    scores: Tensor<3>,
    /// `(I + Diag(β) A_kk)⁻¹`. `[M, C, C]`
    inverse: Tensor<3>,
    /// What the chunk writes if the state is zero. `[M, C, V]`
    u: Tensor<3>,
    /// What of the state it takes away. `[M, C, K]`
    w: Tensor<3>,
    /// Queries decayed from the start of the chunk. `[M, C, K]`
    q_start: Tensor<3>,
    /// Keys decayed to the end of the chunk. `[M, C, K]`
    k_end: Tensor<3>,
    /// Decay of the state over the chunk. `[M, K, 1]`
    total: Tensor<3>,
}

impl Prepared {
    fn new(x: &Chunks) -> Self {
        let [m, c, _] = x.q.dims();
        let decays = Decays::new(x.g.clone());
        let beta_k = x.k.clone() * x.beta.clone();
        let (mut scores, mut corrections) = (Vec::new(), Vec::new());
        for (level, s) in decays.levels.iter().zip(sizes(c)) {
            let columns = level.decay_columns(half(&x.k, s, false)); // [P, s, K]
            scores.push(times(half(&x.q, s, true) * level.rows.clone(), &columns));
            corrections.push(times(half(&beta_k, s, true) * level.rows.clone(), &columns));
        }
        let diagonal = (x.q.clone() * x.k.clone()).sum_dim(2).reshape([m * c, 1, 1]);
        let inverse = invert_unit_lower(diagonal.ones_like(), corrections);
        Self {
            scores: join(diagonal, scores),
            u: matmul(inverse.clone(), x.v.clone() * x.beta.clone()),
            w: matmul(inverse.clone(), beta_k * decays.from_start.clone()),
            q_start: x.q.clone() * decays.from_start.clone(),
            k_end: decays.decay_to_end(x.k.clone()),
            total: decays.total().swap_dims(1, 2),
            inverse,
            decays,
        }
    }
}

/// Sizes of the squares of a chunk, in the order of the levels.
pub(super) fn sizes(c: usize) -> impl Iterator<Item = usize> {
    std::iter::successors(Some(1), |s| Some(2 * s)).take_while(move |s| *s < c)
}

/// `a bᵀ`, by the rows of both.
pub(super) fn times(a: Tensor<3>, b: &Tensor<3>) -> Tensor<3> {
    let [p, s, _] = a.dims();
    if s == 1 { (a * b.clone()).sum_dim(2) } else { matmul(a, b.clone().swap_dims(1, 2)) }.reshape([p, s, s])
}

/// The chunks of each head apart: `[M, I, J]` as `[M/N, N, I, J]`.
pub(super) fn apart(x: Tensor<3>, count: usize) -> Tensor<4> {
    let [m, i, j] = x.dims();
    x.reshape([m / count, count, i, j])
}

/// The inverse of [`apart`] for the chunks `[M/N, 1, I, J]` in order.
pub(super) fn side_by_side(chunks: Vec<Tensor<4>>) -> Tensor<3> {
    let [heads, _, i, j] = chunks[0].dims();
    let count = chunks.len();
    Tensor::cat(chunks, 1).reshape([heads * count, i, j])
}

/// The outputs of a run.
pub(super) struct Run {
    /// `[M, C, V]`
    pub(super) o: Tensor<3>,
    /// The state before each chunk. `[M, K, V]`
    pub(super) states: Tensor<3>,
    /// The state after the run. `[M/N, K, V]`
    pub(super) state: Tensor<3>,
}

/// A run of `count` chunks per head from `state` `[M/N, K, V]` on.
pub(super) fn forward(x: &Chunks, state: Tensor<3>, count: usize) -> Run {
    let p = Prepared::new(x);
    let [u, w, k_end, total] = [p.u, p.w, p.k_end, p.total].map(|x| apart(x, count));
    let (mut states, mut writes) = (Vec::with_capacity(count), Vec::with_capacity(count));
    let mut state = state.unsqueeze_dim::<4>(1);
    for n in 0..count {
        let chunk = |x: &Tensor<4>| x.clone().narrow(1, n, 1);
        let write = chunk(&u) - matmul(chunk(&w), state.clone());
        let next = matmul(chunk(&k_end).swap_dims(2, 3), write.clone()) + state.clone() * chunk(&total);
        states.push(state);
        writes.push(write);
        state = next;
    }
    let state = state.squeeze_dim(1);
    let states = side_by_side(states);
    let o = matmul(p.q_start, states.clone()) + matmul(p.scores, side_by_side(writes));
    Run { o, states, state }
}

/// The gradients of a run.
pub(super) struct RunGradients {
    /// Of the inputs.
    pub(super) inputs: Chunks,
    /// Of the state before the run. `[M/N, K, V]`
    pub(super) state: Tensor<3>,
}

/// The backward pass of [`forward`], which recomputes everything but `states`.
///
/// `d_o`: `[M, C, V]`; `d_state`, the gradient of the state after the run: `[M/N, K, V]`.
///
/// The gradient of a log decay follows from those of what it scales: with `row` the gradient of a vector through products that decay
/// up to it and `column` through those that decay from it on, `dgc = q ⊙ row_q + k ⊙ row_k − k ⊙ column_k`.
pub(super) fn backward(x: &Chunks, states: &Tensor<3>, d_o: &Tensor<3>, d_state: Tensor<3>, count: usize) -> RunGradients {
    let [m, c, d_k] = x.q.dims();
    let p = Prepared::new(x);
    let writes = p.u.clone() - matmul(p.w.clone(), states.clone());

    // Through the states, against the order of the chunks.
    let from_output = apart(matmul(p.scores.swap_dims(1, 2), d_o.clone()), count); // [M/N, N, C, V]
    let from_read = apart(matmul(p.q_start.swap_dims(1, 2), d_o.clone()), count); // [M/N, N, K, V]
    let [w, k_end, total] = [p.w.clone(), p.k_end, p.total.clone()].map(|x| apart(x, count));
    let (mut d_writes, mut d_nexts) = (Vec::with_capacity(count), Vec::with_capacity(count));
    let mut d_state = d_state.unsqueeze_dim::<4>(1);
    for n in (0..count).rev() {
        let chunk = |x: &Tensor<4>| x.clone().narrow(1, n, 1);
        let d_write = matmul(chunk(&k_end), d_state.clone()) + chunk(&from_output);
        let carried = d_state.clone() * chunk(&total) + chunk(&from_read);
        d_nexts.push(d_state);
        d_state = carried - matmul(chunk(&w).swap_dims(2, 3), d_write.clone());
        d_writes.push(d_write);
    }
    d_writes.reverse();
    d_nexts.reverse();
    let (d_writes, d_nexts) = (side_by_side(d_writes), side_by_side(d_nexts));

    // Through the inverse.
    let d_w = matmul(d_writes.clone(), states.clone().swap_dims(1, 2)).neg();
    let inverse_t = p.inverse.swap_dims(1, 2);
    let d_r = matmul(inverse_t.clone(), d_writes); // of β v
    let d_p = matmul(inverse_t, d_w); // of β k_start
    let d_matrix = (matmul(d_r.clone(), p.u.swap_dims(1, 2)) + matmul(d_p.clone(), p.w.swap_dims(1, 2))).neg();

    // Through the decayed products inside chunks.
    let (d_diagonal, d_scores) = split(matmul(d_o.clone(), writes.clone().swap_dims(1, 2)));
    let (_, d_corrections) = split(d_matrix);
    let beta_k = x.k.clone() * x.beta.clone();
    let mut row_q = matmul(d_o.clone(), states.clone().swap_dims(1, 2)) * p.decays.from_start.clone();
    let mut row_k = d_p * p.decays.from_start.clone(); // of β k, to be scaled by β for k
    let from_write = p.decays.decay_to_end(matmul(writes, d_nexts.clone().swap_dims(1, 2)));
    let through_end = (from_write.clone() * x.k.clone()).sum_dim(1); // [M, 1, K]
    let mut column_k = from_write;
    for ((level, s), (d_score, d_correction)) in p.decays.levels.iter().zip(sizes(c)).zip(d_scores.into_iter().zip(d_corrections)) {
        let columns = level.decay_columns(half(&x.k, s, false));
        let q_rows = half(&x.q, s, true) * level.rows.clone();
        let k_rows = half(&beta_k, s, true) * level.rows.clone();
        row_q = add_to_half(row_q, matmul(d_score.clone(), columns.clone()) * level.rows.clone(), true);
        row_k = add_to_half(row_k, matmul(d_correction.clone(), columns) * level.rows.clone(), true);
        let column = matmul(d_score.swap_dims(1, 2), q_rows) + matmul(d_correction.swap_dims(1, 2), k_rows);
        column_k = add_to_half(column_k, scaled(column, level.columns.as_ref()), false);
    }

    let d_beta = (x.k.clone() * row_k.clone()).sum_dim(2) + (x.v.clone() * d_r.clone()).sum_dim(2);
    let row_k = row_k * x.beta.clone();
    let through_carry = (d_nexts * states.clone()).sum_dim(2) * p.total; // [M, K, 1]
    let d_sums = x.q.clone() * row_q.clone() + x.k.clone() * (row_k.clone() - column_k.clone());
    // The last sum of a chunk is part of all later sums: what reaches it reaches every decay of the chunk.
    let whole = through_end + through_carry.reshape([m, 1, d_k]);
    let d_g = whole + reverse_cumulative(d_sums);
    // A token's own score does not decay.
    let d_diagonal = d_diagonal.reshape([m, c, 1]);
    RunGradients {
        inputs: Chunks {
            q: row_q + x.k.clone() * d_diagonal.clone(),
            k: row_k + column_k + x.q.clone() * d_diagonal,
            v: d_r * x.beta.clone(),
            g: d_g,
            beta: d_beta,
        },
        state: d_state.squeeze_dim(1),
    }
}

/// `y_i = Σ_{j≥i} x_j` along the chunk. `[M, C, K]`
fn reverse_cumulative(x: Tensor<3>) -> Tensor<3> {
    let c = x.dims()[1];
    matmul(Tensor::<2>::ones([c, c], (&x.device(), x.dtype())).triu(0).unsqueeze_dim::<3>(0), x)
}
