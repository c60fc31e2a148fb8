use std::ops::Range;

use super::problem::{BLOCK, Sizes, row_of};
use crate::blocks::simd::{exp, scratch};

/// Decays smaller than this are 0: products of them would leave the normal numbers.
const SMALLEST: f32 = 1e-30;

/// The decays of all channels inside a chunk.
pub(super) struct Decays {
    pub(super) k: usize,
    /// Rows of K numbers are this far apart.
    pub(super) k_row: usize,
    /// `exp(g)`. `[C, K]`
    pub(super) each: Vec<f32>,
    /// From the start of the block through token i. `[C, K]`
    pub(super) since: Vec<f32>,
    /// From after token i to the end of the block. `[C, K]`
    pub(super) until: Vec<f32>,
    /// Over block r, and from the start of the chunk to that of block r. `[blocks + 1, K]`
    pub(super) over: Vec<f32>,
    pub(super) before: Vec<f32>,
}

impl Decays {
    pub(super) fn new(Sizes { k, chunk: c, .. }: Sizes) -> Self {
        let k_row = row_of(k);
        let blocks = c.div_ceil(BLOCK) + 1;
        Self {
            k,
            k_row,
            each: scratch(c * k_row),
            since: scratch(c * k_row),
            until: scratch(c * k_row),
            over: scratch(blocks * k_row),
            before: scratch(blocks * k_row),
        }
    }

    /// Before the first block of a chunk.
    pub(super) fn begin(&mut self) {
        self.before[..self.k].fill(1.0);
    }

    /// Those of block r, given the log decays of its tokens, `[K]` or `[1]` each.
    #[inline(always)]
    pub(super) fn block<'a>(&mut self, r: usize, tokens: Range<usize>, log: impl Fn(usize) -> &'a [f32]) {
        let (k, k_row) = (self.k, self.k_row);
        let (before, after) = self.before[r * k_row..].split_at_mut(k_row);
        let (before, after) = (&before[..k], &mut after[..k]);
        let since_start = &mut self.over[r * k_row..][..k];
        since_start.fill(1.0);
        for i in tokens.clone() {
            let decay = &mut self.each[i * k_row..][..k];
            fill_decay(decay, log(i));
            let since = &mut self.since[i * k_row..][..k];
            for d in 0..k {
                since_start[d] = flushed(since_start[d] * decay[d]);
                since[d] = since_start[d];
            }
        }
        for d in 0..k {
            after[d] = flushed(before[d] * since_start[d]);
        }
        let last = tokens.end - 1;
        for i in tokens.rev() {
            let (until, later) = self.until[i * k_row..].split_at_mut(k_row);
            let until = &mut until[..k];
            if i == last {
                until.fill(1.0);
            } else {
                let (later, decay) = (&later[..k], &self.each[(i + 1) * k_row..][..k]);
                for d in 0..k {
                    until[d] = flushed(later[d] * decay[d]);
                }
            }
        }
    }

    /// Decay over the first n tokens, whole blocks or the whole chunk. `[K]`
    pub(super) fn total(&self, n: usize) -> &[f32] {
        &self.before[n.div_ceil(BLOCK) * self.k_row..][..self.k]
    }
}

#[inline(always)]
fn fill_decay(decay: &mut [f32], log: &[f32]) {
    if let [log] = log {
        decay.fill(exp(*log));
    } else {
        for (decay, log) in decay.iter_mut().zip(log) {
            *decay = exp(*log);
        }
    }
}

#[inline(always)]
fn flushed(x: f32) -> f32 {
    if x < SMALLEST { 0.0 } else { x }
}

/// `row = x · factor ⊙ since`, and that decayed from the start of the chunk as well.
#[inline(always)]
pub(super) fn decay_row(row: &mut [f32], start: &mut [f32], x: &[f32], factor: f32, since: &[f32], before: &[f32]) {
    let k = row.len();
    let (start, x, since, before) = (&mut start[..k], &x[..k], &since[..k], &before[..k]);
    for d in 0..k {
        row[d] = x[d] * factor * since[d];
        start[d] = row[d] * before[d];
    }
}

/// Columns decayed to the end of an earlier block to that of the next, `ends` `[K, …]`, and those of the next block `[m, K]` behind them.
#[inline(always)]
pub(super) fn append(ends: &mut [f32], row: usize, tokens: Range<usize>, over: &[f32], turned: &[f32]) {
    let m = tokens.len();
    for (d, &over) in over.iter().enumerate() {
        let row = &mut ends[d * row..][..tokens.end];
        let (earlier, new) = row.split_at_mut(tokens.start);
        for x in earlier {
            *x *= over;
        }
        new.copy_from_slice(&turned[d * m..][..m]);
    }
}
