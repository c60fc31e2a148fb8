//! Experiments: mechanisms compared on one task under one budget, measured operation by operation, and the claims of their papers.

#![warn(missing_docs)]

pub mod bench;
pub mod compare;
mod context;
mod error;
mod files;
pub mod fit;
mod lines;
pub mod machine;
mod measure;
pub mod reproduce;
mod table;

pub use error::{Error, Result};
pub use table::Table;
