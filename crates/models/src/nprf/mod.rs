#![doc = include_str!("README.md")]

mod config;

#[cfg(test)]
mod tests;

pub use config::NprfLmConfig;
