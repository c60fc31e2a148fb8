#![doc = include_str!("README.md")]

mod config;
mod favor;
mod features;
mod image;
mod layer;
mod op;
mod options;
mod product;
mod projection;
pub mod reference;
mod state;

pub use config::{FeatureKind, NprfConfig};
pub use favor::{FavorOptions, FavorOutput, favor_plus};
pub use image::{NprfImage, NprfImageConfig};
pub use layer::Nprf;
pub use op::{nprf, nprf_grid};
pub use options::NprfOptions;
pub use product::NprfAlgorithm;
pub use projection::{ProjectionKind, draw_projection};
pub use state::NprfState;

#[cfg(test)]
mod tests;
