use std::f32::consts::LN_2;

use pulp::{Arch, Simd, WithSimd};

use super::{
    decode,
    problem::{KEYS, Problem, QUERIES, Sizes},
    tile::{Queries, Running},
};
use crate::blocks::simd::{Band, Product, Strided, Target, multiply, scratch};

/// Attention and the log-sum-exp of the scores: `out` `[B, H, T, V]`, `lse` `[B, H, T, 1]`. Each task does some queries of one head over
/// all keys that they see, tile by tile, with a running softmax.
pub(crate) fn forward(problem: &Problem, out: &Target, lse: &Target) {
    let Sizes { b, h, t, .. } = problem.sizes;
    if t <= decode::QUERIES {
        return decode::decode(problem, out, lse);
    }
    let blocks = t.div_ceil(QUERIES);
    let arch = Arch::new();
    problem.for_each_task(b * h * blocks, |task| {
        let (head, block) = (task / blocks, task % blocks);
        arch.dispatch(Task { problem, out, lse, head: (head / h, head % h), start: block * QUERIES });
    });
}

struct Task<'a> {
    problem: &'a Problem<'a>,
    out: &'a Target<'a>,
    lse: &'a Target<'a>,
    head: (usize, usize),
    start: usize,
}

impl WithSimd for Task<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { problem, head: (b, h), start, .. } = self;
        let Sizes { t, v, .. } = problem.sizes;
        let end = (start + QUERIES).min(t);
        let queries = Queries::new(simd, problem, (b, h), start..end);
        let (rows, width) = (queries.rows, queries.width);
        let mut running = Running::new(width);
        let mut tile = scratch(KEYS * width);
        let mut sums = vec![0.0; rows * v]; // [rows, V]
        let keys = problem.visible(end);
        for first in keys.clone().step_by(KEYS) {
            let keys = first..(first + KEYS).min(keys.end);
            let tile = &mut tile[..keys.len() * width];
            queries.scores(simd, problem, keys.clone(), tile);
            running.absorb(simd, tile);
            if first > 0 {
                for (row, &factor) in sums.chunks_exact_mut(v.max(1)).zip(&running.factor) {
                    #[allow(clippy::float_cmp, reason = "exactly 1 where the highest score stays")]
                    if factor != 1.0 {
                        for x in row {
                            *x *= factor;
                        }
                    }
                }
            }
            let offset = problem.offset(start, keys.start);
            let product = Product {
                m: rows,
                n: v,
                inner: keys.len(),
                a: Strided::rows(tile.as_ptr(), width).transposed(),
                b: problem.v.row(b, problem.group(h), keys.start),
                b_row: problem.v.stride(),
                c: sums.as_mut_ptr(),
                c_row: v,
                add: true,
                band: if offset < keys.len() as isize { Band::Until(offset) } else { Band::Full },
            };
            // SAFETY: the tile holds keys × width numbers, the values lie in the view, and `sums` belongs to this task.
            unsafe { multiply(simd, product) };
        }
        for i in 0..rows {
            let sum = running.sum[i];
            let inverse = if sum == 0.0 { 0.0 } else { 1.0 / sum };
            // SAFETY: no other task has these queries of this head.
            let (out, lse) = unsafe { (self.out.row(b, h, start + i), self.lse.row(b, h, start + i)) };
            for (x, y) in out.iter_mut().zip(&sums[i * v..]) {
                *x = y * inverse;
            }
            lse[0] = (running.highest[i] + sum.log2()) * LN_2;
        }
    }
}
