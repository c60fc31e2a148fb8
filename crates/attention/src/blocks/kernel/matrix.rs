use burn::backend::{Flex, tensor::FloatTensor};

use super::activation::{len, slice};

type Flat = FloatTensor<Flex>;

/// A matrix as it lies in memory.
#[derive(Clone, Copy)]
pub(super) struct Matrix<'a> {
    /// From the element in the corner on.
    pub(super) values: &'a [f32],
    pub(super) rows: usize,
    pub(super) columns: usize,
    pub(super) row_stride: usize,
    pub(super) column_stride: usize,
}

impl<'a> Matrix<'a> {
    /// A contiguous tensor, all axes but the last as rows.
    pub(super) fn rows(x: &'a Flat) -> Self {
        let columns = x.layout().shape().iter().last().copied().unwrap_or(1);
        Self { values: slice(x), rows: len(x) / columns.max(1), columns, row_stride: columns, column_stride: 1 }
    }

    /// A tensor, all axes but the last as rows: as it lies in memory, if its rows are whole and equally far apart, else a copy that is kept
    /// in `place`.
    pub(super) fn rows_of(x: &'a Flat, place: &'a mut Option<Flat>) -> Self {
        let (shape, strides) = (x.layout().shape(), x.layout().strides());
        let last = shape.num_dims().saturating_sub(1);
        let columns = shape.iter().last().copied().unwrap_or(1);
        // From the second to last axis outwards, each axis must go on where the one inside it ends.
        let mut row_stride = columns as isize;
        let mut rows = 1;
        let mut regular = last > 0 && (strides[last] == 1 || columns == 1);
        for axis in (0..last).rev().filter(|&axis| shape[axis] != 1) {
            if rows == 1 {
                row_stride = strides[axis];
            }
            regular &= strides[axis] == row_stride * rows as isize && strides[axis] >= 0;
            rows *= shape[axis];
        }
        if !regular || len(x) == 0 {
            return Self::rows(place.insert(x.to_contiguous()));
        }
        let values = &x.storage::<f32>()[x.layout().start_offset()..];
        Self { values, rows, columns, row_stride: row_stride.unsigned_abs(), column_stride: 1 }
    }

    /// A row of it; its elements lie side by side.
    #[inline(always)]
    pub(super) fn row(&self, row: usize) -> &'a [f32] {
        &self.values[row * self.row_stride..][..self.columns]
    }

    /// A tensor of two axes, as it lies in memory.
    pub(super) fn new(x: &'a Flat) -> Self {
        let (shape, strides) = (x.layout().shape(), x.layout().strides());
        Self {
            values: &x.storage::<f32>()[x.layout().start_offset()..],
            rows: shape[0],
            columns: shape[1],
            row_stride: strides[0].unsigned_abs(),
            column_stride: strides[1].unsigned_abs(),
        }
    }

    pub(super) fn transposed(self) -> Self {
        Self { rows: self.columns, columns: self.rows, row_stride: self.column_stride, column_stride: self.row_stride, ..self }
    }

    /// The block of `rows` × `columns` at `(row, column)`.
    pub(super) fn block(self, row: usize, rows: usize, column: usize, columns: usize) -> Self {
        let start = row * self.row_stride + column * self.column_stride;
        Self { values: self.values.get(start..).unwrap_or_default(), rows, columns, ..self }
    }

    /// Whether every element lies in `values`.
    fn is_inside(&self) -> bool {
        let last = |n: usize, stride: usize| n.saturating_sub(1) * stride;
        self.rows * self.columns == 0 || last(self.rows, self.row_stride) + last(self.columns, self.column_stride) < self.values.len()
    }
}

/// Terms of the sums of a product that are added up at a time: what the product packs for more of them, beside the result, is too large
/// for the second cache, and gradients of weights, sums over thousands of tokens, took a tenth more time.
const INNER: usize = 384;

/// Where a task writes its part of a result.
#[derive(Clone, Copy)]
pub(super) struct Target(*mut f32);

impl Target {
    /// The start of the memory of `values`, its capacity included.
    pub(super) fn new(values: &mut Vec<f32>) -> Self {
        Self(values.as_mut_ptr())
    }

    /// The place `offset` elements on.
    ///
    /// # Safety
    /// It lies in the result's memory or one behind.
    pub(super) unsafe fn at(self, offset: usize) -> Self {
        // SAFETY: the caller's.
        Self(unsafe { self.0.add(offset) })
    }

    /// The start of a slice.
    pub(super) fn of(values: &mut [f32]) -> Self {
        Self(values.as_mut_ptr())
    }

    /// Writes `a b` here, or adds it to what is here, with these strides of rows and columns.
    ///
    /// # Safety
    /// The elements lie in the result's memory and nothing else uses them now; if added to, they have been written.
    pub(super) unsafe fn multiply(self, strides: [usize; 2], a: Matrix<'_>, b: Matrix<'_>, add: bool) {
        assert!(a.is_inside() && b.is_inside() && a.columns == b.rows, "operands that fit");
        if a.columns == 0 {
            // SAFETY: the caller's promise.
            unsafe { self.multiply_part(strides, a, b, add) };
        }
        for start in (0..a.columns).step_by(INNER) {
            let inner = INNER.min(a.columns - start);
            let (a, b) = (a.block(0, a.rows, start, inner), b.block(start, inner, 0, b.columns));
            // SAFETY: the caller's promise; the first part writes what the others add to.
            unsafe { self.multiply_part(strides, a, b, add || start > 0) };
        }
    }

    /// As [`multiply`](Self::multiply), which has checked the operands.
    unsafe fn multiply_part(self, strides: [usize; 2], a: Matrix<'_>, b: Matrix<'_>, add: bool) {
        // SAFETY: the operands lie in their memory, the result is the caller's care.
        unsafe {
            gemm::gemm(
                a.rows,
                b.columns,
                a.columns,
                self.0,
                strides[1] as isize,
                strides[0] as isize,
                add,
                a.values.as_ptr(),
                a.column_stride as isize,
                a.row_stride as isize,
                b.values.as_ptr(),
                b.column_stride as isize,
                b.row_stride as isize,
                1.0,
                1.0,
                false,
                false,
                false,
                gemm::Parallelism::None,
            );
        }
    }
}

// SAFETY: the tasks write to disjoint elements.
unsafe impl Send for Target {}
// SAFETY: as above.
unsafe impl Sync for Target {}
