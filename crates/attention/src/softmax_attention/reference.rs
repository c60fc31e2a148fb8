//! The definition, with the whole T×S matrix.

use burn::tensor::{Bool, DType, Tensor, activation};

use crate::blocks::matmul;

/// `o_t = Σ_s p_ts v_s`, `p_t = softmax_s(scale · q_t · k_s + bias_ts)` over the keys that are not hidden, and
/// `lse_t = ln Σ_s exp(scale · q_t · k_s + bias_ts)`.
///
/// A query that sees no key gives zeros and the log-sum-exp −∞.
///
/// # Shapes
/// - `q`: `[B, H, T, K]`; `k`: `[B, H, S, K]`; `v`: `[B, H, S, V]`
/// - `bias`: broadcasts to `[B, H, T, S]`; `hidden`: `[B, H, T, S]` or broadcast to it, `true` = hidden
/// - output: `[B, H, T, V]` and `[B, H, T]`
pub fn dense(
    q: Tensor<4>,
    k: Tensor<4>,
    v: Tensor<4>,
    scale: f64,
    bias: Option<Tensor<4>>,
    hidden: Option<Tensor<4, Bool>>,
) -> (Tensor<4>, Tensor<3>) {
    let mut scores = matmul(q * scale, k.swap_dims(2, 3)); // [B, H, T, S]
    if let Some(bias) = bias {
        scores = scores + bias;
    }
    let Some(hidden) = hidden else {
        let lse = log_sum_exp(scores.clone());
        return (matmul(activation::softmax(scores, 3), v), lse);
    };
    let hidden = hidden.expand(scores.dims());
    let blind = hidden.clone().all_dim(3); // [B, H, T, 1]
    let lowest = if scores.dtype() == DType::F16 { -6e4 } else { -1e30 };
    let scores = scores.mask_fill(hidden.clone(), lowest);
    let weights = activation::softmax(scores.clone(), 3).mask_fill(hidden, 0.0);
    let lse = log_sum_exp(scores).mask_fill(blind.squeeze_dim(3), f64::NEG_INFINITY);
    (matmul(weights, v), lse)
}

fn log_sum_exp(scores: Tensor<4>) -> Tensor<3> {
    let highest = scores.clone().max_dim(3).detach();
    ((scores - highest.clone()).exp().sum_dim(3).log() + highest).squeeze_dim(3)
}
