//! Whole networks built from the mechanisms of Regard.

#![warn(missing_docs)]

pub mod decoder;

pub use decoder::{Decoder, DecoderConfig, DecoderState, Positions};
