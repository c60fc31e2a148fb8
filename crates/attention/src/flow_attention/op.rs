use burn::tensor::{Bool, DType, Device, Tensor, activation};

use super::{
    kernel,
    options::{FlowOptions, check_shapes, column, wide, without},
};
use crate::{
    Error, Result,
    blocks::{LOG_ZERO, matmul},
};

const OP: &str = "flow_attention";

/// Flow attention, bidirectional: every sink (query) sees every source (key).
///
/// ```text
/// I_i = (q_i + ε) · (Σ_j k_j + ε)           O_j = (k_j + ε) · (Σ_i q_i + ε)
/// Î_i = (q_i + ε) · (Σ_j k_j / O_j + ε)     Ô_j = clamp((k_j + ε) · (Σ_i q_i / I_i + ε))
/// o_i = sigmoid(Î_i L/S) · (q_i / I_i) Σ_j k_jᵀ (S softmax_j(Ô)_j v_j)
/// ```
///
/// with q, k after the feature map. O((L + S)·D·E) time, O(L·D + S·(D + E) + D·E) memory; no L×S matrix. On the CPU in f32 a fused kernel
/// keeps five numbers per token and a matrix per head for the backward pass, and nothing else beside arguments and result.
///
/// # Shapes
/// - `q`: `[B, H, L, D]`; `k`: `[B, H, S, D]`; `v`: `[B, H, S, E]`, S ≥ 1
/// - output: `[B, H, L, E]`; zeros for a hidden query and where all keys are hidden
///
/// # Errors
/// If the shapes disagree, there is no key, or an option is out of its range.
pub fn flow_attention(q: Tensor<4>, k: Tensor<4>, v: Tensor<4>, options: &FlowOptions) -> Result<Tensor<4>> {
    options.check(OP)?;
    check_shapes(OP, &q, &k, &v)?;
    let ([b, h, l, _], [_, _, s, e]) = (q.dims(), v.dims());
    if s == 0 {
        return Err(Error::argument(OP, "k", "of at least one token", s));
    }
    let hidden_keys = column(OP, "key_mask", options.key_mask.as_ref(), [b, s])?;
    let hidden_queries = column(OP, "query_mask", options.query_mask.as_ref(), [b, l])?;
    let dtype = q.dtype();
    let device = q.device();
    if b * h * l * e == 0 {
        return Ok(Tensor::zeros([b, h, l, e], (&device, dtype)));
    }
    let [q, k, v] = [q, k, v].map(|x| x.cast(wide(dtype)));
    if kernel::takes(&q) {
        return Ok(kernel::attend([q, k, v], [hidden_queries.as_ref(), hidden_keys.as_ref()], options).cast(dtype));
    }
    let sinks = count(hidden_queries.as_ref(), l, &device, q.dtype());
    let sources = count(hidden_keys.as_ref(), s, &device, q.dtype());

    let q = options.capacity(q, hidden_queries.as_ref());
    let k = options.capacity(k, hidden_keys.as_ref());
    let v = without(v, hidden_keys.as_ref());
    let (q_eps, k_eps) = (q.clone() + options.eps, k.clone() + options.eps);
    let incoming = options.flow(q_eps.clone(), k.clone().sum_dim(2) + options.eps); // [B, H, L, 1]
    let outgoing = options.flow(k_eps.clone(), q.clone().sum_dim(2) + options.eps); // [B, H, S, 1]
    let q_share = q / incoming;
    let k_share = k.clone() / outgoing;

    let v = if options.competition {
        let conserved = options.flow(k_eps, q_share.clone().sum_dim(2) + options.eps);
        let conserved = options.bounded(conserved);
        let conserved = match hidden_keys {
            Some(hidden) => conserved.mask_fill(hidden.expand([b, h, s, 1]), LOG_ZERO),
            None => conserved,
        };
        v * (activation::softmax(conserved, 2) * sources.clone())
    } else {
        v
    };
    let o = matmul(q_share, matmul(k.swap_dims(2, 3), v));
    let o = if options.allocation {
        let conserved = options.flow(q_eps, k_share.sum_dim(2) + options.eps);
        o * activation::sigmoid(conserved * (sinks / sources))
    } else {
        o
    };
    Ok(o.cast(dtype))
}

/// The number of tokens that are not hidden, at least 1. `[B, 1, 1, 1]` or `[1, 1, 1, 1]`
fn count(hidden: Option<&Tensor<4, Bool>>, tokens: usize, device: &Device, dtype: DType) -> Tensor<4> {
    match hidden {
        Some(hidden) => hidden.clone().bool_not().float().cast(dtype).sum_dim(2).clamp_min(1.0),
        None => Tensor::full([1, 1, 1, 1], tokens as f64, (device, dtype)),
    }
}
