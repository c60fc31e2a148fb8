use std::ops::Range;

use pulp::Simd;

use super::{
    super::{
        decays::{Decays, decay_columns, decay_row, hide_later, place_columns},
        pairs,
        problem::{BLOCK, Place, Sizes, padded, row_of, times, wide, wide_mut},
    },
    General,
};
use crate::blocks::simd::{Band, Product, Strided, multiply, scratch};

/// What of a chunk does not depend on the state. Rows of two kinds alternate in memory: row 2i is of query i, row 2i + 1 of `b` i.
/// Columns are of two kinds as well, of keys and of `a`: four decayed products where Kimi Delta Attention has two.
pub(in super::super) struct Prepared {
    pub(super) n: usize,
    sizes: Sizes,
    k_row: usize,
    pub(super) end_row: usize,
    left_row: usize,
    /// The inputs side by side: queries, keys, a, b. `[C, K]` each
    inputs: [Vec<f32>; 4],
    pub(super) decays: Decays,
    /// What has not decayed. `[K]`
    ones: Vec<f32>,
    /// Scaled queries, decayed since the start of their block, and `b`, which reads the state before its token decays. `[2C, K]`
    rows: Vec<f32>,
    /// The same, decayed since the start of the chunk, and beside them the decayed products with keys and with `a`. `[2C, K + 2C]`
    left: Vec<f32>,
    /// Keys and, C columns further on, `a`, decayed to the end of the chunk, a token per column. `[K, 2C]`
    pub(super) ends: Vec<f32>,
    /// Of one block, keys and `a`, shifted to where rows meet them. `[BLOCK, K]` each
    block: [Vec<f32>; 2],
    /// Factors of −1. `[C]`
    pub(super) minus: Vec<f32>,
}

/// The places of the inputs.
const QUERY: usize = 0;
const KEY: usize = 1;
const A: usize = 2;
const B: usize = 3;

impl Prepared {
    pub(super) fn new(sizes: Sizes) -> Self {
        let Sizes { k, chunk: c, .. } = sizes;
        let (k_row, end_row, left_row) = (row_of(k), row_of(2 * c), row_of(k + 2 * c));
        Self {
            n: 0,
            sizes,
            k_row,
            end_row,
            left_row,
            inputs: std::array::from_fn(|_| padded(c, k, 0.0)),
            decays: Decays::new(sizes),
            ones: vec![1.0; k_row],
            rows: scratch(2 * c * k_row),
            left: scratch(2 * c * left_row),
            ends: scratch(k * end_row),
            block: std::array::from_fn(|_| scratch(BLOCK * k_row)),
            minus: vec![-1.0; c],
        }
    }

    /// Queries decayed since the start of the chunk and their products, or (`b`) those of `b`. `[C, K + 2C]`
    pub(super) fn left(&self, b: bool) -> Strided {
        Strided::rows(self.left[if b { self.left_row } else { 0 }..].as_ptr(), 2 * self.left_row)
    }

    /// As `fill` of Kimi Delta Attention.
    #[inline(always)]
    pub(super) fn fill<S: Simd>(&mut self, simd: S, problem: &General, place: &Place, ahead: Option<Place>) {
        self.n = place.n;
        self.decays.begin();
        for r in 0..place.n.div_ceil(BLOCK) {
            let tokens = r * BLOCK..(r * BLOCK + BLOCK).min(place.n);
            let next = if tokens.end < place.n { Some((place, tokens.end)) } else { ahead.as_ref().map(|ahead| (ahead, 0)) };
            if let Some((place, first)) = next {
                for i in first..(first + BLOCK).min(place.n) {
                    problem.prefetch(place, i);
                }
            }
            self.decay(problem, place, r, tokens.clone());
            for columns in [0, 1] {
                self.scores(simd, problem.scale, columns, r, tokens.clone());
            }
        }
    }

    /// Everything elementwise of block r.
    #[inline(always)]
    fn decay(&mut self, problem: &General, place: &Place, r: usize, tokens: Range<usize>) {
        let (k, k_row) = (self.sizes.k, self.k_row);
        let log = |i: usize| super::Problem::row(&problem.g, place, place.head, i, problem.g.width());
        self.decays.block(r, tokens.clone(), log);
        let before = &self.decays.before[r * k_row..];
        for i in tokens.clone() {
            for (input, view) in self.inputs.iter_mut().zip([&problem.q, &problem.k, &problem.a, &problem.b]) {
                input[i * k_row..][..k].copy_from_slice(problem.key_row(view, place, i));
            }
            let [query, key, a, b] = self.inputs.each_ref().map(|input| &input[i * k_row..]);
            let (since, shift) = (&self.decays.since[i * k_row..], &self.decays.shift[i * k_row..]);
            let since_b = if i == tokens.start { &self.ones[..] } else { &self.decays.since[(i - 1) * k_row..] };
            let (row, next_row) = self.rows[2 * i * k_row..].split_at_mut(k_row);
            let (start, next_start) = self.left[2 * i * self.left_row..].split_at_mut(self.left_row);
            decay_row([row, start], query, problem.scale, [since, before], k);
            decay_row([next_row, next_start], b, 1.0, [since_b, before], k);
            for (end, column) in self.block.iter_mut().zip([key, a]) {
                let columns = wide(column, k).iter().zip(wide(shift, k));
                for (end, (column, shift)) in wide_mut(&mut end[i % BLOCK * k_row..], k).iter_mut().zip(columns) {
                    *end = times(*column, *shift);
                }
            }
        }
    }

    /// The products of block r with the columns of one kind up to it, and these at the end of the block.
    #[inline(always)]
    fn scores<S: Simd>(&mut self, simd: S, scale: f32, columns: usize, r: usize, tokens: Range<usize>) {
        let Sizes { k, chunk: c, .. } = self.sizes;
        let (gentle, met) = (self.decays.gentle(r), self.decays.met(r, &tokens));
        if gentle {
            place_columns(&mut self.ends[columns * c..], self.end_row, &tokens, &self.block[columns], self.k_row, k);
        }
        if met > 0 {
            let product = Product {
                m: 2 * tokens.len(),
                n: met,
                inner: k,
                a: Strided::rows(self.rows[2 * tokens.start * self.k_row..].as_ptr(), self.k_row),
                b: self.ends[columns * c..].as_ptr(),
                b_row: self.end_row,
                c: self.left[2 * tokens.start * self.left_row + k + columns * c..].as_mut_ptr(),
                c_row: self.left_row,
                add: false,
                band: Band::Full,
            };
            // SAFETY: rows 2·tokens of the buffers, in columns of tokens up to them.
            unsafe { multiply(simd, product) };
        }
        if !gentle {
            self.inside_block(scale, columns, tokens.clone());
        }
        // Zeros as far as products read.
        let from = k + columns * c + tokens.start;
        let width = (tokens.start + 2 * BLOCK).min(c) - tokens.start;
        hide_later(&mut self.left[2 * tokens.start * self.left_row + from..], self.left_row, tokens.len(), [true, false], width);
        decay_columns(&mut self.ends[columns * c..], self.end_row, met, self.decays.over(r));
        if !gentle {
            place_columns(&mut self.ends[columns * c..], self.end_row, &tokens, &self.block[columns], self.k_row, k);
        }
    }

    /// The products of a block with its own columns of one kind, up to the diagonal.
    #[inline(always)]
    fn inside_block(&mut self, scale: f32, columns: usize, tokens: Range<usize>) {
        let Sizes { k, chunk: c, .. } = self.sizes;
        let m = tokens.len();
        let row = |i: usize| (tokens.start + i.min(m - 1)) * self.k_row;
        let input = |which: usize| -> [&[f32]; BLOCK] { std::array::from_fn(|i| &self.inputs[which][row(i)..][..k]) };
        let decay: [&[f32]; BLOCK] = std::array::from_fn(|i| &self.decays.each[row(i)..][..k]);
        let column = input(if columns == 0 { KEY } else { A });
        let [of_query, of_b] = pairs::products::<true>([&decay, &input(QUERY), &input(B), &column], k);
        let from = k + columns * c + tokens.start;
        for i in 0..m {
            let (rows_q, rows_b) = self.left[2 * (tokens.start + i) * self.left_row..].split_at_mut(self.left_row);
            for (x, product) in rows_q[from..=from + i].iter_mut().zip(&of_query[i]) {
                *x = product * scale;
            }
            rows_b[from..from + i].copy_from_slice(&of_b[i][..i]);
        }
    }
}
