#![doc = include_str!("README.md")]

mod config;
mod downsample;
mod model;
mod named;
#[cfg(test)]
mod tests;
mod weights;

pub use config::{NatConfig, NatLayout};
pub use downsample::{ConvDownsampler, NatDownsample, NatStem, PatchMerging};
pub use model::{Nat, NatLevel};
pub use weights::{NatNames, read_weights, write_weights};
