//! What mechanisms and models share: norms, gated linear units, short convolutions, positions, packed sequences.

mod custom_gradient;
mod decayed_product;
mod mlp;
mod norm;
mod packed;
mod rotary;

pub(crate) use custom_gradient::{GradientRule, with_gradient};
#[expect(unused_imports)]
pub(crate) use decayed_product::decayed_product;
pub use mlp::{Mlp, MlpConfig, MlpKind};
pub use norm::{Norm, NormKind, SimpleRmsNorm, srms_norm};
pub(crate) use packed::check_cu_seqlens;
pub use rotary::rotary;
