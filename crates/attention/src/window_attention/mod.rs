#![doc = include_str!("README.md")]

mod layer;
pub mod reference;
#[cfg(test)]
mod tests;

pub use layer::{WindowAttention, WindowAttentionConfig};
