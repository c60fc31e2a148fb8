use burn::backend::{Flex, tensor::FloatTensor};

use super::{
    activation::{len, slice, tensor},
    parts::in_parts,
};
use crate::blocks::simd::{sum2, vectorised};

type Flat = FloatTensor<Flex>;

/// Rows per task.
const ROWS: usize = 256;

/// `x / sqrt(Σ x² + ε)` of each row of `width` numbers.
pub(super) fn forward(x: &Flat, width: usize, epsilon: f64) -> Flat {
    let x = x.to_contiguous();
    let ([y], _) = in_parts(len(&x), ROWS * width, |start, [y]| outputs(y, &slice(&x)[start..][..y.len()], width, epsilon as f32));
    tensor(y, &x)
}
vectorised! {
    fn outputs<'a>(y: &'a mut [f32], x: &'a [f32], width: usize, epsilon: f32) -> () {
        for (y, x) in y.chunks_exact_mut(width).zip(x.chunks_exact(width)) {
            let scale = 1.0 / (sum2(x, x, |x, y| x * y) + epsilon).sqrt();
            for (y, x) in y.iter_mut().zip(x) {
                *y = x * scale;
            }
        }
    }
}

/// With `y = x r`: `dx = r (dy − y (y · dy))`.
pub(super) fn backward(x: &Flat, width: usize, epsilon: f64, grad: &Flat) -> Flat {
    let [x, grad] = [x, grad].map(Flat::to_contiguous);
    let ([dx], _) = in_parts(len(&x), ROWS * width, |start, [dx]| {
        let [x, dy] = [&x, &grad].map(|x| &slice(x)[start..][..dx.len()]);
        gradients(dx, x, dy, width, epsilon as f32);
    });
    tensor(dx, &x)
}
vectorised! {
    fn gradients<'a>(dx: &'a mut [f32], x: &'a [f32], dy: &'a [f32], width: usize, epsilon: f32) -> () {
        for ((dx, x), dy) in dx.chunks_exact_mut(width).zip(x.chunks_exact(width)).zip(dy.chunks_exact(width)) {
            let scale = 1.0 / (sum2(x, x, |x, y| x * y) + epsilon).sqrt();
            let along = scale * scale * sum2(x, dy, |x, y| x * y);
            for ((dx, x), dy) in dx.iter_mut().zip(x).zip(dy) {
                *dx = scale * (dy - x * along);
            }
        }
    }
}
