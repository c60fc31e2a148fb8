use burn::backend::{Flex, tensor::FloatTensor};
use rayon::prelude::*;

use super::{
    activation::{len, tensor},
    matrix::Matrix,
    parts::{Blank, in_blank_parts},
};
use crate::blocks::simd::{sum2, vectorised};

type Flat = FloatTensor<Flex>;

/// Elements per task, in whole rows. It also fixes the order of the sum, whatever the number of threads.
const TASK: usize = 32 * 1024;

fn rows_per_task(x: Matrix<'_>) -> usize {
    (TASK / x.columns.max(1)).max(1)
}

/// `Σ x²`
pub(super) fn sum_of_squares(x: &Flat) -> f32 {
    let mut place = None;
    let x = Matrix::rows_of(x, &mut place);
    let rows = rows_per_task(x);
    let task = |i: usize| squares(x.block(i * rows, rows.min(x.rows - i * rows), 0, x.columns));
    let parts: Vec<f32> = (0..x.rows.div_ceil(rows)).into_par_iter().map(task).collect();
    parts.iter().sum()
}

vectorised! {
    fn squares<'a>(x: Matrix<'a>) -> f32 {
        if x.row_stride == x.columns {
            let x = &x.values[..x.rows * x.columns];
            return sum2(x, x, |x, y| x * y);
        }
        let mut sum = 0.0;
        for row in 0..x.rows {
            sum += sum2(x.row(row), x.row(row), |x, y| x * y);
        }
        sum
    }
}

/// `x · by`
pub(super) fn scale(x: &Flat, by: f32) -> Flat {
    let mut place = None;
    let rows = Matrix::rows_of(x, &mut place);
    let width = rows.columns.max(1);
    let write = |start, [y]: [&mut [Blank]; 1]| multiply(y, rows, start / width, by);
    // SAFETY: the rows of all tasks are those of the result, and each is written whole.
    let ([y], _) = unsafe { in_blank_parts(len(x), rows_per_task(rows) * width, write) };
    tensor(y, x)
}

vectorised! {
    fn multiply<'a>(y: &'a mut [Blank], x: Matrix<'a>, first: usize, by: f32) -> () {
        for (n, y) in y.chunks_exact_mut(x.columns.max(1)).enumerate() {
            for (y, x) in y.iter_mut().zip(x.row(first + n)) {
                *y = Blank::new(x * by);
            }
        }
    }
}
