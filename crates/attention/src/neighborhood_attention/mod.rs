#![doc = include_str!("README.md")]

mod layer;
pub mod reference;
#[cfg(test)]
mod tests;

pub use layer::{NeighborhoodAttention, NeighborhoodAttentionConfig};

pub use crate::blocks::{
    merge_attentions,
    neighborhood::{NeighborhoodAlgorithm, NeighborhoodOptions, WindowAxis, neighborhood_attention},
};
