#![doc = include_str!("README.md")]

mod config;
mod layer;
mod lrpe;
mod op;
mod parallel;
pub mod reference;
mod slopes;

#[cfg(test)]
mod tests;

pub use config::{Activation, GateKind, LightningConfig, PositionPolicy};
pub use layer::{Gate, Lightning, LightningState};
pub use lrpe::{Lrpe, LrpeConfig};
pub use op::{LightningOpts, Variant, lightning_attention, lightning_step};
pub use slopes::DecayRule;
