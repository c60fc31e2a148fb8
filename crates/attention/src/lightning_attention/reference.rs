//! The definition, in its two forms.

use burn::tensor::Tensor;

use crate::blocks::matmul;

/// `S_t = λ S_{t-1} + k_tᵀ v_t`, `o_t = q_t S_t`, token by token. O(T·K·V) time, sequential.
///
/// # Shapes
/// - `q`, `k`: `[B, H, T, K]`; `v`: `[B, H, T, V]`; `slopes` −ln λ: H constants; `state` S_0: `[B, H, K, V]`
/// - output: `[B, H, T, V]` and S_T `[B, H, K, V]`
pub fn recurrent(q: Tensor<4>, k: Tensor<4>, v: Tensor<4>, slopes: &[f64], state: Tensor<4>) -> (Tensor<4>, Tensor<4>) {
    let [_, h, t, _] = q.dims();
    let decay: Vec<f64> = slopes.iter().map(|slope| (-slope).exp()).collect();
    let decay = Tensor::<1>::from_data(decay.as_slice(), (&q.device(), q.dtype())).reshape([1, h, 1, 1]);
    let mut state = state;
    let mut out = Vec::with_capacity(t);
    for i in 0..t {
        let at = |x: &Tensor<4>| x.clone().narrow(2, i, 1);
        state = state * decay.clone() + matmul(at(&k).transpose(), at(&v)); // [B, H, K, V]
        out.push(matmul(at(&q), state.clone())); // [B, H, 1, V]
    }
    (if out.is_empty() { v } else { Tensor::cat(out, 2) }, state)
}

/// `O = ((Q Kᵀ) ⊙ M) V + Λ Q S_0` with the whole T×T matrix `M_ts = λ^(t-s)` for t ≥ s, else 0, and `Λ = diag(λ^1 … λ^T)`.
/// O(T²·(K+V)) time, O(T²) memory.
///
/// # Shapes
/// As [`recurrent`].
pub fn left_product(q: Tensor<4>, k: Tensor<4>, v: Tensor<4>, slopes: &[f64], state: Tensor<4>) -> (Tensor<4>, Tensor<4>) {
    let [_, h, t, _] = q.dims();
    let (device, dtype) = (q.device(), q.dtype());
    let index = |from: usize| {
        let values: Vec<f64> = (from..from + t).map(|i| i as f64).collect();
        Tensor::<1>::from_data(values.as_slice(), (&device, dtype))
    };
    let slope = Tensor::<1>::from_data(slopes, (&device, dtype)).reshape([1, h, 1, 1]);
    let power = |exponent: Tensor<4>| (slope.clone() * exponent).neg().exp();
    let column = |from: usize| index(from).reshape([1, 1, t, 1]);

    let distance = column(0) - index(0).reshape([1, 1, 1, t]);
    let decay = power(distance.clamp_min(0.0)).tril(0); // [1, H, T, T]
    let out = matmul(matmul(q.clone(), k.clone().transpose()) * decay, v.clone()) + matmul(q * power(column(1)), state.clone());
    let left = k * power(column(0).flip([2]));
    let state = state * power(Tensor::full([1, 1, 1, 1], t as f64, (&device, dtype))) + matmul(left.transpose(), v);
    (out, state)
}
