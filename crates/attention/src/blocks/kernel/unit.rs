use burn::backend::{Flex, tensor::FloatTensor};

use super::{
    activation::{len, slice, tensor},
    parts::{Blank, in_blank_parts},
};
use crate::blocks::simd::{sum2, vectorised};

type Flat = FloatTensor<Flex>;

/// Rows per task.
const ROWS: usize = 256;

/// `x / sqrt(Σ x² + ε)` of each row of `width` numbers.
pub(super) fn forward(x: &Flat, width: usize, epsilon: f64) -> Flat {
    let x = x.to_contiguous();
    let write = |start, [y]: [&mut [Blank]; 1]| outputs(y, &slice(&x)[start..][..y.len()], width, epsilon as f32);
    // SAFETY: the rows of all tasks are those of the result, and each is written whole.
    let ([y], _) = unsafe { in_blank_parts(len(&x), ROWS * width, write) };
    tensor(y, &x)
}

/// What a row is multiplied by.
#[inline(always)]
pub(super) fn scale(x: &[f32], epsilon: f32) -> f32 {
    1.0 / (sum2(x, x, |x, y| x * y) + epsilon).sqrt()
}

/// With `y = x r`, `r` and `r² (x · dy)`: `dx = r (dy − x r² (x · dy))`.
#[inline(always)]
pub(super) fn gradient_factors(x: &[f32], dy: &[f32], epsilon: f32) -> [f32; 2] {
    let scale = scale(x, epsilon);
    [scale, scale * scale * sum2(x, dy, |x, y| x * y)]
}

vectorised! {
    fn outputs<'a>(y: &'a mut [Blank], x: &'a [f32], width: usize, epsilon: f32) -> () {
        for (y, x) in y.chunks_exact_mut(width).zip(x.chunks_exact(width)) {
            let scale = scale(x, epsilon);
            for (y, x) in y.iter_mut().zip(x) {
                *y = Blank::new(x * scale);
            }
        }
    }
}

/// With `y = x r`: `dx = r (dy − y (y · dy))`.
pub(super) fn backward(x: &Flat, width: usize, epsilon: f64, grad: &Flat) -> Flat {
    let [x, grad] = [x, grad].map(Flat::to_contiguous);
    let write = |start: usize, [dx]: [&mut [Blank]; 1]| {
        let [x, dy] = [&x, &grad].map(|x| &slice(x)[start..][..dx.len()]);
        gradients(dx, x, dy, width, epsilon as f32);
    };
    // SAFETY: the rows of all tasks are those of the result, and each is written whole.
    let ([dx], _) = unsafe { in_blank_parts(len(&x), ROWS * width, write) };
    tensor(dx, &x)
}
vectorised! {
    fn gradients<'a>(dx: &'a mut [Blank], x: &'a [f32], dy: &'a [f32], width: usize, epsilon: f32) -> () {
        for ((dx, x), dy) in dx.chunks_exact_mut(width).zip(x.chunks_exact(width)).zip(dy.chunks_exact(width)) {
            let [scale, along] = gradient_factors(x, dy, epsilon);
            for ((dx, x), dy) in dx.iter_mut().zip(x).zip(dy) {
                *dx = Blank::new(scale * (dy - x * along));
            }
        }
    }
}
