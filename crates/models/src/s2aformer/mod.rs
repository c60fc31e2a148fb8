#![doc = include_str!("README.md")]

mod config;
mod init;
mod model;
#[cfg(test)]
mod tests;
mod weights;

pub use config::S2aFormerConfig;
pub use model::S2aFormer;
pub use weights::NAMES;
