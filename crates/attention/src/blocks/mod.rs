//! What mechanisms and models share: norms, gated linear units, mixtures of experts, short convolutions, positions, packed sequences.

mod activation;
mod adamw;
mod cache;
#[cfg(feature = "cube")]
pub(crate) mod cube;
mod custom_gradient;
pub(crate) mod decayed_product;
pub(crate) mod flex;
mod grouped;
pub(crate) mod kernel;
mod lazy;
mod linear;
mod look_up;
mod loss;
pub(crate) mod matmul;
mod maybe;
mod mlp;
mod moe;
mod norm;
mod packed;
pub(crate) mod raw;
mod rotary;
mod scale;
mod scan;
mod second_output;
mod short_conv;
pub(crate) mod simd;
pub(crate) mod softmax;
mod split;
#[cfg(test)]
mod tests;

pub use activation::{gelu, gelu_tanh, product, sigmoid, silu, silu_gate};
pub use adamw::AdamWStep;
pub(crate) use cache::TokenCache;
pub(crate) use custom_gradient::{GradientRule, of_backend, primitive, with_gradient};
pub(crate) use decayed_product::{Terms, cuts_sequences, decayed_product, takes_half};
pub(crate) use lazy::lazy_param;
pub use linear::{linear, project, project_each, project_split};
pub use look_up::look_up;
pub use loss::{cross_entropy, linear_cross_entropy};
pub use matmul::matmul;
pub(crate) use maybe::Maybe;
pub use mlp::{Mlp, MlpConfig, MlpKind};
pub use moe::{Experts, Moe, MoeConfig, Router, Routing};
pub use norm::{Norm, NormKind, gated_rms_norm, l2_norm, srms_norm};
pub(crate) use packed::check_cu_seqlens;
pub use rotary::rotary;
pub use scale::{norm_of_all, round, scale};
pub(crate) use scan::{LOG_ZERO, prefix_sum, running_log_sum_exp};
pub(crate) use second_output::SecondOutput;
pub use short_conv::ShortConv;
pub use split::split;
