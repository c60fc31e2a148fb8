#![doc = include_str!("README.md")]

mod block;
mod layer;
mod op;
mod rank_one;
pub mod reference;
#[cfg(test)]
mod tests;

pub use block::{HybridPerception, HybridPerceptionConfig, LocalInteraction, LocalInteractionConfig};
pub use layer::{StripAttention, StripAttentionConfig};
pub use op::{StripOptions, strip_attention};
