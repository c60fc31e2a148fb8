#![doc = include_str!("README.md")]

mod block;
mod config;
mod model;
#[cfg(test)]
mod tests;
mod weights;

pub use block::ResNetBlock;
pub(crate) use block::ResNetBlockConfig;
pub use config::{ResNetBlockKind, ResNetConfig, ResNetStem, Shortcut};
pub use model::ResNet;
pub use weights::ResNetNames;
