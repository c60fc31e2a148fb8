//! Blocks of rows, and what is summed over them.

use super::{
    super::{flows::capacities, problem::LANES},
    BLOCK, Head,
};
use crate::blocks::{
    decayed_product::cpu::Rows,
    simd::{View, vectorised},
};

/// Queries or keys.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Queries,
    Keys,
}

impl Head<'_> {
    /// Width of rows of capacities and sums.
    pub(super) fn width(&self) -> usize {
        self.problem.sizes[4].next_multiple_of(LANES)
    }

    /// The blocks of a side: start and length of each.
    pub(super) fn blocks(&self, side: Side) -> impl Iterator<Item = (usize, usize)> + use<> {
        let tokens = self.problem.sizes[if side == Side::Queries { 2 } else { 3 }];
        (0..tokens).step_by(BLOCK).map(move |start| (start, BLOCK.min(tokens - start)))
    }

    /// Which tokens of a block are hidden, if any is.
    pub(super) fn hidden(&self, side: Side, start: usize, len: usize) -> Option<&[bool]> {
        let (side, tokens) = if side == Side::Queries { (0, self.problem.sizes[2]) } else { (1, self.problem.sizes[3]) };
        self.problem.hidden[side].map(|hidden| &hidden[self.batch * tokens + start..][..len]).filter(|hidden| hidden.contains(&true))
    }

    pub(super) fn view(&self, side: Side) -> &View<'_> {
        if side == Side::Queries { &self.problem.q } else { &self.problem.k }
    }

    /// φ of the rows of a block, zeros for hidden tokens and behind column D, which `to` holds already.
    pub(super) fn load(&self, side: Side, start: usize, len: usize, to: &mut [f32]) {
        let (width, d, rules) = (self.width(), self.problem.sizes[4], self.problem.rules);
        // SAFETY: the tokens are the problem's, as every caller's are.
        unsafe {
            let from = Rows::new(self.view(side), self.batch, self.index, start);
            capacities(rules.feature_map, rules.eps, from, d, width, &mut to[..len * width]);
        }
        for (row, hidden) in to.chunks_exact_mut(width).zip(self.hidden(side, start, len).into_iter().flatten()) {
            if *hidden {
                row.fill(0.0);
            }
        }
    }

    /// The values of a block: as they are, or in `place` with zeros for hidden tokens, whatever stands there.
    pub(super) fn values(&self, start: usize, len: usize, place: &mut Vec<f32>) -> Rows {
        let Some(hidden) = self.hidden(Side::Keys, start, len) else {
            return Rows::new(&self.problem.v, self.batch, self.index, start);
        };
        let e = self.problem.sizes[5];
        place.resize(BLOCK * e, 0.0);
        for ((t, to), &hidden) in place.chunks_exact_mut(e).enumerate().zip(hidden) {
            if hidden {
                to.fill(0.0);
            } else {
                // SAFETY: the token is the problem's.
                to.copy_from_slice(unsafe { std::slice::from_raw_parts(self.problem.v.row(self.batch, self.index, start + t), e) });
            }
        }
        Rows { ptr: place.as_ptr(), stride: e }
    }
}

/// A sum of rows over all blocks. That of a block starts from zero, and blocks are summed in f64: rounding errors do not grow with the
/// number of tokens.
pub(super) struct Sum {
    total: Vec<f64>,
    block: Vec<f32>,
}

impl Sum {
    pub(super) fn new(width: usize) -> Self {
        Self { total: vec![0.0; width], block: vec![0.0; width] }
    }

    /// Adds `Σ_t weight_t (x_t + ε)` over the rows of a block.
    pub(super) fn add(&mut self, rows: &[f32], weights: &[f32], eps: f32) {
        add_rows(rows, weights, eps, &mut self.block);
        for (total, block) in self.total.iter_mut().zip(&mut self.block) {
            *total += f64::from(std::mem::take(block));
        }
    }

    /// The sum, with `eps` added in the first `d` columns and zeros behind them.
    pub(super) fn finish(&self, d: usize, eps: f32) -> Vec<f32> {
        self.total.iter().enumerate().map(|(c, x)| if c < d { *x as f32 + eps } else { 0.0 }).collect()
    }

    /// `a − factor · b`
    pub(super) fn minus(mut self, factor: f64, other: &Self) -> Self {
        for (a, b) in self.total.iter_mut().zip(&other.total) {
            *a -= factor * b;
        }
        self
    }
}

vectorised! {
    fn add_rows<'a>(rows: &'a [f32], weights: &'a [f32], eps: f32, sum: &'a mut [f32]) -> () {
        let width = sum.len();
        for (c, sum) in sum.as_chunks_mut::<LANES>().0.iter_mut().enumerate() {
            let mut lanes = *sum;
            for (row, weight) in rows.chunks_exact(width).zip(weights) {
                let row = &row.as_chunks::<LANES>().0[c];
                for l in 0..LANES {
                    lanes[l] = (row[l] + eps).mul_add(*weight, lanes[l]);
                }
            }
            *sum = lanes;
        }
    }
}

vectorised! {
    /// `(x_t + ε) · y` for each row.
    pub(super) fn products<'a>(rows: &'a [f32], eps: f32, y: &'a [f32], into: &'a mut [f32]) -> () {
        let y = y.as_chunks::<LANES>().0;
        for (row, into) in rows.chunks_exact(y.len() * LANES).zip(into) {
            let mut lanes = [0.0; LANES];
            for (x, y) in row.as_chunks::<LANES>().0.iter().zip(y) {
                for l in 0..LANES {
                    lanes[l] = (x[l] + eps).mul_add(y[l], lanes[l]);
                }
            }
            let mut half = LANES / 2;
            while half > 0 {
                for i in 0..half {
                    lanes[i] += lanes[i + half];
                }
                half /= 2;
            }
            *into = lanes[0];
        }
    }
}

/// `x ← a x + b y_0 + c y_1 + d y_2 + y_3`, one row: the terms of the gradient of a token's capacities.
pub(super) struct Terms<'a> {
    pub(super) factors: [f32; 4],
    pub(super) vectors: [&'a [f32]; 4],
}

vectorised! {
    pub(super) fn combine<'a>(terms: Terms<'a>, x: &'a mut [f32]) -> () {
        let Terms { factors: [a, b, c, d], vectors: [y0, y1, y2, y3] } = terms;
        let vectors = y0.iter().zip(y1).zip(y2.iter().zip(y3));
        for (x, ((y0, y1), (y2, y3))) in x.iter_mut().zip(vectors) {
            *x = x.mul_add(a, y3 + b.mul_add(*y0, c.mul_add(*y1, d * y2)));
        }
    }
}
