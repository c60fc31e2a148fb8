//! Whole networks built from the mechanisms of Regard.

#![warn(missing_docs)]

pub mod decoder;
pub mod nprf;
pub mod tnl;

pub use decoder::{Decoder, DecoderConfig, DecoderState, Positions};
pub use nprf::NprfLmConfig;
pub use tnl::TnlConfig;
