//! Operations measured over shapes: time, bytes moved, share of what the machine can do, memory, growth.

mod config;
mod operations;
mod report;
mod rows;

pub use config::{BenchConfig, Direction, Number};
pub use operations::OPERATIONS;
pub use report::html;
pub use rows::{Bench, BenchRow, Growth, bench};

#[cfg(test)]
mod tests;
