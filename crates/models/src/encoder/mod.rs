#![doc = include_str!("README.md")]

mod config;
mod model;

#[cfg(test)]
mod tests;

pub use config::{EncoderConfig, EncoderInput, Head, Pool};
pub use model::{Embed, Encoder, ForecastHead, Readout};
