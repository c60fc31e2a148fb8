use std::{f32::consts::LOG2_E, ops::Range};

use pulp::Simd;

use super::problem::Problem;
use crate::blocks::simd::{Band, Product, Strided, exp2, multiply, scratch, transpose};

/// Some queries of one head, turned for products that have the queries along the lanes.
pub(super) struct Queries {
    pub(super) b: usize,
    pub(super) h: usize,
    /// The first query.
    pub(super) start: usize,
    /// Number of queries.
    pub(super) rows: usize,
    /// The same, rounded up to whole vectors.
    pub(super) width: usize,
    /// Queries times scale · log₂e. `[K, width]`
    packed: Vec<f32>,
}

impl Queries {
    #[inline(always)]
    pub(super) fn new<S: Simd>(_: S, problem: &Problem, (b, h): (usize, usize), range: Range<usize>) -> Self {
        let rows = range.len();
        let width = rows.next_multiple_of(S::F32_LANES);
        let mut packed = scratch(problem.sizes.k * width);
        let q = problem.q.row(b, h, range.start);
        // SAFETY: the rows of `range` belong to the view.
        unsafe { transpose(q, problem.q.stride(), rows, problem.sizes.k, problem.scale * LOG2_E, &mut packed, width) };
        Self { b, h, start: range.start, rows, width, packed }
    }

    /// Scores to base 2 of the keys `keys`, `[keys, width]`, −∞ where hidden. Lanes from `rows` on hold numbers that mean nothing.
    #[inline(always)]
    pub(super) fn scores<S: Simd>(&self, simd: S, problem: &Problem, keys: Range<usize>, tile: &mut [f32]) {
        let offset = problem.offset(self.start, keys.start);
        let product = Product {
            m: keys.len(),
            n: self.width,
            inner: problem.sizes.k,
            a: Strided::rows(problem.k.row(self.b, problem.group(self.h), keys.start), problem.k.stride()),
            b: self.packed.as_ptr(),
            b_row: self.width,
            c: tile.as_mut_ptr(),
            c_row: self.width,
            add: false,
            band: if offset < keys.len() as isize { Band::Output(offset) } else { Band::Full },
        };
        assert!(tile.len() == keys.len() * self.width && self.packed.len() == problem.sizes.k * self.width);
        // SAFETY: the keys lie in the view, and the lengths are those just asserted.
        unsafe { multiply(simd, product) };
        if let Some(bias) = problem.bias {
            bias.add_to(tile, self.width, [self.b, self.h, self.start, keys.start], self.rows, LOG2_E);
        }
        if let Some(distances) = problem.distances {
            distances.add_to(tile, self.width, self.h, self.rows, problem.distance(self.start, keys.start), LOG2_E);
        }
        if let Some(padding) = problem.padding {
            let padding = &padding[self.b * problem.sizes.s..][keys.clone()];
            for (row, _) in tile.chunks_exact_mut(self.width).zip(padding).filter(|(_, hidden)| **hidden != 0) {
                row.fill(f32::NEG_INFINITY);
            }
        }
        hide_future(tile, self.width, offset, f32::NEG_INFINITY);
    }
}

/// Sets `tile[j, i]` for the queries i that do not see key j, which are those with i + offset < j.
#[inline(always)]
pub(super) fn hide_future(tile: &mut [f32], width: usize, offset: isize, value: f32) {
    for (j, row) in tile.chunks_exact_mut(width).enumerate().skip((offset + 1).max(0) as usize) {
        let hidden = (j as isize - offset).clamp(0, width as isize) as usize;
        row[..hidden].fill(value);
    }
}

/// The running softmax of some queries, one number per lane each.
pub(super) struct Running {
    /// Highest score so far; a low number, but not −∞, before the first.
    pub(super) highest: Vec<f32>,
    /// Sum of the powers so far.
    pub(super) sum: Vec<f32>,
    /// What earlier results are to be multiplied by.
    pub(super) factor: Vec<f32>,
}

impl Running {
    /// Stands for the highest of no scores: finite, so that a score of −∞ minus it is −∞.
    pub(super) const LOWEST: f32 = -1e30;

    pub(super) fn new(width: usize) -> Self {
        Self { highest: vec![Self::LOWEST; width], sum: vec![0.0; width], factor: scratch(width) }
    }

    /// Turns a tile of scores `[keys, width]` into powers relative to the highest score, which it updates.
    #[inline(always)]
    pub(super) fn absorb<S: Simd>(&mut self, simd: S, tile: &mut [f32]) {
        let (highest, _) = S::as_mut_simd_f32s(&mut self.highest);
        let (sum, _) = S::as_mut_simd_f32s(&mut self.sum);
        let (factor, _) = S::as_mut_simd_f32s(&mut self.factor);
        let (tile, _) = S::as_mut_simd_f32s(tile);
        let vectors = highest.len();
        let mut at = 0;
        while at + 4 <= vectors {
            absorb_columns::<S, 4>(simd, tile, vectors, at, highest, sum, factor);
            at += 4;
        }
        while at < vectors {
            absorb_columns::<S, 1>(simd, tile, vectors, at, highest, sum, factor);
            at += 1;
        }
    }
}

/// N columns of vectors together, so that their chains of dependent operations overlap.
#[inline(always)]
fn absorb_columns<S: Simd, const N: usize>(
    simd: S,
    tile: &mut [S::f32s],
    vectors: usize,
    at: usize,
    highest: &mut [S::f32s],
    sum: &mut [S::f32s],
    factor: &mut [S::f32s],
) {
    let columns = at..at + N;
    let (highest, sum, factor) = (&mut highest[columns.clone()], &mut sum[columns.clone()], &mut factor[columns.clone()]);
    let mut top = [simd.splat_f32s(0.0); N];
    top.copy_from_slice(highest);
    for row in tile.chunks_exact(vectors) {
        for (top, x) in top.iter_mut().zip(&row[columns.clone()]) {
            *top = simd.max_f32s(*top, *x);
        }
    }
    let mut total = top;
    for n in 0..N {
        factor[n] = exp2(simd, simd.sub_f32s(highest[n], top[n]));
        total[n] = simd.mul_f32s(sum[n], factor[n]);
    }
    for row in tile.chunks_exact_mut(vectors) {
        for ((total, top), x) in total.iter_mut().zip(top).zip(&mut row[columns.clone()]) {
            *x = exp2(simd, simd.sub_f32s(*x, top));
            *total = simd.add_f32s(*total, *x);
        }
    }
    highest.copy_from_slice(&top);
    sum.copy_from_slice(&total);
}
