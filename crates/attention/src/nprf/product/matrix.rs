//! Products of matrices in slices.

use gemm::{Parallelism, gemm};

use super::real::Real;

/// A row-major matrix or the transpose of one.
#[derive(Clone, Copy)]
pub(super) struct Matrix<'a, T> {
    data: &'a [T],
    rows: usize,
    columns: usize,
    transposed: bool,
}

impl<'a, T> Matrix<'a, T> {
    pub(super) fn new(data: &'a [T], columns: usize) -> Self {
        Self { data, rows: data.len() / columns, columns, transposed: false }
    }

    pub(super) fn t(self) -> Self {
        Self { rows: self.columns, columns: self.rows, transposed: !self.transposed, ..self }
    }

    /// Steps from a column and from a row to the next.
    fn strides(&self) -> (isize, isize) {
        if self.transposed { (self.rows as isize, 1) } else { (1, self.columns as isize) }
    }
}

/// `out = a b`, or `out += a b`.
pub(super) fn multiply<T: Real>(out: &mut [T], a: Matrix<'_, T>, b: Matrix<'_, T>, add: bool) {
    assert!(a.columns == b.rows && out.len() == a.rows * b.columns, "shapes of a product");
    assert!(a.data.len() == a.rows * a.columns && b.data.len() == b.rows * b.columns, "matrices are whole");
    let ((a_column, a_row), (b_column, b_row)) = (a.strides(), b.strides());
    let alpha = if add { T::ONE } else { T::default() };
    // SAFETY: the three matrices are as large as their sizes say, `out` is apart from the others, and `T` is f32 or f64.
    unsafe {
        gemm(
            a.rows,
            b.columns,
            a.columns,
            out.as_mut_ptr(),
            1,
            b.columns as isize,
            add,
            a.data.as_ptr(),
            a_column,
            a_row,
            b.data.as_ptr(),
            b_column,
            b_row,
            alpha,
            T::ONE,
            false,
            false,
            false,
            Parallelism::None,
        );
    }
}
