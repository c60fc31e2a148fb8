use burn::tensor::Tensor;

use crate::blocks::matmul;

/// `S_t = Diag(exp(g_t)) S_{t-1} − a_t (b_tᵀ S_{t-1}) + k_t v_tᵀ`, `o_t = S_tᵀ (scale · q_t)`, token by token. The definition.
///
/// O(T·K·V) time, sequential. Differentiable.
///
/// # Shapes
/// - `q`, `k`, `g`, `a`, `b`: `[B, T, H, K]`; `v`: `[B, T, H, V]`; `state` S_0: `[B, H, K, V]`
/// - output: `o` `[B, T, H, V]` and `S_T` `[B, H, K, V]`
pub fn recurrent([q, k, g, a, b]: [Tensor<4>; 5], v: Tensor<4>, scale: f64, mut state: Tensor<4>) -> (Tensor<4>, Tensor<4>) {
    let [batch, t, h, d_k] = q.dims();
    let [_, _, _, d_v] = v.dims();
    // A vector per head as the column of a matrix.
    let column = |x: &Tensor<4>, i: usize| x.clone().narrow(1, i, 1).reshape([batch, h, d_k, 1]);
    let mut out = Vec::with_capacity(t);
    for i in 0..t {
        let v = v.clone().narrow(1, i, 1).reshape([batch, h, 1, d_v]);
        let read = matmul(column(&b, i).swap_dims(2, 3), state.clone()); // [B, H, 1, V]
        state = state * column(&g, i).exp() - matmul(column(&a, i), read) + matmul(column(&k, i), v);
        let q = column(&q, i).swap_dims(2, 3) * scale;
        out.push(matmul(q, state.clone()).reshape([batch, 1, h, d_v]));
    }
    let out = if t == 0 { v } else { Tensor::cat(out, 1) };
    (out, state)
}
