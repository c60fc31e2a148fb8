//! Experiments: mechanisms compared on one task under one budget, and measured operation by operation.

#![warn(missing_docs)]

pub mod bench;
pub mod compare;
mod error;
pub mod fit;
pub mod machine;
mod measure;
mod table;

pub use error::{Error, Result};
pub use table::Table;
