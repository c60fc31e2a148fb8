#![doc = include_str!("README.md")]

mod config;
mod model;
#[cfg(test)]
mod tests;
mod weights;

pub use config::{ResNetBlockKind, ResNetConfig, ResNetStem, Shortcut};
pub use model::{ResNet, ResNetBlock};
pub use weights::ResNetNames;
