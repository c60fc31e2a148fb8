//! The chunkwise algorithm of a general diagonal-plus-low-rank transition in tensor operations, which Burn differentiates.

use burn::tensor::Tensor;

use super::{
    Cut,
    chunk::{apart, side_by_side, sizes, times},
    cuts, gather,
    halving::{Decays, half, invert_unit_lower, join},
    scatter,
};
use crate::{blocks::matmul, kimi_delta::kernel::Transition};

/// Output `[B, T, H, V]` and the state behind the last token `[B, H, K, V]`.
pub(in crate::kimi_delta) fn forward(x: Transition<Tensor<4>>, scale: f64, chunk: usize) -> (Tensor<4>, Tensor<4>) {
    let [batch, h, d_k, d_v] = x.state.dims();
    let mut state = x.state.clone().reshape([batch * h, d_k, d_v]);
    let mut out = Vec::new();
    for cut in cuts([batch, x.v.dims()[1], h], chunk) {
        let (o, next) = run(&x, scale, state, h, &cut);
        out.push(scatter(o, [batch, h], &cut));
        state = next;
    }
    (Tensor::cat(out, 1), state.reshape([batch, h, d_k, d_v]))
}

/// A run of chunks: the outputs `[M, C, V]` and the state behind it, `[B·H, K, V]`.
fn run(x: &Transition<Tensor<4>>, scale: f64, state: Tensor<3>, h: usize, cut: &Cut) -> (Tensor<3>, Tensor<3>) {
    let [q, k, v, g, a, b] = [&x.q, &x.k, &x.v, &x.g, &x.a, &x.b].map(|x| gather(x, h, cut));
    let q = q * scale;
    let [m, c, d_k] = q.dims();
    let decays = Decays::new(g);
    // What `b` reads has not decayed at its own token yet.
    let before = |rows: &Tensor<3>| {
        let [p, s, _] = rows.dims();
        let first = Tensor::ones([p, 1, d_k], (&rows.device(), rows.dtype()));
        if s == 1 { first } else { Tensor::cat(vec![first, rows.clone().narrow(1, 0, s - 1)], 1) }
    };
    // Products of queries and of b with keys and with a: squares by levels.
    let mut squares: [Vec<Tensor<3>>; 4] = Default::default();
    for (level, s) in decays.levels.iter().zip(sizes(c)) {
        let rows = [half(&q, s, true) * level.rows.clone(), half(&b, s, true) * before(&level.rows)];
        let columns = [&k, &a].map(|x| level.decay_columns(half(x, s, false)));
        for (n, squares) in squares.iter_mut().enumerate() {
            squares.push(times(rows[n / 2].clone(), &columns[n % 2]));
        }
    }
    let [qk, qa, bk, ba] = squares;
    let diagonal = |x: &Tensor<3>| (q.clone() * x.clone()).sum_dim(2).reshape([m * c, 1, 1]);
    let (own_k, own_a) = (diagonal(&k), diagonal(&a));
    let inverse = invert_unit_lower(own_k.ones_like(), ba);
    let of_values = matmul(inverse.clone(), matmul(join(own_k.zeros_like(), bk), v.clone()));
    let of_state = matmul(inverse, b * before(&decays.from_start));
    let [k_end, a_end] = [k, a].map(|x| apart(decays.decay_to_end(x), cut.count));
    let total = apart(decays.total().swap_dims(1, 2), cut.count);
    let [values, of_values, of_state] = [v.clone(), of_values, of_state].map(|x| apart(x, cut.count));
    let (mut states, mut reads) = (Vec::with_capacity(cut.count), Vec::with_capacity(cut.count));
    let mut state = state.unsqueeze_dim::<4>(1);
    for n in 0..cut.count {
        let chunk = |x: &Tensor<4>| x.clone().narrow(1, n, 1);
        let read = chunk(&of_values) + matmul(chunk(&of_state), state.clone());
        let written = matmul(chunk(&k_end).swap_dims(2, 3), chunk(&values)) - matmul(chunk(&a_end).swap_dims(2, 3), read.clone());
        let next = state.clone() * chunk(&total) + written;
        states.push(state);
        reads.push(read);
        state = next;
    }
    let o = matmul(q * decays.from_start.clone(), side_by_side(states)) + matmul(join(own_k, qk), v)
        - matmul(join(own_a, qa), side_by_side(reads));
    (o, state.squeeze_dim(1))
}
