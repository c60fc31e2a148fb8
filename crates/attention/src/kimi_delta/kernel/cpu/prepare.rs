use std::ops::Range;

use pulp::Simd;

use super::{
    decays::{Decays, append, decay_row},
    pairs,
    problem::{BLOCK, Place, Problem, Sizes, row_of},
};
use crate::blocks::simd::{Band, Product, Strided, multiply, scratch, transpose};

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
    /// Of one block: keys decayed to its end, and their transpose. `[BLOCK, K]`, `[K, BLOCK]`
    block: Vec<f32>,
    turned: Vec<f32>,
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
            queries: scratch(c * k_row),
            keys: scratch(c * k_row),
            beta: scratch(c),
            decays: Decays::new(sizes),
            rows: scratch(2 * c * k_row),
            left: scratch(2 * c * left_row),
            ends: scratch(k * c_row),
            block: scratch(BLOCK * k_row),
            turned: scratch(k * BLOCK),
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

    /// The key of a token. `[K]`
    #[inline(always)]
    pub(super) fn key(&self, i: usize) -> &[f32] {
        &self.keys[i * self.k_row..][..self.k]
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
            // Not earlier: rows that are far apart push one another out of the caches.
            let next = if tokens.end < place.n { Some((place, tokens.end)) } else { ahead.as_ref().map(|ahead| (ahead, 0)) };
            if let Some((place, first)) = next {
                for i in first..(first + BLOCK).min(place.n) {
                    problem.prefetch(place, i);
                }
            }
            self.decays(problem, place, r, tokens.clone());
            self.scores(simd, r, tokens.clone());
            pairs::scores(self, problem.scale, tokens.clone());
            self.append(r, tokens);
        }
    }

    /// Everything elementwise of block r.
    #[inline(always)]
    fn decays(&mut self, problem: &Problem, place: &Place, r: usize, tokens: Range<usize>) {
        let (k, k_row) = (self.k, self.k_row);
        self.decays.block(r, tokens.clone(), |i| problem.log_decay(place, i));
        let before = &self.decays.before[r * k_row..][..k];
        for i in tokens {
            let (since, until) = (&self.decays.since[i * k_row..][..k], &self.decays.until[i * k_row..][..k]);
            let (scale, beta) = (problem.scale, problem.strength(place, i));
            self.beta[i] = beta;
            let (query, key) = (&mut self.queries[i * k_row..][..k], &mut self.keys[i * k_row..][..k]);
            query.copy_from_slice(problem.query(place, i));
            key.copy_from_slice(problem.key(place, i));
            let (rows, left) = (&mut self.rows[2 * i * k_row..], &mut self.left[2 * i * self.left_row..]);
            let (row, next_row) = rows.split_at_mut(k_row);
            let (start, next_start) = left.split_at_mut(self.left_row);
            decay_row(&mut row[..k], &mut start[..k], query, scale, since, before);
            decay_row(&mut next_row[..k], &mut next_start[..k], key, beta, since, before);
            let end = &mut self.block[i % BLOCK * k_row..][..k];
            for d in 0..k {
                end[d] = key[d] * until[d];
            }
        }
    }

    /// The products of block r with the keys of all blocks before it.
    #[inline(always)]
    fn scores<S: Simd>(&mut self, simd: S, r: usize, tokens: Range<usize>) {
        if r == 0 {
            return;
        }
        let product = Product {
            m: 2 * tokens.len(),
            n: tokens.start,
            inner: self.k,
            a: Strided::rows(self.rows[2 * tokens.start * self.k_row..].as_ptr(), self.k_row),
            b: self.ends.as_ptr(),
            b_row: self.c_row,
            c: self.left[2 * tokens.start * self.left_row + self.k..].as_mut_ptr(),
            c_row: self.left_row,
            add: false,
            band: Band::Full,
        };
        // SAFETY: rows 2·tokens of the buffers, in columns of tokens before them.
        unsafe { multiply(simd, product) };
    }

    /// Decays the keys of earlier blocks to the end of block r and adds those of block r.
    #[inline(always)]
    fn append(&mut self, r: usize, tokens: Range<usize>) {
        let (k, m) = (self.k, tokens.len());
        // SAFETY: the block holds m rows of K numbers, and `turned` K rows of m.
        unsafe { transpose(self.block.as_ptr(), self.k_row, m, k, 1.0, &mut self.turned[..k * m], m) };
        let over = &self.decays.over[r * self.k_row..][..k];
        append(&mut self.ends, self.c_row, tokens, over, &self.turned);
    }
}
