use cubecl::prelude::*;

use crate::blocks::cube::{
    row_tiles::Room,
    tile_product::{Lie, PLANE, Share},
};

/// What is fixed when a kernel is compiled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Form {
    /// Tokens C per chunk: 32 or 64.
    pub(crate) chunk: usize,
    /// Width K, rounded up to a multiple of 16.
    pub(crate) d_k: usize,
    /// Width V, rounded up to a multiple of 16.
    pub(crate) d_v: usize,
    /// Columns of the values that a cube carries the state of.
    pub(crate) slice: usize,
    /// Bytes of an element of a tile.
    pub(crate) element: usize,
    pub(crate) tensor_cores: bool,
    pub(crate) planes: usize,
}

impl Form {
    pub(crate) fn units(&self) -> usize {
        self.planes * PLANE
    }

    pub(crate) fn cube(&self) -> CubeDim {
        CubeDim::new_1d(self.units() as u32)
    }

    /// Distance of the rows of a tile of `width` elements: 16 bytes more than they need, so that eight rows lie in different banks.
    pub(crate) fn stride(&self, width: usize) -> usize {
        width + 16 / self.element
    }

    /// Tiles that a kernel which goes from chunk to chunk has of each matrix: with matrix units, one is filled while the other is read.
    pub(crate) fn buffers(&self) -> usize {
        if self.tensor_cores { 2 } else { 1 }
    }

    /// A tile of the rows of a chunk.
    pub(crate) fn room(&self, width: usize) -> Room {
        Room { rows: self.chunk, width, stride: self.stride(width), units: self.units() }
    }

    /// Distance of the rows of a matrix of f32, odd so that rows lie in different banks.
    pub(crate) fn wide(&self, width: usize) -> usize {
        width + 1
    }

    /// Sides of the squares that the lower triangle of a chunk is cut into, from the largest to single numbers.
    pub(crate) fn levels(&self) -> usize {
        self.chunk.ilog2() as usize
    }

    /// Where a cube takes a slice of the key channels.
    pub(crate) fn of_channels(&self) -> Self {
        Self { d_k: if self.d_k.is_multiple_of(32) { 32 } else { 16 }, ..*self }
    }

    pub(crate) fn share(&self, rows: usize, columns: usize) -> Share {
        Share::new(rows, columns, self.planes)
    }

    /// `A B`, both as they are.
    pub(crate) fn plain(&self, inner: usize, a: usize, b: usize) -> Lie {
        self.lie(inner, (a, false), (b, false))
    }

    /// `A Bᵀ`.
    pub(crate) fn right_turned(&self, inner: usize, a: usize, b: usize) -> Lie {
        self.lie(inner, (a, false), (b, true))
    }

    /// `Aᵀ B`.
    pub(crate) fn left_turned(&self, inner: usize, a: usize, b: usize) -> Lie {
        self.lie(inner, (a, true), (b, false))
    }

    fn lie(&self, inner: usize, (a_stride, a_turned): (usize, bool), (b_stride, b_turned): (usize, bool)) -> Lie {
        Lie { inner, a_stride, a_turned, b_stride, b_turned, weighted: false, tensor_cores: self.tensor_cores }
    }
}

/// Bytes of shared memory of the kernel that needs most.
pub(crate) fn shared_bytes(form: &Form) -> usize {
    let Form { chunk, d_k, d_v, slice, .. } = *form;
    let (keys, values, square, thin) = (form.stride(d_k), form.stride(d_v), form.stride(chunk), form.stride(slice));
    let prepare = form.element * (chunk * (keys.max(values) + keys) + 3 * chunk / 2 * keys + chunk * square)
        + 4 * (2 * chunk * form.wide(d_k) + 2 * chunk * form.wide(chunk) + (chunk * chunk / 4).max(4 * chunk) + chunk);
    let carry = form.element * (form.buffers() * chunk * (3 * keys + square + thin) + 2 * chunk * thin + d_k * thin) + 4 * d_k;
    let back = form.element * (d_k * values + chunk * (4 * values + 2 * keys + square)) + 4 * (chunk + 4 * chunk.max(d_k));
    // Every array starts at a multiple of 16 bytes.
    let prepare = if form.tensor_cores { form.by_cells().cell_bytes().max(form.strip_bytes()) } else { prepare };
    prepare.max(carry).max(back) + 16 * 16
}
