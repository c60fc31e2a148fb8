#![doc = include_str!("README.md")]

mod config;
mod layer;
pub mod reference;
#[cfg(test)]
mod tests;

pub use config::{Flavour, Layout, PolarizedAttentionConfig};
pub use layer::{ChannelGate, PolarizedAttention};
