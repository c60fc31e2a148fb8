//! Running sums over the tokens of a block. Sums start from zero in every block and are added to what was there before it, so that
//! rounding errors do not grow with the number of tokens.

use super::problem::LANES;
use crate::blocks::simd::vectorised;

/// `Σ lanes`, by halves.
#[inline(always)]
fn fold(mut lanes: [f32; LANES]) -> f32 {
    let mut half = LANES / 2;
    while half > 0 {
        for i in 0..half {
            lanes[i] += lanes[i + half];
        }
        half /= 2;
    }
    lanes[0]
}

#[inline(always)]
fn row(x: &[f32], t: usize, width: usize) -> &[[f32; LANES]] {
    x[t * width..][..width].as_chunks().0
}

/// Capacities of the tokens of a block, rows of `width` numbers.
#[derive(Clone, Copy)]
pub(super) struct Capacities<'a> {
    pub(super) q: &'a [f32],
    pub(super) k: &'a [f32],
    pub(super) eps: f32,
}

/// Two sums, one over keys and one over queries: what they were before the block, and what the block has added.
pub(super) struct Pair<'a> {
    pub(super) before: [&'a [f32]; 2],
    pub(super) added: [&'a mut [f32]; 2],
}

vectorised! {
    /// For each token, in order: `added += factor · x`, then the flows `(q + ε) · (sum of keys)` and `(k + ε) · (sum of queries)`.
    pub(super) fn flows<'a>(x: Capacities<'a>, pair: Pair<'a>, factors: [&'a [f32]; 2], into: &'a mut [f32], out: &'a mut [f32]) -> () {
        let Capacities { q, k, eps } = x;
        let Pair { before: [k_before, q_before], added: [k_added, q_added] } = pair;
        let width = k_added.len();
        let (k_before, q_before) = (row(k_before, 0, width), row(q_before, 0, width));
        let (k_added, q_added) = (k_added.as_chunks_mut::<LANES>().0, q_added.as_chunks_mut::<LANES>().0);
        for t in 0..into.len() {
            let (q, k) = (row(q, t, width), row(k, t, width));
            let (k_factor, q_factor) = (factors[0][t], factors[1][t]);
            let (mut into_sink, mut out_of_source) = ([0.0; LANES], [0.0; LANES]);
            for c in 0..width / LANES {
                for l in 0..LANES {
                    let (q, k) = (q[c][l], k[c][l]);
                    let k_sum = k.mul_add(k_factor, k_added[c][l]);
                    let q_sum = q.mul_add(q_factor, q_added[c][l]);
                    k_added[c][l] = k_sum;
                    q_added[c][l] = q_sum;
                    into_sink[l] = (q + eps).mul_add(k_before[c][l] + k_sum, into_sink[l]);
                    out_of_source[l] = (k + eps).mul_add(q_before[c][l] + q_sum, out_of_source[l]);
                }
            }
            into[t] = fold(into_sink);
            out[t] = fold(out_of_source);
        }
    }
}

/// Gradients of the capacities of a block, rows as theirs.
pub(super) struct Gradients<'a> {
    pub(super) q: &'a mut [f32],
    pub(super) k: &'a mut [f32],
}

vectorised! {
    /// For each token, from the last: `added += weight · (x + ε)` over keys and over queries; then `dq += factor · (sum of keys)` and
    /// `dk += factor · (sum of queries)`, and the products of q and k with these sums.
    pub(super) fn backward<'a>(
        x: Capacities<'a>,
        d: Gradients<'a>,
        pair: Pair<'a>,
        weights: [&'a [f32]; 2],
        factors: [&'a [f32]; 2],
        products: [&'a mut [f32]; 2],
    ) -> () {
        let Capacities { q, k, eps } = x;
        let Pair { before: [k_before, q_before], added: [k_added, q_added] } = pair;
        let width = k_added.len();
        let (k_before, q_before) = (row(k_before, 0, width), row(q_before, 0, width));
        let (k_added, q_added) = (k_added.as_chunks_mut::<LANES>().0, q_added.as_chunks_mut::<LANES>().0);
        let [q_products, k_products] = products;
        for t in (0..q_products.len()).rev() {
            let (q, k) = (row(q, t, width), row(k, t, width));
            let dq = d.q[t * width..][..width].as_chunks_mut::<LANES>().0;
            let dk = d.k[t * width..][..width].as_chunks_mut::<LANES>().0;
            let (k_weight, q_weight) = (weights[0][t], weights[1][t]);
            let (q_factor, k_factor) = (factors[0][t], factors[1][t]);
            let (mut with_q, mut with_k) = ([0.0; LANES], [0.0; LANES]);
            for c in 0..width / LANES {
                for l in 0..LANES {
                    let (q, k) = (q[c][l], k[c][l]);
                    let k_sum = (k + eps).mul_add(k_weight, k_added[c][l]);
                    let q_sum = (q + eps).mul_add(q_weight, q_added[c][l]);
                    k_added[c][l] = k_sum;
                    q_added[c][l] = q_sum;
                    let (k_sum, q_sum) = (k_before[c][l] + k_sum, q_before[c][l] + q_sum);
                    dq[c][l] = k_sum.mul_add(q_factor, dq[c][l]);
                    dk[c][l] = q_sum.mul_add(k_factor, dk[c][l]);
                    with_q[l] = q.mul_add(k_sum, with_q[l]);
                    with_k[l] = k.mul_add(q_sum, with_k[l]);
                }
            }
            q_products[t] = fold(with_q);
            k_products[t] = fold(with_k);
        }
    }
}

vectorised! {
    /// For each token, in order: the running sums once more, and `dq += weight · (sum of keys)`, `dk += weight · (sum of queries)`.
    pub(super) fn gradients_of_flows<'a>(
        x: Capacities<'a>,
        d: Gradients<'a>,
        pair: Pair<'a>,
        factors: [&'a [f32]; 2],
        weights: [&'a [f32]; 2],
    ) -> () {
        let Capacities { q, k, .. } = x;
        let Pair { before: [k_before, q_before], added: [k_added, q_added] } = pair;
        let width = k_added.len();
        let (k_before, q_before) = (row(k_before, 0, width), row(q_before, 0, width));
        let (k_added, q_added) = (k_added.as_chunks_mut::<LANES>().0, q_added.as_chunks_mut::<LANES>().0);
        for t in 0..weights[0].len() {
            let (q, k) = (row(q, t, width), row(k, t, width));
            let dq = d.q[t * width..][..width].as_chunks_mut::<LANES>().0;
            let dk = d.k[t * width..][..width].as_chunks_mut::<LANES>().0;
            let (k_factor, q_factor) = (factors[0][t], factors[1][t]);
            let (q_weight, k_weight) = (weights[0][t], weights[1][t]);
            for c in 0..width / LANES {
                for l in 0..LANES {
                    let k_sum = k[c][l].mul_add(k_factor, k_added[c][l]);
                    let q_sum = q[c][l].mul_add(q_factor, q_added[c][l]);
                    k_added[c][l] = k_sum;
                    q_added[c][l] = q_sum;
                    dq[c][l] = (k_before[c][l] + k_sum).mul_add(q_weight, dq[c][l]);
                    dk[c][l] = (q_before[c][l] + q_sum).mul_add(k_weight, dk[c][l]);
                }
            }
        }
    }
}

vectorised! {
    /// Adds the sums of a block to those before it, and begins again from zero.
    pub(super) fn carry<'a>(before: &'a mut [f32], added: &'a mut [f32]) -> () {
        for (before, added) in before.iter_mut().zip(added) {
            *before += std::mem::take(added);
        }
    }
}

vectorised! {
    /// Rows of `width` numbers, each times its factor.
    pub(super) fn scaled<'a>(rows: &'a [f32], factors: &'a [f32], width: usize, into: &'a mut [f32]) -> () {
        for ((row, into), factor) in rows.chunks_exact(width).zip(into.chunks_exact_mut(width)).zip(factors) {
            for (x, into) in row.iter().zip(into) {
                *into = x * factor;
            }
        }
    }
}
