#![doc = include_str!("README.md")]

mod layer;
mod op;
pub mod reference;
#[cfg(test)]
mod tests;

pub use layer::{ChannelAttention, ChannelAttentionConfig, ChannelOrder};
pub use op::channel_attention;
