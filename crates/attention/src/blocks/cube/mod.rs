//! What the kernels for GPUs share.

pub(crate) mod rows;
pub(crate) mod tensors;
pub(crate) mod tile_product;
