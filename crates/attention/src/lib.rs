//! The attention mechanisms of the literature: exact definitions, fast kernels, trainable layers.
//!
//! Every mechanism is one module with the same three levels:
//! - the *reference*: the definition on Burn tensors, differentiable, on any device, the shortest correct code;
//! - the *operation*: arguments checked, then the best algorithm for device and shape, forward and backward;
//! - the *layer*: a configuration and a Burn module with the projections, norms and gates of the paper.
//!
//! Causal layers share the interface [`SequenceMixer`], so that they can replace one another in a model; [`MixerConfig`] chooses one
//! at run time and [`registry`] describes all of them.

#![warn(missing_docs)]

pub mod blocks;
mod card;
mod error;
pub mod flow_attention;
pub mod kimi_delta;
pub mod latent_attention;
pub mod lightning_attention;
mod mixer;
pub mod nprf;
pub mod registry;
mod sequence_mixer;
pub mod softmax_attention;

pub use card::card_name;
pub use error::{Error, Result};
pub use mixer::{Mixer, MixerConfig, MixerState};
pub use sequence_mixer::{LayerPlace, MixerMemory, SequenceMixer};

/// The example of the project's page is compiled and run like those of the mechanisms.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
mod readme {}
