#![doc = include_str!("README.md")]

mod block;
mod config;
mod gate;
mod model;
mod named;
#[cfg(test)]
mod tests;
mod weights;

pub use block::{Bottleneck, BottleneckMixer, MixedAttention, MixedConv};
pub use config::{HaloMixer, HaloNetConfig, HaloStageConfig};
pub use gate::{ChannelGate, Efficient, GateKind, SqueezeExcite};
pub use model::HaloNet;
pub use weights::NAMES;
