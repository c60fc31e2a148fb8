#![doc = include_str!("README.md")]

mod layer;
mod op;
pub mod reference;

pub use layer::{SoftmaxAttention, SoftmaxAttentionConfig, SoftmaxState};
pub use op::{SoftmaxOptions, softmax_attention};
