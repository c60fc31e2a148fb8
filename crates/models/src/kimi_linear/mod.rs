#![doc = include_str!("README.md")]

mod cache;
mod config;
mod hugging_face;
#[cfg(test)]
mod tests;
mod weights;

pub use cache::CacheBytes;
pub use config::KimiLinearConfig;
pub use weights::{Dialect, read_weights, write_shards, write_weights};
