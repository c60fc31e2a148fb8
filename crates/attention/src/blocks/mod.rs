//! What mechanisms and models share: norms, gated linear units, short convolutions, positions, packed sequences.

mod decayed_product;
mod mlp;
mod norm;
mod rotary;
pub(crate) mod simd;

#[expect(unused_imports)]
pub(crate) use decayed_product::decayed_product;
pub use mlp::{Mlp, MlpConfig, MlpKind};
pub use norm::{Norm, NormKind, SimpleRmsNorm, srms_norm};
pub use rotary::rotary;
