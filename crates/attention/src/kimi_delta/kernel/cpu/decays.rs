use std::ops::Range;

use super::problem::{BLOCK, Sizes, Wide, padded, row_of, times, wide, wide_mut};
use crate::blocks::simd::{exp, scratch, turn};

/// Decays smaller than this are 0: products of them would leave the normal numbers.
const SMALLEST: f32 = 1e-30;

/// In a block in which no channel decays further than this, a decay between two tokens is a quotient of two since its start: both are
/// exact to their rounding, and far from the ends of the range of f32.
const GENTLE: f32 = 1e-16;

/// The decays of all channels inside a chunk. Rows of K numbers are padded with numbers that change nothing.
pub(super) struct Decays {
    pub(super) k: usize,
    /// Rows of K numbers are this far apart.
    pub(super) k_row: usize,
    /// `exp(g)`. `[C, K]`
    pub(super) each: Vec<f32>,
    /// From the start of the block through token i. `[C, K]`
    pub(super) since: Vec<f32>,
    /// What takes a key to where the rows of later blocks meet it: from after token i to the end of the block. In a gentle block, where
    /// its own rows meet it as well, back from there to the start. `[C, K]`
    pub(super) shift: Vec<f32>,
    /// Over block r, and from the start of the chunk to that of block r. `[blocks + 1, K]`
    pub(super) over: Vec<f32>,
    pub(super) before: Vec<f32>,
    /// Whether block r is gentle.
    gentle: Vec<bool>,
}

impl Decays {
    pub(super) fn new(Sizes { k, chunk: c, .. }: Sizes) -> Self {
        let k_row = row_of(k);
        let blocks = c.div_ceil(BLOCK) + 1;
        Self {
            k,
            k_row,
            each: padded(c, k, 1.0),
            since: scratch(c * k_row),
            shift: scratch(c * k_row),
            over: scratch(blocks * k_row),
            before: scratch(blocks * k_row),
            gentle: vec![false; blocks],
        }
    }

    /// Before the first block of a chunk.
    pub(super) fn begin(&mut self) {
        self.before[..self.k_row].fill(1.0);
    }

    /// Those of block r, given the log decays of its tokens, `[K]` or `[1]` each.
    #[inline(always)]
    pub(super) fn block<'a>(&mut self, r: usize, tokens: Range<usize>, log: impl Fn(usize) -> &'a [f32]) {
        let (k, k_row) = (self.k, self.k_row);
        let (before, after) = self.before[r * k_row..].split_at_mut(k_row);
        let since_start = &mut self.over[r * k_row..][..k_row];
        since_start.fill(1.0);
        for i in tokens.clone() {
            let decay = &mut self.each[i * k_row..][..k_row];
            fill_decay(&mut decay[..k], log(i));
            let rows = wide_mut(since_start, k).iter_mut().zip(wide(decay, k)).zip(wide_mut(&mut self.since[i * k_row..], k));
            for ((start, decay), since) in rows {
                *start = flushed(times(*start, *decay));
                *since = *start;
            }
        }
        let mut strong = 0;
        for ((after, before), start) in wide_mut(after, k).iter_mut().zip(wide(before, k)).zip(wide(since_start, k)) {
            *after = flushed(times(*before, *start));
            for x in start {
                strong += u32::from(*x < GENTLE);
            }
        }
        self.gentle[r] = strong == 0;
        if strong == 0 {
            for i in tokens {
                let rows = wide_mut(&mut self.shift[i * k_row..], k).iter_mut().zip(wide(&self.since[i * k_row..], k));
                for (shift, since) in rows {
                    for d in 0..16 {
                        shift[d] = 1.0 / since[d];
                    }
                }
            }
            return;
        }
        let last = tokens.end - 1;
        self.shift[last * k_row..][..k_row].fill(1.0);
        for i in (tokens.start..last).rev() {
            let (shift, later) = self.shift[i * k_row..].split_at_mut(k_row);
            let rows = wide_mut(shift, k).iter_mut().zip(wide(later, k)).zip(wide(&self.each[(i + 1) * k_row..], k));
            for ((shift, later), decay) in rows {
                *shift = flushed(times(*later, *decay));
            }
        }
    }

    /// Whether the products of block r with its own keys are of factors: else the decays between its tokens are multiplied pair by pair.
    pub(super) fn gentle(&self, r: usize) -> bool {
        self.gentle[r]
    }

    /// The tokens whose keys block r meets by factors, the first so many of the chunk.
    pub(super) fn met(&self, r: usize, tokens: &Range<usize>) -> usize {
        if self.gentle[r] { tokens.end } else { tokens.start }
    }

    /// Decay over block r. `[K]`
    pub(super) fn over(&self, r: usize) -> &[f32] {
        &self.over[r * self.k_row..][..self.k]
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
fn flushed(mut x: Wide) -> Wide {
    for x in &mut x {
        *x = if *x < SMALLEST { 0.0 } else { *x };
    }
    x
}

/// `row = x · factor ⊙ since`, and that decayed from the start of the chunk as well, `start`. Rows of K numbers are written up to a
/// multiple of 16.
#[inline(always)]
pub(super) fn decay_row([row, start]: [&mut [f32]; 2], x: &[f32], factor: f32, [since, before]: [&[f32]; 2], k: usize) {
    let decays = wide(since, k).iter().zip(wide(before, k));
    let rows = wide_mut(row, k).iter_mut().zip(wide_mut(start, k));
    for (((row, start), x), (since, before)) in rows.zip(wide(x, k)).zip(decays) {
        *row = times(times(*x, [factor; 16]), *since);
        *start = times(*row, *before);
    }
}

/// The first columns of `ends` `[K, …]`, rows `row` apart, each row times its factor.
#[inline(always)]
pub(super) fn decay_columns(ends: &mut [f32], row: usize, columns: usize, factors: &[f32]) {
    for (row, &factor) in ends.chunks_mut(row).zip(factors) {
        let (whole, rest) = row[..columns].as_chunks_mut::<16>();
        for x in whole {
            *x = times(*x, [factor; 16]);
        }
        for x in rest {
            *x *= factor;
        }
    }
}

/// Rows of a block, `row` apart, as columns of `ends`.
#[inline(always)]
pub(super) fn place_columns(ends: &mut [f32], end_row: usize, tokens: &Range<usize>, block: &[f32], row: usize, k: usize) {
    assert!((k - 1) * end_row + tokens.end <= ends.len() && (tokens.len() - 1) * row + k <= block.len(), "sizes of a block");
    // SAFETY: as asserted.
    unsafe { turn(block.as_ptr(), row, [tokens.len(), k], 1.0, ends.as_mut_ptr().add(tokens.start), end_row) };
}

/// Zeros in the products of a block's tokens with its own, `[2m, …]` rows of two kinds, `row` apart, from the first column on that a row
/// does not see, up to `width`. `sees`: whether rows of each kind see their own token. Columns begin with the block's first.
#[inline(always)]
pub(super) fn hide_later(products: &mut [f32], row: usize, tokens: usize, sees: [bool; 2], width: usize) {
    for i in 0..tokens {
        for (kind, sees) in sees.into_iter().enumerate() {
            let first = i + usize::from(sees);
            for (j, x) in products[(2 * i + kind) * row..][..width].iter_mut().enumerate() {
                *x = if j < first { *x } else { 0.0 };
            }
        }
    }
}
