use std::ops::Range;

use rayon::prelude::*;

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

/// A tensor `[B, H, T, width]` to read: any strides, but numbers of one row side by side.
#[derive(Clone, Copy)]
pub(crate) struct View<'a> {
    data: &'a [f32],
    strides: [usize; 3],
}

impl<'a> View<'a> {
    /// # Panics
    /// If a row lies outside of `data`: every later access is within these bounds.
    pub(crate) fn new(data: &'a [f32], strides: [usize; 3], dims: [usize; 4]) -> Self {
        assert!(within(strides, dims, data.len()), "strides {strides:?} leave the tensor's memory");
        Self { data, strides }
    }

    /// The first number of a row.
    pub(super) fn row(&self, b: usize, h: usize, t: usize) -> *const f32 {
        self.data.as_ptr().wrapping_add(b * self.strides[0] + h * self.strides[1] + t * self.strides[2])
    }

    /// Distance of neighbouring tokens.
    pub(super) fn stride(&self) -> usize {
        self.strides[2]
    }
}

/// A tensor `[B, H, T, width]` to write from several threads, each its own rows.
pub(crate) struct Target<'a> {
    data: *mut f32,
    strides: [usize; 3],
    width: usize,
    lifetime: std::marker::PhantomData<&'a mut [f32]>,
}

// SAFETY: threads reach the memory by `row` alone, whose callers promise to own their row.
unsafe impl Sync for Target<'_> {}
// SAFETY: as above.
unsafe impl Send for Target<'_> {}

impl<'a> Target<'a> {
    /// # Panics
    /// If a row lies outside of `data` or rows overlap.
    pub(crate) fn new(data: &'a mut [f32], strides: [usize; 3], dims: [usize; 4]) -> Self {
        assert!(within(strides, dims, data.len()) && dims.iter().product::<usize>() == data.len(), "strides {strides:?} for {dims:?}");
        Self { data: data.as_mut_ptr(), strides, width: dims[3], lifetime: std::marker::PhantomData }
    }

    /// A row, whole.
    ///
    /// # Safety
    /// As for [`part`](Self::part).
    #[allow(clippy::mut_from_ref)]
    pub(super) unsafe fn row(&self, b: usize, h: usize, t: usize) -> &mut [f32] {
        // SAFETY: the caller's promise.
        unsafe { self.part(b, h, t, 0..self.width) }
    }

    /// Some numbers of a row.
    ///
    /// # Safety
    /// The indices must be in range, and nobody else may hold these numbers while the slice lives.
    #[allow(clippy::mut_from_ref)]
    pub(super) unsafe fn part(&self, b: usize, h: usize, t: usize, part: Range<usize>) -> &mut [f32] {
        // SAFETY: `new` has checked the bounds; the caller owns the numbers.
        unsafe {
            let row = self.data.add(b * self.strides[0] + h * self.strides[1] + t * self.strides[2]);
            std::slice::from_raw_parts_mut(row.add(part.start), part.len())
        }
    }
}

fn within(strides: [usize; 3], dims: [usize; 4], len: usize) -> bool {
    dims.contains(&0) || (0..3).map(|i| (dims[i] - 1) * strides[i]).sum::<usize>() + dims[3] <= len
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

    /// `tile[j, i] += factor · bias[i, j]` for the queries from `q0` on.
    #[inline(always)]
    pub(super) fn add_to(&self, tile: &mut [f32], width: usize, (b, h): (usize, usize), q0: usize, rows: usize, k0: usize, factor: f32) {
        let [sb, sh, st, ss] = self.strides;
        let start = b * sb + h * sh + q0 * st + k0 * ss;
        for (j, row) in tile.chunks_exact_mut(width).enumerate() {
            let start = start + j * ss;
            if st == 0 {
                let bias = self.data[start] * factor;
                row.iter_mut().for_each(|x| *x += bias);
            } else {
                row[..rows].iter_mut().enumerate().for_each(|(i, x)| *x += self.data[start + i * st] * factor);
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

    /// The query `q0 + i` sees the key `k0 + j` if j ≤ i + this. Everywhere the same far number without causality.
    pub(super) fn offset(&self, q0: usize, k0: usize) -> isize {
        if self.causal { (q0 + self.sizes.s) as isize - (self.sizes.t + k0) as isize } else { isize::MAX / 2 }
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
            (0..count).for_each(task);
        }
    }
}
