//! Whole networks built from the mechanisms of Regard.

#![warn(missing_docs)]

pub mod biformer;
pub mod davit;
pub mod decoder;
pub mod encoder;
pub mod flowformer;
pub mod halonet;
pub mod image;
pub mod kimi_linear;
mod model;
pub mod nat;
pub mod nprf;
pub mod psa;
pub mod registry;
pub mod resnet;
pub mod s2aformer;
pub mod tnl;
pub mod vision;
pub mod vit;
pub mod weights;

pub use decoder::{ChannelMixer, Decoder, DecoderConfig, DecoderState, Positions};
pub use encoder::{Encoder, EncoderConfig, EncoderInput, Head, Pool};
pub use image::{ImageClassifier, ImageConfig, MapMixerConfig};
pub use kimi_linear::KimiLinearConfig;
pub use model::{Model, ModelConfig};
pub use nprf::NprfLmConfig;
pub use tnl::TnlConfig;
