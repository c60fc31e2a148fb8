#![doc = include_str!("README.md")]

pub mod dplr;
mod gate;
mod kernel;
mod layer;
mod op;
pub mod reference;
mod state;
#[cfg(test)]
mod tests;

pub use gate::{DecayGate, log_decay};
pub use layer::{ForgetGate, KimiDelta, KimiDeltaConfig, KimiDeltaState};
pub use op::{KimiDeltaOptions, kimi_delta};
