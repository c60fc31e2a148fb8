//! The product by blocks of queries and keys, as matrix products: O(N²), no N×N matrix.

use super::{
    head::{Grid, Head, HeadGradients},
    matrix::{Matrix, multiply},
    real::Real,
};
use crate::blocks::simd::vectorised;

/// Queries per block.
pub(super) const QUERIES: usize = 64;
/// Keys per block: scores of a block stay in the second cache.
const KEYS: usize = 256;

/// Adds the outputs of the queries `rows` to `y`, `[rows, F]`.
pub(super) fn forward<T: Real>(head: &Head<'_, T>, rows: &[usize], y: &mut [T]) {
    let (m, f) = (head.sizes.m, head.sizes.f);
    let mut scores = vec![T::default(); QUERIES * KEYS];
    for (rows, y) in rows.chunks(QUERIES).zip(y.chunks_mut(QUERIES * f)) {
        let q = gathered(head.q, rows, m);
        for keys in blocks(head, rows) {
            let scores = &mut scores[..rows.len() * keys.len()];
            multiply(scores, Matrix::new(&q, m), Matrix::new(&head.k[keys.start * m..keys.end * m], m).t(), false);
            for (row, &i) in scores.chunks_exact_mut(keys.len()).zip(rows) {
                head.sizes.grid.runs(i, keys.clone(), |at, tap, len| scale(&mut row[at..at + len], &head.c[tap..tap + len]));
            }
            multiply(y, Matrix::new(scores, keys.len()), Matrix::new(&head.x[keys.start * f..keys.end * f], f), true);
        }
    }
}

/// Adds the gradients that the queries `rows` give, `dy` being that of all outputs `[N, F]`.
pub(super) fn backward<T: Real>(head: &Head<'_, T>, rows: &[usize], dy: &[T], grads: &mut HeadGradients<T>) {
    let (m, f, grid) = (head.sizes.m, head.sizes.f, head.sizes.grid);
    let new = || vec![T::default(); QUERIES * KEYS];
    let (mut weights, mut cotangents) = (new(), new());
    for rows in rows.chunks(QUERIES) {
        let (q, dy) = (gathered(head.q, rows, m), gathered(dy, rows, f));
        let mut dq = vec![T::default(); q.len()];
        for keys in blocks(head, rows) {
            let [k, x] = [(head.k, m), (head.x, f)].map(|(x, width)| Matrix::new(&x[keys.start * width..keys.end * width], width));
            let size = rows.len() * keys.len();
            let (weights, cotangents) = (&mut weights[..size], &mut cotangents[..size]);
            multiply(weights, Matrix::new(&q, m), k.t(), false);
            multiply(cotangents, Matrix::new(&dy, f), x.t(), false);
            weigh(grid, rows, keys.clone(), weights, cotangents, head.c, &mut grads.c);
            let [weights, cotangents] = [&*weights, &*cotangents].map(|x| Matrix::new(x, keys.len()));
            multiply(&mut dq, cotangents, k, true);
            multiply(&mut grads.k[keys.start * m..keys.end * m], cotangents.t(), Matrix::new(&q, m), true);
            multiply(&mut grads.x[keys.start * f..keys.end * f], weights.t(), Matrix::new(&dy, f), true);
        }
        for (dq, &i) in dq.chunks_exact(m).zip(rows) {
            add(&mut grads.q[i * m..(i + 1) * m], dq);
        }
    }
}

/// Scores and their cotangents times the coefficients; the gradient of the coefficients is the product of the two.
fn weigh<T: Real>(
    grid: Grid,
    rows: &[usize],
    keys: std::ops::Range<usize>,
    weights: &mut [T],
    cotangents: &mut [T],
    c: &[T],
    dc: &mut [T],
) {
    let pairs = weights.chunks_exact_mut(keys.len()).zip(cotangents.chunks_exact_mut(keys.len()));
    for ((s, g), &i) in pairs.zip(rows) {
        grid.runs(i, keys.clone(), |at, tap, len| {
            let (range, taps) = (at..at + len, tap..tap + len);
            weigh_run(&mut s[range.clone()], &mut g[range], &c[taps.clone()], &mut dc[taps]);
        });
    }
}

/// The blocks of keys that the queries `rows` see.
fn blocks<T>(head: &Head<'_, T>, rows: &[usize]) -> impl Iterator<Item = std::ops::Range<usize>> {
    let end = if head.sizes.causal { rows.iter().max().map_or(0, |last| last + 1) } else { head.sizes.n };
    (0..end).step_by(KEYS).map(move |start| start..end.min(start + KEYS))
}

fn gathered<T: Real>(matrix: &[T], rows: &[usize], columns: usize) -> Vec<T> {
    rows.iter().flat_map(|&i| &matrix[i * columns..(i + 1) * columns]).copied().collect()
}

fn scale<T: Real>(x: &mut [T], by: &[T]) {
    vectorised! {
        fn [T: Real] body<'a>(x: &'a mut [T], by: &'a [T]) -> () {
            for (x, &c) in x.iter_mut().zip(by) {
                *x *= c;
            }
        }
    }
    body(x, by);
}

fn add<T: Real>(x: &mut [T], y: &[T]) {
    for (x, &y) in x.iter_mut().zip(y) {
        *x += y;
    }
}

fn weigh_run<T: Real>(s: &mut [T], g: &mut [T], c: &[T], dc: &mut [T]) {
    vectorised! {
        fn [T: Real] body<'a>(s: &'a mut [T], g: &'a mut [T], c: &'a [T], dc: &'a mut [T]) -> () {
            for i in 0..s.len().min(g.len()).min(c.len()).min(dc.len()) {
                dc[i] += s[i] * g[i];
                s[i] *= c[i];
                g[i] *= c[i];
            }
        }
    }
    body(s, g, c, dc);
}
