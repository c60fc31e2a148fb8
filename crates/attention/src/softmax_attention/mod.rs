#![doc = include_str!("README.md")]

mod kernel;
mod layer;
mod op;
pub mod reference;
mod state;
#[cfg(test)]
mod tests;

pub use layer::{SoftmaxAttention, SoftmaxAttentionConfig};
pub use op::{SoftmaxOptions, softmax_attention};
pub use state::SoftmaxState;
