#![doc = include_str!("README.md")]

mod block;
mod channel;
mod config;
mod init;
mod model;

#[cfg(test)]
mod tests;

pub use block::{Block, Residual};
pub use channel::ChannelMixer;
pub(crate) use config::check_numbers;
pub(crate) use init::{initialise, leaf};

pub use config::{DecoderConfig, Positions};
pub use model::{Decoder, DecoderState};
