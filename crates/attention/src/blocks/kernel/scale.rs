use burn::backend::{Flex, tensor::FloatTensor};
use rayon::prelude::*;

use super::{
    activation::{len, slice, tensor},
    parts::{Blank, in_blank_parts},
};
use crate::blocks::simd::{sum2, vectorised};

type Flat = FloatTensor<Flex>;

/// Elements per task. It also fixes the order of the sum, whatever the number of threads.
const TASK: usize = 32 * 1024;

/// `Σ x²`
pub(super) fn sum_of_squares(x: &Flat) -> f32 {
    let x = x.to_contiguous();
    let parts: Vec<f32> = slice(&x).par_chunks(TASK).map(squares).collect();
    parts.iter().sum()
}

vectorised! {
    fn squares<'a>(x: &'a [f32]) -> f32 {
        sum2(x, x, |x, y| x * y)
    }
}

/// `x · by`
pub(super) fn scale(x: &Flat, by: f32) -> Flat {
    let x = x.to_contiguous();
    // SAFETY: every number is written.
    let ([y], _) = unsafe { in_blank_parts(len(&x), TASK, |start, [y]| multiply(y, &slice(&x)[start..][..y.len()], by)) };
    tensor(y, &x)
}

vectorised! {
    fn multiply<'a>(y: &'a mut [Blank], x: &'a [f32], by: f32) -> () {
        for (y, x) in y.iter_mut().zip(x) {
            *y = Blank::new(x * by);
        }
    }
}
