//! The attention mechanisms of the literature: exact definitions, fast kernels, trainable layers.
//!
//! Every mechanism is one module with the same three levels:
//! - the *reference*: the definition on Burn tensors, differentiable, on any device, the shortest correct code;
//! - the *operation*: arguments checked, then the best algorithm for device and shape, forward and backward;
//! - the *layer*: a configuration and a Burn module with the projections, norms and gates of the paper.
//!
//! Layers of one kind share an interface, so that they can replace one another in a model: [`SequenceMixer`] for causal layers over
//! sequences, [`SpatialMixer`] for layers over the maps of images. [`MixerConfig`] and [`ImageMixerConfig`] choose one at run time, and
//! [`registry`] describes all of them.

#![warn(missing_docs)]

pub mod bi_level_routing;
pub mod blocks;
mod by_kind;
mod card;
pub mod channel_attention;
mod error;
pub mod flow_attention;
pub mod halo_attention;
mod image_mixer;
pub mod kimi_delta;
pub mod latent_attention;
pub mod lightning_attention;
mod mixer;
pub mod neighborhood_attention;
pub mod nprf;
pub mod polarized_attention;
pub mod registry;
mod sequence_mixer;
pub mod softmax_attention;
mod spatial_mixer;
mod state_layout;
pub mod strip_attention;
pub mod window_attention;

pub use by_kind::{Fields, by_kind, in_place, split_place};
pub use card::card_name;
pub use error::{Error, Result};
pub use image_mixer::{ImageMixer, ImageMixerConfig};
pub use mixer::{Mixer, MixerConfig, MixerState};
pub use sequence_mixer::{LayerPlace, MixerMemory, SequenceMixer};
pub use spatial_mixer::SpatialMixer;
pub use state_layout::StateLayout;

/// The example of the project's page is compiled and run like those of the mechanisms.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
mod readme {}
