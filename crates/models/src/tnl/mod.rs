#![doc = include_str!("README.md")]

mod config;
mod weights;

#[cfg(test)]
mod tests;

pub use config::TnlConfig;
pub use weights::{read_weights, write_weights};
