//! The definition, window by window.

use burn::tensor::{Tensor, activation};

use crate::blocks::{from_windows, to_windows};

/// `O = softmax(scale · Q Kᵀ) V` in each window of P × Q tokens.
///
/// # Shapes
/// - `q`, `k`: `[B, Y, X, H·K]`; `v`: `[B, Y, X, H·V]`, heads head-major, sides multiples of those of the windows
/// - output: `[B, Y, X, H·V]`
pub fn windows([q, k, v]: [Tensor<4>; 3], heads: usize, window: [usize; 2], scale: f64) -> Tensor<4> {
    let [_, y, columns, _] = q.dims();
    let split = |x: Tensor<4>| {
        let [b, windows, tokens, width] = to_windows(x.clone(), window).dims();
        to_windows(x, window).reshape([b * windows, tokens, heads, width / heads]).swap_dims(1, 2) // [B · windows, H, tokens, K]
    };
    let b = q.dims()[0];
    let [q, k, v] = [q, k, v].map(split);
    let o = activation::softmax((q * scale).matmul(k.swap_dims(2, 3)), 3).matmul(v).swap_dims(1, 2);
    let [windows, tokens, _, width] = o.dims();
    from_windows(o.reshape([b, windows / b.max(1), tokens, heads * width]), window, [y, columns])
}
