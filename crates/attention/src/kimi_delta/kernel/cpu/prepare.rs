use std::ops::Range;

use pulp::Simd;

use super::{
    decays::{Decays, decay_columns, decay_row, hide_later, place_columns},
    pairs,
    problem::{BLOCK, Place, Problem, Sizes, padded, row_of, times, wide, wide_mut},
};
use crate::blocks::simd::{Band, Product, Strided, multiply, scratch};

/// What of a chunk does not depend on the state. Rows of two kinds, of queries and of keys, alternate in memory: row 2i is of query i,
/// row 2i + 1 of key i times β.
pub(super) struct Prepared {
    pub(super) n: usize,
    pub(super) k: usize,
    /// Rows of K numbers are this far apart, rows of C numbers `c_row`.
    pub(super) k_row: usize,
    pub(super) c_row: usize,
    pub(super) left_row: usize,
    /// The inputs, side by side: a chunk's rows lie far apart in the tensors, often in the same few sets of a cache. `[C, K]`
    queries: Vec<f32>,
    keys: Vec<f32>,
    /// β. `[C]`
    pub(super) beta: Vec<f32>,
    pub(super) decays: Decays,
    /// Scaled queries and keys times β, decayed since the start of their block. `[2C, K]`
    pub(super) rows: Vec<f32>,
    /// The same, decayed since the start of the chunk, and beside them the decayed products of queries and keys up to them, or of keys
    /// and earlier keys. `[2C, K + C]`
    pub(super) left: Vec<f32>,
    /// Keys decayed to the end of the chunk, a token per column. `[K, C]`
    pub(super) ends: Vec<f32>,
    /// Of one block: keys shifted to where rows meet them. `[BLOCK, K]`
    block: Vec<f32>,
}

impl Prepared {
    pub(super) fn new(sizes: Sizes) -> Self {
        let Sizes { k, chunk: c, .. } = sizes;
        let (k_row, c_row, left_row) = (row_of(k), row_of(c), row_of(k + c));
        Self {
            n: 0,
            k,
            k_row,
            c_row,
            left_row,
            queries: padded(c, k, 0.0),
            keys: padded(c, k, 0.0),
            beta: scratch(c),
            decays: Decays::new(sizes),
            rows: scratch(2 * c * k_row),
            left: scratch(2 * c * left_row),
            ends: scratch(k * c_row),
            block: scratch(BLOCK * k_row),
        }
    }

    /// The blocks of the chunk, each the tokens of one.
    pub(super) fn blocks(&self) -> impl DoubleEndedIterator<Item = (usize, Range<usize>)> + use<> {
        let n = self.n;
        (0..n.div_ceil(BLOCK)).map(move |r| (r, r * BLOCK..(r * BLOCK + BLOCK).min(n)))
    }

    /// The query of a token. `[K]`
    #[inline(always)]
    pub(super) fn query(&self, i: usize) -> &[f32] {
        &self.queries[i * self.k_row..][..self.k]
    }

    /// The same with its padding.
    #[inline(always)]
    pub(super) fn query_row(&self, i: usize) -> &[f32] {
        &self.queries[i * self.k_row..][..self.k_row]
    }

    /// The key of a token. `[K]`
    #[inline(always)]
    pub(super) fn key(&self, i: usize) -> &[f32] {
        &self.key_row(i)[..self.k]
    }

    /// The same with its padding.
    #[inline(always)]
    pub(super) fn key_row(&self, i: usize) -> &[f32] {
        &self.keys[i * self.k_row..][..self.k_row]
    }

    /// Decay over the whole chunk. `[K]`
    pub(super) fn total(&self) -> &[f32] {
        self.decays.total(self.n)
    }

    /// Queries decayed since the start of the chunk and their products with keys, or (`keys`) keys times β and theirs. `[C, K + C]`
    pub(super) fn left(&self, keys: bool) -> Strided {
        Strided::rows(self.left[if keys { self.left_row } else { 0 }..].as_ptr(), 2 * self.left_row)
    }

    /// Computes the chunk, asking for each block before it is needed, the last time for the first of the chunk `ahead`.
    #[inline(always)]
    pub(super) fn fill<S: Simd>(&mut self, simd: S, problem: &Problem, place: &Place, ahead: Option<Place>) {
        self.n = place.n;
        self.decays.begin();
        for (r, tokens) in self.blocks() {
            // Not earlier and not all at once: rows that are far apart push one another out of the caches.
            let next = if tokens.end < place.n { Some((place, tokens.end)) } else { ahead.as_ref().map(|ahead| (ahead, 0)) };
            let ask = |half: usize| {
                if let Some((place, first)) = next {
                    let first = first + half * (BLOCK / 2);
                    for i in first..(first + BLOCK / 2).min(place.n) {
                        problem.prefetch(place, i);
                    }
                }
            };
            ask(0);
            self.decays(problem, place, r, tokens.clone());
            ask(1);
            self.scores(simd, problem.scale, r, tokens);
        }
    }

    /// Everything elementwise of block r.
    #[inline(always)]
    fn decays(&mut self, problem: &Problem, place: &Place, r: usize, tokens: Range<usize>) {
        let (k, k_row) = (self.k, self.k_row);
        self.decays.block(r, tokens.clone(), |i| problem.log_decay(place, i));
        let before = &self.decays.before[r * k_row..];
        for i in tokens {
            let (since, shift) = (&self.decays.since[i * k_row..], &self.decays.shift[i * k_row..]);
            let (scale, beta) = (problem.scale, problem.strength(place, i));
            self.beta[i] = beta;
            let (query, key) = (&mut self.queries[i * k_row..], &mut self.keys[i * k_row..]);
            query[..k].copy_from_slice(problem.query(place, i));
            key[..k].copy_from_slice(problem.key(place, i));
            let (row, next_row) = self.rows[2 * i * k_row..].split_at_mut(k_row);
            let (start, next_start) = self.left[2 * i * self.left_row..].split_at_mut(self.left_row);
            decay_row([row, start], query, scale, [since, before], k);
            decay_row([next_row, next_start], key, beta, [since, before], k);
            let keys = wide(key, k).iter().zip(wide(shift, k));
            for (end, (key, shift)) in wide_mut(&mut self.block[i % BLOCK * k_row..], k).iter_mut().zip(keys) {
                *end = times(*key, *shift);
            }
        }
    }

    /// The products of block r with the keys up to it, and these keys at the end of the block.
    #[inline(always)]
    fn scores<S: Simd>(&mut self, simd: S, scale: f32, r: usize, tokens: Range<usize>) {
        let (k, k_row, c_row, left_row) = (self.k, self.k_row, self.c_row, self.left_row);
        let (gentle, met) = (self.decays.gentle(r), self.decays.met(r, &tokens));
        if gentle {
            place_columns(&mut self.ends, c_row, &tokens, &self.block, k_row, k);
        }
        if met > 0 {
            let product = Product {
                m: 2 * tokens.len(),
                n: met,
                inner: k,
                a: Strided::rows(self.rows[2 * tokens.start * k_row..].as_ptr(), k_row),
                b: self.ends.as_ptr(),
                b_row: c_row,
                c: self.left[2 * tokens.start * left_row + k..].as_mut_ptr(),
                c_row: left_row,
                add: false,
                band: Band::Full,
            };
            // SAFETY: rows 2·tokens of the buffers, in columns of tokens up to them.
            unsafe { multiply(simd, product) };
        }
        if !gentle {
            pairs::scores(self, scale, tokens.clone());
        }
        // Zeros as far as a row of a block of registers may reach.
        let width = (tokens.start + 2 * BLOCK).min(left_row - k) - tokens.start;
        hide_later(&mut self.left[2 * tokens.start * left_row + k + tokens.start..], left_row, tokens.len(), [true, false], width);
        decay_columns(&mut self.ends, c_row, met, self.decays.over(r));
        if !gentle {
            place_columns(&mut self.ends, c_row, &tokens, &self.block, k_row, k);
        }
    }
}
