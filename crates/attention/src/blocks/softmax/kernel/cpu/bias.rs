use pulp::{Arch, Simd, WithSimd};

use super::{
    backward::{Cotangents, Differentiated, Tiles},
    problem::{KEYS, Problem, QUERIES, Sizes},
};
use crate::blocks::simd::Target;

/// The gradient of the bias, `[B or 1, H or 1, T or 1, S]`: that of the scores, summed along the axes of which the bias has one element.
///
/// A pass of its own, that computes the weights again: each task owns some keys of one matrix of the bias and goes over all queries of
/// all batches and heads that share it, so that sums are in a fixed order and nothing is stored but the gradient itself.
pub(crate) fn bias_backward(problem: &Problem, cotangents: &Cotangents, d_bias: &mut [f32], dims: [usize; 4]) {
    let [batches, heads, rows, s] = dims;
    let target = Target::new(d_bias, [heads * rows * s, rows * s, s], dims);
    let chunks = s.div_ceil(KEYS);
    let arch = Arch::new();
    problem.for_each_task(batches * heads * chunks, |task| {
        let (matrix, chunk) = (task / chunks, task % chunks);
        arch.dispatch(Task { problem, cotangents, target: &target, matrix: (matrix / heads, matrix % heads), dims, start: chunk * KEYS });
    });
}

/// The gradient of the bias by distance, `[H, N]`: a pass like [`bias_backward`], a task per head of each batch, whose sums are then added
/// up in the order of the batches.
pub(crate) fn distances_backward(problem: &Problem, cotangents: &Cotangents, d_distances: &mut [f32]) {
    let Sizes { b, h, .. } = problem.sizes;
    let Some(count) = problem.distances.map(|distances| distances.count) else { return };
    let mut sums = vec![0.0; b * h * count]; // [B, H, N]
    let target = Target::new(&mut sums, [h * count, count, count], [b, h, 1, count]);
    let arch = Arch::new();
    problem.for_each_task(b * h, |task| {
        arch.dispatch(DistancesTask { problem, cotangents, target: &target, head: (task / h, task % h) });
    });
    for batch in sums.chunks_exact(h * count) {
        for (x, y) in d_distances.iter_mut().zip(batch) {
            *x += y;
        }
    }
}

struct DistancesTask<'a> {
    problem: &'a Problem<'a>,
    cotangents: &'a Cotangents<'a>,
    target: &'a Target<'a>,
    head: (usize, usize),
}

impl WithSimd for DistancesTask<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { problem, head: (b, h), .. } = self;
        let Sizes { t, .. } = problem.sizes;
        // SAFETY: no other task has this head of this batch.
        let sums = unsafe { self.target.row(b, h, 0) };
        let last = sums.len() - 1;
        let mut tiles = Tiles::new(simd, t);
        for start in (0..t).step_by(QUERIES) {
            let end = (start + QUERIES).min(t);
            let keys = problem.visible(end);
            let queries = Differentiated::new(simd, problem, self.cotangents, (b, h), start..end);
            for first in keys.clone().step_by(KEYS) {
                let keys = first..(first + KEYS).min(keys.end);
                queries.tile(simd, problem, keys.clone(), &mut tiles);
                let offset = problem.distance(start, first);
                for (j, column) in tiles.ds.chunks_exact(queries.queries.width).enumerate().take(keys.len()) {
                    for (i, ds) in column[..end - start].iter().enumerate() {
                        sums[(i as isize + offset - j as isize).unsigned_abs().min(last)] += ds;
                    }
                }
            }
        }
    }
}

struct Task<'a> {
    problem: &'a Problem<'a>,
    cotangents: &'a Cotangents<'a>,
    target: &'a Target<'a>,
    matrix: (usize, usize),
    dims: [usize; 4],
    /// The first key.
    start: usize,
}

impl WithSimd for Task<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { problem, matrix: (mb, mh), dims, .. } = self;
        let Sizes { b, h, t, s, .. } = problem.sizes;
        let keys = self.start..(self.start + KEYS).min(s);
        let of = |index: usize, dim: usize, all: usize| if dim == 1 { 0..all } else { index..index + 1 };
        let mut tiles = Tiles::new(simd, t);
        for start in (0..t).step_by(QUERIES) {
            let end = (start + QUERIES).min(t);
            if problem.visible(end).end <= keys.start {
                continue;
            }
            for (b, h) in of(mb, dims[0], b).flat_map(|b| of(mh, dims[1], h).map(move |h| (b, h))) {
                let queries = Differentiated::new(simd, problem, self.cotangents, (b, h), start..end);
                queries.tile(simd, problem, keys.clone(), &mut tiles);
                let width = queries.queries.width;
                for i in 0..end - start {
                    let row = if dims[2] == 1 { 0 } else { start + i };
                    // SAFETY: rows exist, and within them no other task touches these keys of this matrix; see `part`.
                    let row = unsafe { self.target.part(mb, mh, row, keys.clone()) };
                    for (x, column) in row.iter_mut().zip(tiles.ds.chunks_exact(width)) {
                        *x += column[i];
                    }
                }
            }
        }
    }
}
