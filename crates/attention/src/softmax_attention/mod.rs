#![doc = include_str!("README.md")]

mod layer;
pub mod reference;
mod state;
#[cfg(test)]
mod tests;

pub use crate::blocks::softmax::{SoftmaxOptions, softmax_attention};
pub use layer::{SoftmaxAttention, SoftmaxAttentionConfig};
pub use state::SoftmaxState;
