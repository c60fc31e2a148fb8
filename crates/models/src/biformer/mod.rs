#![doc = include_str!("README.md")]

mod config;
mod model;
#[cfg(test)]
mod tests;
mod weights;

pub use config::{BiFormerConfig, BiFormerLayout};
pub use model::{BiFormer, BiFormerAttention, Downsample, Patches};
pub use weights::{BiFormerNames, read_weights};
