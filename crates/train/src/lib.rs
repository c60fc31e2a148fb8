//! placeholder

#![warn(missing_docs)]

pub mod report;
