use burn::tensor::{DType, Tensor, activation};
use serde::{Deserialize, Serialize};

use crate::blocks::kernel;

/// Above this, `softplus(x) = x`.
const SOFTPLUS_THRESHOLD: f64 = 20.0;

/// How a layer makes log decays of its gate's inputs `f`, with one rate `exp(A_log)` per head and one bias `dt_bias` per channel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DecayGate {
    /// `g = −exp(A_log) · softplus(f + dt_bias)`
    #[default]
    ExpSoftplus,
    /// `g = bound · sigmoid(exp(A_log) · (f + dt_bias))`: no decay stronger than `exp(bound)`, bound < 0.
    Bounded(f64),
}

/// The log decay of `gate`, ≤ 0, in f32 at least; on the CPU as one kernel in each direction.
///
/// # Shapes
/// - `f`: `[B, T, H, K]`; `a_log`: `[H]`; `dt_bias`: `[H, K]`; for one decay per head, K = 1
/// - output: `[B, T, H, K]`
pub fn log_decay(f: Tensor<4>, a_log: Tensor<1>, dt_bias: Tensor<2>, gate: DecayGate) -> Tensor<4> {
    let [_, _, h, d_k] = f.dims();
    let f = if f.dtype() == DType::F64 { f } else { f.cast(DType::F32) };
    if kernel::on_cpu(&f.device(), f.dtype()) && !f.dims().contains(&0) {
        let bound = if let DecayGate::Bounded(bound) = gate { Some(bound) } else { None };
        return kernel::decay_gate(f, a_log.cast(DType::F32), dt_bias.cast(DType::F32), bound);
    }
    let rate = a_log.cast(f.dtype()).exp().reshape([1, 1, h, 1]);
    let x = f.clone() + dt_bias.cast(f.dtype()).reshape([1, 1, h, d_k]);
    match gate {
        DecayGate::ExpSoftplus => {
            // Two branches, each kept off the values where it does not hold, so that neither gradient is NaN.
            let large = x.clone().greater_elem(SOFTPLUS_THRESHOLD);
            let small = x.clone().clamp_max(SOFTPLUS_THRESHOLD).exp().log1p();
            small.mask_where(large, x) * rate.neg()
        }
        DecayGate::Bounded(bound) => activation::sigmoid(x * rate) * bound,
    }
}
