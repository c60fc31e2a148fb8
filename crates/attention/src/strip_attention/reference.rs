//! The definition, with the whole matrix of weights.

use burn::tensor::{Tensor, activation};

/// `O = softmax(scale · Q Kᵀ) V`, queries and keys of few numbers. O(N·N') memory.
///
/// # Shapes
/// - `q`: `[B, H, N, E]`; `k`: `[B, H, N', E]`; `v`: `[B, H, N', V]`; output: `[B, H, N, V]`
pub fn dense(q: Tensor<4>, k: Tensor<4>, v: Tensor<4>, scale: f64) -> Tensor<4> {
    activation::softmax((q * scale).matmul(k.swap_dims(2, 3)), 3).matmul(v)
}
