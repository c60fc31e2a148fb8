use std::ops::Range;

use rayon::prelude::*;

use crate::blocks::simd::{View, within};

/// Queries per task and keys per tile: a tile of scores, its queries and its keys lie in the first two caches together.
pub(super) const QUERIES: usize = 64;
/// See [`QUERIES`].
pub(super) const KEYS: usize = 64;

/// Sizes, by the letters of the operation.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sizes {
    pub(crate) b: usize,
    pub(crate) h: usize,
    pub(crate) g: usize,
    pub(crate) t: usize,
    pub(crate) s: usize,
    pub(crate) k: usize,
    pub(crate) v: usize,
}

/// A bias `[B or 1, H or 1, T or 1, S]` of any strides, 0 along the axes of which it has one element.
#[derive(Clone, Copy)]
pub(crate) struct Bias<'a> {
    data: &'a [f32],
    strides: [usize; 4],
}

impl<'a> Bias<'a> {
    /// # Panics
    /// If an element lies outside of `data`.
    pub(crate) fn new(data: &'a [f32], strides: [usize; 4], dims: [usize; 4]) -> Self {
        assert!(within([strides[0], strides[1], strides[2]], [dims[0], dims[1], dims[2], dims[3].min(1)], data.len()));
        let last = (0..4).map(|i| dims[i].saturating_sub(1) * strides[i]).sum::<usize>();
        assert!(dims.contains(&0) || last < data.len(), "strides {strides:?} leave the bias's memory");
        let strides = std::array::from_fn(|i| if dims[i] == 1 { 0 } else { strides[i] });
        Self { data, strides }
    }

    /// `tile[j, i] += factor · bias[b, h, q + i, k + j]` for the place `[b, h, q, k]`, in the first `rows` lanes.
    #[inline(always)]
    pub(super) fn add_to(&self, tile: &mut [f32], width: usize, place: [usize; 4], rows: usize, factor: f32) {
        let [_, _, along_queries, along_keys] = self.strides;
        let start: usize = place.iter().zip(self.strides).map(|(index, stride)| index * stride).sum();
        for (j, row) in tile.chunks_exact_mut(width).enumerate() {
            let start = start + j * along_keys;
            for (i, x) in row[..rows].iter_mut().enumerate() {
                *x += self.data[start + i * along_queries] * factor;
            }
        }
    }
}

/// A bias `[H, N]` by the distance of query and key, the last for distances of N − 1 and more.
#[derive(Clone, Copy)]
pub(crate) struct Distances<'a> {
    data: &'a [f32],
    /// N.
    pub(super) count: usize,
}

impl<'a> Distances<'a> {
    /// # Panics
    /// If `data` is not `heads` rows of `count` numbers, at least one.
    pub(crate) fn new(data: &'a [f32], heads: usize, count: usize) -> Self {
        assert!(count > 0 && data.len() == heads * count, "{} numbers for {heads} × {count}", data.len());
        Self { data, count }
    }

    /// `tile[j, i] += factor · data[h, |i + offset − j|]`.
    #[inline(always)]
    pub(super) fn add_to(&self, tile: &mut [f32], width: usize, h: usize, rows: usize, offset: isize, factor: f32) {
        let data = &self.data[h * self.count..][..self.count];
        for (j, row) in tile.chunks_exact_mut(width).enumerate() {
            for (i, x) in row[..rows].iter_mut().enumerate() {
                *x += data[(i as isize + offset - j as isize).unsigned_abs().min(self.count - 1)] * factor;
            }
        }
    }
}

/// What forward and backward read.
#[derive(Clone, Copy)]
pub(crate) struct Problem<'a> {
    pub(crate) sizes: Sizes,
    pub(crate) q: View<'a>,
    pub(crate) k: View<'a>,
    pub(crate) v: View<'a>,
    pub(crate) bias: Option<Bias<'a>>,
    pub(crate) distances: Option<Distances<'a>>,
    /// `[B, S]`, not 0 = hidden.
    pub(crate) padding: Option<&'a [u8]>,
    pub(crate) causal: bool,
    pub(crate) scale: f32,
}

impl Problem<'_> {
    /// The key/value head of query head `h`.
    pub(super) fn group(&self, h: usize) -> usize {
        h / (self.sizes.h / self.sizes.g)
    }

    /// The query `q0 + i` is at i + this − j from the key `k0 + j`.
    pub(super) fn distance(&self, q0: usize, k0: usize) -> isize {
        (q0 + self.sizes.s) as isize - (self.sizes.t + k0) as isize
    }

    /// The query `q0 + i` sees the key `k0 + j` if j ≤ i + this. Everywhere the same far number without causality.
    pub(super) fn offset(&self, q0: usize, k0: usize) -> isize {
        if self.causal { self.distance(q0, k0) } else { isize::MAX / 2 }
    }

    /// The keys that the queries up to `q_end` (exclusive) may see.
    pub(super) fn visible(&self, q_end: usize) -> Range<usize> {
        0..if self.causal { (q_end + self.sizes.s).saturating_sub(self.sizes.t).min(self.sizes.s) } else { self.sizes.s }
    }

    /// Multiply-adds of a forward pass, without the saving by causality.
    fn work(&self) -> usize {
        let Sizes { b, h, t, s, k, v, .. } = self.sizes;
        b * h * t * s * (k + v)
    }

    /// Runs the tasks, on all threads if they are worth it.
    pub(super) fn for_each_task(&self, count: usize, task: impl Fn(usize) + Sync + Send) {
        const WORTH_A_THREAD: usize = 1 << 17;
        if count > 1 && self.work() >= WORTH_A_THREAD {
            (0..count).into_par_iter().for_each(task);
        } else {
            for index in 0..count {
                task(index);
            }
        }
    }
}
