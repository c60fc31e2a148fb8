//! The definition.

use burn::tensor::{Tensor, activation};

/// `A = softmax(scale · Xᵀ Y)` over its last axis, `O = Z Aᵀ`: channels of `x` attend to channels of `y` and take what `z` has for these.
///
/// # Shapes
/// - `x`: `[B, H, N, K]`; `y`, `z`: `[B, H, N, V]`
/// - output: `[B, H, N, K]`
pub fn channels(x: Tensor<4>, y: Tensor<4>, z: Tensor<4>, scale: f64) -> Tensor<4> {
    let weights = activation::softmax((x * scale).swap_dims(2, 3).matmul(y), 3); // [B, H, K, V]
    z.matmul(weights.swap_dims(2, 3))
}
