#![doc = include_str!("README.md")]

mod config;
mod conv;
mod mixer;
mod model;
mod stem;

#[cfg(test)]
mod tests;

pub use config::{ImageConfig, MapPositions};
pub use conv::{ConvBlock, ConvConfig};
pub use mixer::{MapMixer, MapMixerConfig, Raster};
pub use model::{ImageBlock, ImageClassifier, Stage};
pub use stem::{ConvStem, Stem, StemKind};
