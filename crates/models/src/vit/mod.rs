#![doc = include_str!("README.md")]

mod config;
mod model;
#[cfg(test)]
mod tests;
mod weights;

pub use config::VitConfig;
pub use model::{PatchEmbedding, Vit};
pub use weights::VitNames;
