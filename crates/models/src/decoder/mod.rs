#![doc = include_str!("README.md")]

mod block;
mod config;
mod init;
mod model;

#[cfg(test)]
mod tests;

pub use block::Block;
pub use config::{DecoderConfig, Positions};
pub use model::{Decoder, DecoderState};
