use pulp::Simd;

use super::segment::Segment;
use crate::blocks::simd::{exp2, scratch};

/// The running softmax of the queries of a tile, one number per lane each.
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
    const LOWEST: f32 = -1e30;

    pub(super) fn new(width: usize) -> Self {
        Self { highest: vec![Self::LOWEST; width], sum: vec![0.0; width], factor: scratch(width) }
    }

    /// Turns the scores of some segments, one after another, into powers relative to the highest score, which it updates.
    #[inline(always)]
    pub(super) fn absorb<S: Simd>(&mut self, simd: S, segments: &[Segment], scores: &mut [f32]) {
        let (factor, _) = S::as_mut_simd_f32s(&mut self.factor);
        let (highest, _) = S::as_mut_simd_f32s(&mut self.highest);
        let (sum, _) = S::as_mut_simd_f32s(&mut self.sum);
        factor.copy_from_slice(highest);
        let mut at = 0;
        for segment in segments {
            let rows = &mut scores[at..at + segment.len()];
            at += segment.len();
            each_columns::<S, _>(segment, rows, &mut Highest { simd, highest: &mut *highest });
        }
        for ((factor, highest), sum) in factor.iter_mut().zip(&*highest).zip(&mut *sum) {
            *factor = exp2(simd, simd.sub_f32s(*factor, *highest));
            *sum = simd.mul_f32s(*sum, *factor);
        }
        let mut at = 0;
        for segment in segments {
            let rows = &mut scores[at..at + segment.len()];
            at += segment.len();
            each_columns::<S, _>(segment, rows, &mut Powers { simd, highest: &*highest, sum: &mut *sum });
        }
    }
}

/// What is done with N columns of vectors of a segment together, so that their chains of dependent operations overlap.
trait Columns<S: Simd> {
    /// Columns `at..at + N` of rows of `vectors` vectors; `lane` is the first one's number in the tile.
    fn run<const N: usize>(&mut self, rows: &mut [S::f32s], vectors: usize, at: usize, lane: usize);
}

#[inline(always)]
fn each_columns<S: Simd, F: Columns<S>>(segment: &Segment, rows: &mut [f32], f: &mut F) {
    let (rows, _) = S::as_mut_simd_f32s(rows);
    let (first, vectors) = (segment.lanes.start / S::F32_LANES, segment.lanes.len() / S::F32_LANES);
    let mut at = 0;
    while at + 4 <= vectors {
        f.run::<4>(rows, vectors, at, first + at);
        at += 4;
    }
    while at < vectors {
        f.run::<1>(rows, vectors, at, first + at);
        at += 1;
    }
}

struct Highest<'a, S: Simd> {
    simd: S,
    highest: &'a mut [S::f32s],
}

impl<S: Simd> Columns<S> for Highest<'_, S> {
    #[inline(always)]
    fn run<const N: usize>(&mut self, rows: &mut [S::f32s], vectors: usize, at: usize, lane: usize) {
        let mut top = [self.simd.splat_f32s(0.0); N];
        top.copy_from_slice(&self.highest[lane..lane + N]);
        for row in rows.chunks_exact(vectors) {
            for (top, x) in top.iter_mut().zip(&row[at..at + N]) {
                *top = self.simd.max_f32s(*top, *x);
            }
        }
        self.highest[lane..lane + N].copy_from_slice(&top);
    }
}

struct Powers<'a, S: Simd> {
    simd: S,
    highest: &'a [S::f32s],
    sum: &'a mut [S::f32s],
}

impl<S: Simd> Columns<S> for Powers<'_, S> {
    #[inline(always)]
    fn run<const N: usize>(&mut self, rows: &mut [S::f32s], vectors: usize, at: usize, lane: usize) {
        let mut total = [self.simd.splat_f32s(0.0); N];
        total.copy_from_slice(&self.sum[lane..lane + N]);
        let top = &self.highest[lane..lane + N];
        for row in rows.chunks_exact_mut(vectors) {
            for ((total, top), x) in total.iter_mut().zip(top).zip(&mut row[at..at + N]) {
                *x = exp2(self.simd, self.simd.sub_f32s(*x, *top));
                *total = self.simd.add_f32s(*total, *x);
            }
        }
        self.sum[lane..lane + N].copy_from_slice(&total);
    }
}
