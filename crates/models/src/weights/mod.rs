#![doc = include_str!("README.md")]

mod checkpoint;
mod error;
mod layout;
mod parameters;
mod read;
mod report;
mod safetensors_file;
#[cfg(test)]
mod tests;
mod write;

pub use checkpoint::Checkpoint;
pub use error::WeightsError;
pub use layout::{Layout, Names, Stored};
pub use read::read;
pub use report::{Misshapen, Report};
pub use write::{write, write_shards};

#[cfg(test)]
pub(crate) use parameters::names;

/// The result of reading and writing weights.
pub type Result<T> = std::result::Result<T, WeightsError>;
