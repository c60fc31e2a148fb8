//! What mechanisms and models share: norms, gated linear units, mixtures of experts, short convolutions, positions, packed sequences.

mod activation;
mod cache;
mod custom_gradient;
mod decayed_product;
mod grouped;
mod kernel;
mod lazy;
mod loss;
mod mlp;
mod moe;
mod norm;
mod packed;
mod raw;
mod rotary;
mod scan;
mod short_conv;
pub(crate) mod simd;
#[cfg(test)]
mod tests;

pub use activation::{gelu, gelu_tanh, sigmoid, silu_gate};
pub(crate) use cache::TokenCache;
pub(crate) use custom_gradient::{GradientRule, with_gradient};
pub(crate) use decayed_product::decayed_product;
pub(crate) use lazy::lazy_param;
pub use loss::cross_entropy;
pub use mlp::{Mlp, MlpConfig, MlpKind};
pub use moe::{Experts, Moe, MoeConfig, Router, Routing};
pub use norm::{Norm, NormKind, l2_norm, srms_norm};
pub(crate) use packed::check_cu_seqlens;
pub use rotary::rotary;
pub(crate) use scan::{LOG_ZERO, prefix_sum, running_log_sum_exp};
pub use short_conv::ShortConv;
