#![doc = include_str!("README.md")]

mod config;
mod model;
mod named;
#[cfg(test)]
mod tests;
mod weights;

pub use config::{DavitAttention, DavitConfig};
pub use model::{Davit, DavitDownsample, DavitHead, DavitStage, DavitStem};
pub use weights::{DavitDialect, DavitNames, read_weights, write_weights};
