use burn::tensor::Tensor;

use crate::blocks::matmul;

/// The blocks of [`lightning_attention`](super::lightning_attention) all at once: increments, a prefix scan over the blocks in
/// log₂(T/C) steps, outputs. T a multiple of C = `block`.
pub(super) fn parallel_scan(
    q: Tensor<4>,
    k: Tensor<4>,
    v: Tensor<4>,
    slopes: &[f64],
    state: Tensor<4>,
    block: usize,
) -> (Tensor<4>, Tensor<4>) {
    let [b, h, t, d_k] = q.dims();
    let d_v = v.dims()[3];
    let (n, c) = (t / block, block);
    let (device, dtype) = (q.device(), q.dtype());
    let like = (&device, dtype);
    let slope = Tensor::<1>::from_data(slopes, like).reshape([1, h, 1, 1, 1]);
    let power = |exponent: Tensor<5>| (slope.clone() * exponent).neg().exp();
    let index: Vec<f64> = (0..c).map(|i| i as f64).collect();
    let index = Tensor::<1>::from_data(index.as_slice(), like);
    let row = index.clone().reshape([1, 1, 1, c, 1]);
    let column = index.reshape([1, 1, 1, 1, c]);

    let q = q.reshape([b, h, n, c, d_k]);
    let k = k.reshape([b, h, n, c, d_k]);
    let v = v.reshape([b, h, n, c, d_v]);
    let increments = matmul((k.clone() * power(row.clone().flip([3]))).transpose(), v.clone()); // [B, H, n, K, V]
    // After the step of width d, states[a] holds the 2d blocks up to a, and in the end all.
    let mut states = Tensor::cat(vec![state.unsqueeze_dim(2), increments], 2); // [B, H, n + 1, K, V]
    let mut width = 1;
    while width <= n {
        let decay = power(Tensor::full([1, 1, 1, 1, 1], (width * c) as f64, like));
        let shifted = states.clone().narrow(2, 0, n + 1 - width) * decay;
        states = Tensor::cat(vec![states.clone().narrow(2, 0, width), states.narrow(2, width, n + 1 - width) + shifted], 2);
        width *= 2;
    }
    let inside = matmul(matmul(q.clone(), k.transpose()) * power((row.clone() - column).clamp_min(0.0)).tril(0), v);
    let across = matmul(q * power(row + 1.0), states.clone().narrow(2, 0, n));
    ((inside + across).reshape([b, h, t, d_v]), states.narrow(2, n, 1).squeeze_dim(2))
}
