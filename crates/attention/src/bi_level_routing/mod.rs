#![doc = include_str!("README.md")]

mod full;
mod layer;
mod op;
pub mod reference;
#[cfg(test)]
mod tests;

pub use crate::blocks::neighborhood::Routes;
pub use full::{FullAttention, FullAttentionConfig};
pub use layer::{BiLevelRouting, BiLevelRoutingConfig, RoutedPadding, RoutedScale};
pub use op::{Routing, route, routed_attention};
