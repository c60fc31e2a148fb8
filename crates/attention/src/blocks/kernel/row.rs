use super::matrix::Matrix;
use crate::blocks::simd::{sum2, vectorised};

/// `y += x W` for one row `x` and a matrix that has its rows or its columns in one piece.
///
/// A decoding step is made of these, and their time is that of reading W once. A general product packs W first.
pub(super) fn add_product(y: &mut [f32], x: &[f32], w: Matrix<'_>) {
    assert!(x.len() == w.rows && y.len() == w.columns, "sizes of a row times a matrix");
    if w.column_stride == 1 {
        add_rows(y, x, w.values, w.row_stride);
    } else {
        assert_eq!(w.row_stride, 1, "rows or columns in one piece");
        add_dots(y, x, w.values, w.column_stride);
    }
}

/// Rows that are added together, so that `y` is read and written once for all of them.
const TOGETHER: usize = 8;

vectorised! {
    /// `y += Σ_i x_i w_i`, rows `stride` apart.
    fn add_rows<'a>(y: &'a mut [f32], x: &'a [f32], w: &'a [f32], stride: usize) -> () {
        let n = y.len();
        let mut parts = x.chunks_exact(TOGETHER);
        let mut start = 0;
        for factors in &mut parts {
            let rows: [&[f32]; TOGETHER] = std::array::from_fn(|i| &w[start + i * stride..][..n]);
            for (j, y) in y.iter_mut().enumerate() {
                let mut sum = *y;
                for i in 0..TOGETHER {
                    sum = rows[i][j].mul_add(factors[i], sum);
                }
                *y = sum;
            }
            start += TOGETHER * stride;
        }
        for factor in parts.remainder() {
            for (y, w) in y.iter_mut().zip(&w[start..][..n]) {
                *y = w.mul_add(*factor, *y);
            }
            start += stride;
        }
    }
}

vectorised! {
    /// `y_j += x · w_j`, columns `stride` apart.
    fn add_dots<'a>(y: &'a mut [f32], x: &'a [f32], w: &'a [f32], stride: usize) -> () {
        for (j, y) in y.iter_mut().enumerate() {
            *y += sum2(x, &w[j * stride..][..x.len()], |x, w| x * w);
        }
    }
}
