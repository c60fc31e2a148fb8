//! Softmax attention as an operation, for every mechanism that ends in one.

mod kernel;
mod op;

pub use op::{SoftmaxOptions, softmax_attention};
