//! What networks over the maps of images share: convolutions with batch norms, pooling, costs, names in checkpoints.
//!
//! Maps are `[B, Y, X, D]`, as in the layers of [`regard`]; images come in as `[B, C, Y, X]`.

mod activation;
mod conv;
mod cost;
mod depth;
mod fold;
mod images;
mod layout;
mod names;
mod resize;
mod statistics;
#[cfg(test)]
pub(crate) mod testing;

pub use activation::Activation;
pub use conv::{ConvNorm, ConvNormConfig, convolve, max_pool};
pub use cost::{conv_multiply_adds, linear_multiply_adds, trained_weights};
pub use depth::drop_rates;
pub use fold::{folded, folded_filters};
pub use images::{check_images, map_mean, to_map};
pub use layout::MapNames;
pub use names::{BLOCK_NAMES, split_block};
pub use resize::Resize;
pub use statistics::freeze_statistics;
