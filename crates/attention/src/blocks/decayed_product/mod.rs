//! The causal product with a fixed decay per head, in blocks: what Lightning Attention and causal Flow attention compute.

mod extension;
mod factors;
mod passes;

use burn::{
    backend::Dispatch,
    tensor::{DType, Tensor},
};

use extension::DecayedProduct;
pub(crate) use factors::Plan;

/// The causal product with one decay per head, in blocks of `block` tokens:
/// `o_t = Σ_{s≤t} λ^(t-s) (q_t · k_s) v_s + λ^t q_t S_0` (t from 1), without a T×T matrix and without a running product.
///
/// Inside a block by the masked left product `((Q Kᵀ) ⊙ M) V`, `M_ij = λ^(i-j)` for i ≥ j; across blocks by the state
/// `S ← λ^C S + (diag(λ^(C-1) … λ^0) K)ᵀ V`, read before the update. Every exponent is ≤ 0, whatever λ is.
/// O(T·(C·(K+V) + K·V)) time. Backward is written by hand in the same blocks and computes the states again: training keeps q, k, v
/// and `state`, nothing else, and both passes work in O(C² + K·V) memory per head besides their arguments and results.
///
/// # Shapes
/// - `q`, `k`: `[B, H, T, K]`; `v`: `[B, H, T, V]`; no axis of length 0; T not necessarily a multiple of `block`
/// - `slopes` = −ln λ: H constants ≥ 0; `None` = no decay
/// - `state` S_0: `[B, H, K, V]`; `None` = zeros
/// - output: `[B, H, T, V]` and the state after the last token `[B, H, K, V]`
///
/// # Panics
/// On shapes that contradict the above, `block` = 0 or a float type other than f32 and f64: the operations that call it check them.
pub(crate) fn decayed_product(
    q: Tensor<4>,
    k: Tensor<4>,
    v: Tensor<4>,
    slopes: Option<&[f64]>,
    state: Option<Tensor<4>>,
    block: usize,
) -> (Tensor<4>, Tensor<4>) {
    let [b, h, t, d_k] = q.dims();
    let d_v = v.dims()[3];
    assert!(matches!(q.dtype(), DType::F32 | DType::F64), "decayed_product: computes in f32 or f64, got {:?}", q.dtype());
    let state = state.unwrap_or_else(|| Tensor::zeros([b, h, d_k, d_v], (&q.device(), q.dtype())));
    let plan = Plan { slopes: slopes.map(Into::into), block };
    let [q, k, v, state] = [q, k, v, state].map(Tensor::into_dispatch);
    let packed = Tensor::<4>::from_dispatch(Dispatch::decayed_product(q, k, v, state, plan)); // [B, H, T + K, V]
    (packed.clone().narrow(2, 0, t), packed.narrow(2, t, d_k))
}
