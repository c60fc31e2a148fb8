use std::f32::consts::{LN_2, LOG2_E};

use pulp::{Arch, Simd, WithSimd};

use super::{
    problem::{Problem, Sizes},
    tile::Running,
};
use crate::blocks::simd::{Target, dot, exp2, scratch};

/// Up to this many queries, vectors run along the width of keys and values: with queries along the lanes most would be empty.
pub(super) const QUERIES: usize = 2;
/// Keys per tile.
const KEYS: usize = 256;

/// As [`forward`](super::forward::forward), for few queries: each task does one query of one head, whose time is that of reading keys
/// and values once.
pub(super) fn decode(problem: &Problem, out: &Target, lse: &Target) {
    let Sizes { b, h, t, .. } = problem.sizes;
    let arch = Arch::new();
    problem.for_each_task(b * h * t, |task| {
        let (head, query) = (task / t, task % t);
        arch.dispatch(Task { problem, out, lse, head: (head / h, head % h), query });
    });
}

struct Task<'a> {
    problem: &'a Problem<'a>,
    out: &'a Target<'a>,
    lse: &'a Target<'a>,
    head: (usize, usize),
    query: usize,
}

impl WithSimd for Task<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { problem, head: (b, h), query, .. } = self;
        let Sizes { s, k, v, .. } = problem.sizes;
        let g = problem.group(h);
        // SAFETY: the query is one of the view's, and no other task has it.
        let (q, out, lse) =
            unsafe { (std::slice::from_raw_parts(problem.q.row(b, h, query), k), self.out.row(b, h, query), self.lse.row(b, h, query)) };
        out.fill(0.0);
        let mut tile = scratch(KEYS.min(s).next_multiple_of(S::F32_LANES));
        let (mut highest, mut sum) = (Running::LOWEST, 0.0);
        let keys = problem.visible(query + 1);
        for first in keys.clone().step_by(KEYS) {
            let keys = first..(first + KEYS).min(keys.end);
            let tile = &mut tile[..keys.len().next_multiple_of(S::F32_LANES)];
            tile.fill(f32::NEG_INFINITY);
            for (j, x) in keys.clone().zip(tile.iter_mut()) {
                // SAFETY: the key is one of the view's.
                let key = unsafe { std::slice::from_raw_parts(problem.k.row(b, g, j), k) };
                *x = dot(simd, q, key) * (problem.scale * LOG2_E);
            }
            if let Some(bias) = problem.bias {
                bias.add_to(&mut tile[..keys.len()], 1, [b, h, query, first], 1, LOG2_E);
            }
            if let Some(distances) = problem.distances {
                distances.add_to(&mut tile[..keys.len()], 1, h, 1, problem.distance(query, first), LOG2_E);
            }
            if let Some(padding) = problem.padding {
                for (x, _) in tile.iter_mut().zip(&padding[b * s..][keys.clone()]).filter(|(_, hidden)| **hidden != 0) {
                    *x = f32::NEG_INFINITY;
                }
            }
            let top = tile.iter().fold(highest, |top: f32, x| top.max(*x));
            let factor = (highest - top).exp2();
            highest = top;
            let mut total = simd.splat_f32s(0.0);
            for x in S::as_mut_simd_f32s(tile).0 {
                *x = exp2(simd, simd.sub_f32s(*x, simd.splat_f32s(top)));
                total = simd.add_f32s(total, *x);
            }
            sum = sum * factor + simd.reduce_sum_f32s(total);
            for x in &mut *out {
                *x *= factor;
            }
            for (chunk, weights) in tile[..keys.len()].chunks(4).enumerate() {
                let first = first + 4 * chunk;
                // SAFETY: the keys are of the view; a missing one of four repeats the first, with weight 0.
                let rows: [&[f32]; 4] = std::array::from_fn(|n| unsafe {
                    let j = if n < weights.len() { first + n } else { first };
                    std::slice::from_raw_parts(problem.v.row(b, g, j), v)
                });
                let weights: [f32; 4] = std::array::from_fn(|n| weights.get(n).copied().unwrap_or(0.0));
                add_rows(simd, out, rows, weights);
            }
        }
        let inverse = if sum == 0.0 { 0.0 } else { 1.0 / sum };
        for x in out {
            *x *= inverse;
        }
        lse[0] = (highest + sum.log2()) * LN_2;
    }
}

/// `out += Σ_n weights_n rows_n`.
#[inline(always)]
fn add_rows<S: Simd>(simd: S, out: &mut [f32], rows: [&[f32]; 4], weights: [f32; 4]) {
    let (out, out_rest) = S::as_mut_simd_f32s(out);
    let at = out.len() * S::F32_LANES;
    let vectors = rows.map(|row| S::as_simd_f32s(row).0);
    let splats = weights.map(|w| simd.splat_f32s(w));
    for (i, out) in out.iter_mut().enumerate() {
        for n in 0..4 {
            *out = simd.mul_add_e_f32s(splats[n], vectors[n][i], *out);
        }
    }
    for (i, out) in out_rest.iter_mut().enumerate() {
        for n in 0..4 {
            *out += weights[n] * rows[n][at + i];
        }
    }
}
