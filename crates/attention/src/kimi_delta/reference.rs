//! The definition, token by token.

use burn::tensor::Tensor;

use crate::blocks::matmul;

/// `S' = Diag(exp(g_t)) S_{t-1}`, `S_t = S' + β_t k_t (v_t − S'ᵀ k_t)ᵀ`, `o_t = S_tᵀ (scale · q_t)`: decay, correct, read.
///
/// O(T·K·V) time, sequential. Differentiable.
///
/// # Shapes
/// - `q`, `k`: `[B, T, H, K]`; `v`: `[B, T, W, V]`, W a multiple of H: value head w reads query/key head `w / (W/H)`
/// - `g`: `[B, T, W, K]`, ≤ 0; `beta`: `[B, T, W]`
/// - `state` S_0: `[B, W, K, V]`
/// - output: `o` `[B, T, W, V]` and `S_T` `[B, W, K, V]`
pub fn recurrent(
    q: Tensor<4>,
    k: Tensor<4>,
    v: Tensor<4>,
    g: Tensor<4>,
    beta: Tensor<3>,
    scale: f64,
    mut state: Tensor<4>,
) -> (Tensor<4>, Tensor<4>) {
    let [b, t, h, d_k] = q.dims();
    let [_, _, w, d_v] = v.dims();
    let grouped = |x: Tensor<4>| -> Tensor<4> {
        if w == h { x } else { x.unsqueeze_dim::<5>(3).expand([b, t, h, w / h, d_k]).reshape([b, t, w, d_k]) }
    };
    let (q, k) = (grouped(q * scale), grouped(k));
    // A vector per head as the column or the row of a matrix.
    let column = |x: &Tensor<4>, i: usize| x.clone().narrow(1, i, 1).reshape([b, w, d_k, 1]);
    let mut out = Vec::with_capacity(t);
    for i in 0..t {
        let (q, k) = (column(&q, i), column(&k, i));
        let v = v.clone().narrow(1, i, 1).reshape([b, w, 1, d_v]);
        let beta = beta.clone().narrow(1, i, 1).reshape([b, w, 1, 1]);
        let decayed = state * column(&g, i).exp();
        let correction = v - matmul(k.clone().swap_dims(2, 3), decayed.clone());
        state = decayed + matmul(k * beta, correction);
        out.push(matmul(q.swap_dims(2, 3), state.clone()).reshape([b, 1, w, d_v]));
    }
    let out = if t == 0 { v } else { Tensor::cat(out, 1) };
    (out, state)
}
