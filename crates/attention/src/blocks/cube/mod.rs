//! What kernels in CubeCL share: launching on tensors of Burn's Cube backend, tiles in shared memory, products of tiles.

mod launch;
pub(crate) mod row_tiles;
pub(crate) mod tensors;
pub(crate) mod tile_product;
pub(crate) mod tiles;
pub(crate) mod warpgroup;

pub(crate) use launch::{address_type, element, empty, has_matrix_units, has_warpgroups, is_nvidia, rows};
