#![doc = include_str!("README.md")]

mod config;
mod layer;
mod op;
pub mod reference;
#[cfg(test)]
mod tests;

pub use config::{Border, HaloAttentionConfig, HaloWidths, KvLayout, StridedPositions};
pub use layer::HaloAttention;
pub use op::{HaloOptions, halo_attention};
