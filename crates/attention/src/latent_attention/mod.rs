#![doc = include_str!("README.md")]

mod layer;
#[cfg(test)]
mod tests;

pub use layer::{LatentAttention, LatentAttentionConfig, LatentState};
