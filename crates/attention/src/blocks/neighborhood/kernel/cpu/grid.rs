//! Tensors `[B, X1, X2, X3, heads, width]` in memory, as the kernels see them.

/// Where the rows of a tensor lie.
#[derive(Clone, Copy, Debug)]
struct Places {
    strides: [usize; 5],
    width: usize,
}

impl Places {
    /// # Panics
    /// If a row lies outside of memory of `len` numbers.
    fn new(strides: [usize; 5], dims: [usize; 6], len: usize) -> Self {
        let last: usize = strides.iter().zip(dims).map(|(stride, n)| n.saturating_sub(1) * stride).sum();
        assert!(dims.contains(&0) || last + dims[5] <= len, "strides {strides:?} of {dims:?} leave the tensor's memory");
        Self { strides, width: dims[5] }
    }

    #[inline(always)]
    fn at(&self, b: usize, [x1, x2, x3]: [usize; 3], h: usize) -> usize {
        let [along_b, along_1, along_2, along_3, along_h] = self.strides;
        b * along_b + x1 * along_1 + x2 * along_2 + x3 * along_3 + h * along_h
    }
}

/// A tensor to read: any strides, but numbers of one row side by side.
#[derive(Clone, Copy)]
pub(super) struct Grid<'a> {
    data: &'a [f32],
    places: Places,
}

impl<'a> Grid<'a> {
    /// # Panics
    /// If a row lies outside of `data`.
    pub(super) fn new(data: &'a [f32], strides: [usize; 5], dims: [usize; 6]) -> Self {
        Self { data, places: Places::new(strides, dims, data.len()) }
    }

    /// The first number of a row.
    #[inline(always)]
    pub(super) fn row(&self, b: usize, x: [usize; 3], h: usize) -> *const f32 {
        self.data.as_ptr().wrapping_add(self.places.at(b, x, h))
    }

    /// A row.
    ///
    /// # Safety
    /// The indices must be in range.
    #[inline(always)]
    pub(super) unsafe fn slice(&self, b: usize, x: [usize; 3], h: usize) -> &'a [f32] {
        // SAFETY: `new` has checked that rows in range lie in the memory.
        unsafe { std::slice::from_raw_parts(self.row(b, x, h), self.places.width) }
    }

    /// Numbers of a row.
    pub(super) fn width(&self) -> usize {
        self.places.width
    }

    /// Distance of neighbours along the last axis of the grid.
    pub(super) fn along(&self) -> usize {
        self.places.strides[3]
    }
}

/// A contiguous tensor to write from several threads, each its own rows.
pub(super) struct GridMut<'a> {
    data: *mut f32,
    places: Places,
    lifetime: std::marker::PhantomData<&'a mut [f32]>,
}

// SAFETY: threads reach the memory by `slice` and `row` alone, whose callers promise to own their rows.
unsafe impl Sync for GridMut<'_> {}
// SAFETY: as above.
unsafe impl Send for GridMut<'_> {}

impl<'a> GridMut<'a> {
    /// # Panics
    /// If `data` does not have these sizes.
    pub(super) fn new(data: &'a mut [f32], dims: [usize; 6]) -> Self {
        let mut strides = [0; 5];
        let mut stride = dims[5];
        for i in (0..5).rev() {
            strides[i] = stride;
            stride *= dims[i];
        }
        assert_eq!(stride, data.len(), "numbers of {dims:?}");
        Self { data: data.as_mut_ptr(), places: Places::new(strides, dims, data.len()), lifetime: std::marker::PhantomData }
    }

    /// The first number of a row.
    #[inline(always)]
    pub(super) fn row(&self, b: usize, x: [usize; 3], h: usize) -> *mut f32 {
        self.data.wrapping_add(self.places.at(b, x, h))
    }

    /// A row.
    ///
    /// # Safety
    /// The indices must be in range, and nobody else may hold the row while the slice lives.
    #[allow(clippy::mut_from_ref)]
    #[inline(always)]
    pub(super) unsafe fn slice(&self, b: usize, x: [usize; 3], h: usize) -> &mut [f32] {
        // SAFETY: `new` has checked that rows in range lie in the memory, and the caller owns this one.
        unsafe { std::slice::from_raw_parts_mut(self.row(b, x, h), self.places.width) }
    }

    /// Distance of neighbours along the last axis of the grid.
    pub(super) fn along(&self) -> usize {
        self.places.strides[3]
    }
}
