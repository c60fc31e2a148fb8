//! The causal product with a fixed decay per head, in blocks: what Lightning Attention and causal Flow attention compute.

mod autodiff;
pub(crate) mod cpu;
mod extension;
mod factors;
#[cfg(feature = "cube")]
mod gpu;
mod passes;

#[cfg(feature = "cube")]
use burn::backend::DispatchDevice;
use burn::{
    backend::Dispatch,
    tensor::{DType, Tensor},
};

use super::kernel::on_cpu;
use extension::{DecayedProduct, Inputs};
pub(crate) use factors::Plan;

/// The causal product with one decay per head, in blocks of `block` tokens:
/// `o_t = scale · (Σ_{s≤t} λ^(t-s) (q_t · k_s) v_s + λ^t q_t S_0)` (t from 1), without a T×T matrix and without a running product.
///
/// Inside a block by the masked left product `((Q Kᵀ) ⊙ M) V`, `M_ij = λ^(i-j)` for i ≥ j; across blocks by the state
/// `S ← λ^C S + (diag(λ^(C-1) … λ^0) K)ᵀ V`, read before the update. Every exponent is ≤ 0, whatever λ is.
/// O(T·(C·(K+V) + K·V)) time. Backward is written by hand in the same blocks and computes the states again: training keeps q, k, v
/// and the state, nothing else, and both passes work in O(C² + K·V) memory per head besides their arguments and results.
///
/// On a GPU by fused kernels for heads of up to 128 columns, in 16 bits too, with f32 states and sums: what the segments of a sequence
/// add to the state, the states before them, their outputs, each a launch over all segments and heads.
///
/// In f32 on the CPU by a fused kernel; there, a state that nobody else holds becomes the final state where it lies, and few tokens
/// go one by one. Its results are the same bits in every run with the same number of threads.
///
/// # Shapes
/// - `q`, `k`: `[B, H, T, K]`; `v`: `[B, H, T, V]`; no axis of length 0; T not necessarily a multiple of the block
/// - `state` S_0: `[B, H, K, V]`; `None` = zeros
/// - output: `[B, H, T, V]` and the state after the last token `[B, H, K, V]`
///
/// # Panics
/// On shapes that contradict the above, a block of 0, a float type other than f32 and f64 where [`takes_half`] says no, or `bounds`
/// where [`cuts_sequences`] does: the operations that call it check them.
pub(crate) fn decayed_product([q, k, v]: [Tensor<4>; 3], state: Option<Tensor<4>>, terms: Terms) -> (Tensor<4>, Tensor<4>) {
    let [b, h, _, d_k] = q.dims();
    let d_v = v.dims()[3];
    let wide = matches!(q.dtype(), DType::F32 | DType::F64);
    assert!(wide || takes_half(&q, d_v), "decayed_product: computes in f32 or f64 here, got {:?}", q.dtype());
    let Terms { slopes, scale, block, bounds } = terms;
    let sequences = bounds.map_or(b, |bounds| bounds.len() - 1);
    let of_state = if wide { q.dtype() } else { DType::F32 };
    let state = state.unwrap_or_else(|| Tensor::zeros([sequences, h, d_k, d_v], (&q.device(), of_state)));
    let plan = Plan { slopes: slopes.map(Into::into), scale, block, bounds: bounds.map(Into::into) };
    let [q, k, v, state] = [q, k, v, state].map(Tensor::into_dispatch);
    let (o, state) = Dispatch::decayed_product(Inputs { q, k, v, state }, plan);
    (Tensor::from_dispatch(o), Tensor::from_dispatch(state))
}

/// What [`decayed_product`] takes besides tensors.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Terms<'a> {
    /// −ln λ: H constants ≥ 0; `None` = no decay.
    pub(crate) slopes: Option<&'a [f64]>,
    /// Factor on `q · k`.
    pub(crate) scale: f64,
    /// Tokens per block.
    pub(crate) block: usize,
    /// Bounds of sequences packed one after another in a batch of one, each with a state of its own: `[S, H, K, V]`.
    pub(crate) bounds: Option<&'a [usize]>,
}

/// Whether [`decayed_product`] takes packed sequences for tensors like this.
pub(crate) fn cuts_sequences(like: &Tensor<4>) -> bool {
    on_cpu(&like.device(), like.dtype())
}

/// Whether [`decayed_product`] takes tensors of 16 bits like this as they are, with values of width `d_v`; the state is f32 then.
pub(crate) fn takes_half(like: &Tensor<4>, d_v: usize) -> bool {
    #[cfg(feature = "cube")]
    if let DispatchDevice::Cube(device) = like.device().inner().as_dispatch() {
        return matches!(like.dtype(), DType::BF16 | DType::F16) && gpu::takes(&device.client(), like.dtype(), like.dims()[3], d_v);
    }
    let _ = (like, d_v);
    false
}
