//! Tensors `[B, H, T, width]` in memory, as kernels see them.

use std::ops::Range;

use super::RowsAhead;

/// A tensor `[B, H, T, width]` to read: any strides, but numbers of one row side by side.
#[derive(Clone, Copy)]
pub(crate) struct View<'a> {
    data: &'a [f32],
    strides: [usize; 3],
    width: usize,
}

impl<'a> View<'a> {
    /// # Panics
    /// If a row lies outside of `data`: every later access is within these bounds.
    pub(crate) fn new(data: &'a [f32], strides: [usize; 3], dims: [usize; 4]) -> Self {
        assert!(within(strides, dims, data.len()), "strides {strides:?} leave the tensor's memory");
        Self { data, strides, width: dims[3] }
    }

    /// The first number of a row.
    pub(crate) fn row(&self, b: usize, h: usize, t: usize) -> *const f32 {
        self.data.as_ptr().wrapping_add(b * self.strides[0] + h * self.strides[1] + t * self.strides[2])
    }

    /// Rows from a token on, to ask for.
    pub(crate) fn rows_ahead(&self, b: usize, h: usize, t: usize, count: usize) -> RowsAhead {
        RowsAhead { start: self.row(b, h, t), stride: self.strides[2], width: self.width, count }
    }

    /// Numbers of a row.
    pub(crate) fn width(&self) -> usize {
        self.width
    }

    /// Distance of neighbouring tokens.
    pub(crate) fn stride(&self) -> usize {
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

    /// The memory of a vector, up to its capacity.
    ///
    /// # Panics
    /// If a row lies outside of it or rows overlap.
    pub(crate) fn of(data: &'a mut Vec<f32>, strides: [usize; 3], dims: [usize; 4]) -> Self {
        let len: usize = dims.iter().product();
        assert!(within(strides, dims, len) && len <= data.capacity(), "strides {strides:?} for {dims:?}");
        Self { data: data.as_mut_ptr(), strides, width: dims[3], lifetime: std::marker::PhantomData }
    }

    /// A row, whole.
    ///
    /// # Safety
    /// As for [`part`](Self::part).
    #[allow(clippy::mut_from_ref)]
    pub(crate) unsafe fn row(&self, b: usize, h: usize, t: usize) -> &mut [f32] {
        // SAFETY: the caller's promise.
        unsafe { self.part(b, h, t, 0..self.width) }
    }

    /// The first number of a row and the distance of neighbouring tokens.
    pub(crate) fn rows(&self, b: usize, h: usize, t: usize) -> (*mut f32, usize) {
        (self.data.wrapping_add(b * self.strides[0] + h * self.strides[1] + t * self.strides[2]), self.strides[2])
    }

    /// Some numbers of a row.
    ///
    /// # Safety
    /// The indices must be in range, and nobody else may hold these numbers while the slice lives.
    #[allow(clippy::mut_from_ref)]
    pub(crate) unsafe fn part(&self, b: usize, h: usize, t: usize, part: Range<usize>) -> &mut [f32] {
        // SAFETY: `new` has checked the bounds; the caller owns the numbers.
        unsafe {
            let row = self.data.add(b * self.strides[0] + h * self.strides[1] + t * self.strides[2]);
            std::slice::from_raw_parts_mut(row.add(part.start), part.len())
        }
    }
}

/// Whether rows of these strides and sizes lie in memory of this length.
pub(crate) fn within(strides: [usize; 3], dims: [usize; 4], len: usize) -> bool {
    dims.contains(&0) || (0..3).map(|i| (dims[i] - 1) * strides[i]).sum::<usize>() + dims[3] <= len
}
