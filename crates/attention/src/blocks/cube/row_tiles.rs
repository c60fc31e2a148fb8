//! Tiles between tensors `[B, H, T, width]` and shared memory.

use cubecl::{frontend::barrier::copy_async, prelude::*};

/// Some tokens of one head, all units of a cube at work on them.
#[derive(CubeType, Clone, Copy)]
pub(crate) struct Span {
    pub(crate) batch: usize,
    pub(crate) head: usize,
    /// The first token.
    pub(crate) start: usize,
    /// How many; less than the rows of the tile at the end of a sequence.
    pub(crate) tokens: usize,
    /// The first column.
    pub(crate) column: usize,
}

/// A tile in shared memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Room {
    pub(crate) rows: usize,
    /// Columns that are filled, with zeros past the end of the tensor's.
    pub(crate) width: usize,
    /// Distance of rows in memory.
    pub(crate) stride: usize,
    /// Units of the cube.
    pub(crate) units: usize,
}

/// Copies the tokens of `span` into a tile; rows past its end and columns past the tensor's are zeros.
#[cube]
pub(crate) fn load<F: Float, E: Float, N: Size>(from: &Tensor<Vector<F, N>>, to: &mut [E], span: &Span, #[comptime] room: Room) {
    let size = N::value();
    let per_row = comptime!(room.width / size);
    let all = comptime!(room.rows * per_row);
    let base = span.batch * from.stride(0) + span.head * from.stride(1) + span.start * from.stride(2) + span.column;
    let (token, columns) = (from.stride(2), from.shape(3) - span.column);
    let to = to.as_vectorized_mut().with_vector_size_mut::<N>();
    #[unroll]
    for turn in 0..comptime!(all.div_ceil(room.units)) {
        let index = turn * room.units + UNIT_POS as usize;
        if comptime!(all % room.units == 0) || index < all {
            let (row, column) = (index / per_row, index % per_row * size);
            let mut values = Vector::<E, N>::new(E::from_int(0));
            if row < span.tokens && column < columns {
                values = Vector::cast_from(from[(base + row * token + column) / size]);
            }
            to[(row * room.stride + column) / size] = values;
        }
    }
}

/// Starts the copies of [`load`], which the units need not wait for until [`await_loads`]: for rows of 16-byte vectors that need no
/// conversion.
#[cube]
pub(crate) fn start_load<F: Float, E: Float, N: Size>(from: &Tensor<Vector<F, N>>, to: &mut [E], span: &Span, #[comptime] room: Room) {
    let size = N::value();
    let per_row = comptime!(room.width / size);
    let all = comptime!(room.rows * per_row);
    let base = span.batch * from.stride(0) + span.head * from.stride(1) + span.start * from.stride(2) + span.column;
    let (token, columns) = (from.stride(2), from.shape(3) - span.column);
    let from = from.as_slice().downcast::<Vector<E, N>>();
    let to = to.as_vectorized_mut().with_vector_size_mut::<N>();
    #[unroll]
    for turn in 0..comptime!(all.div_ceil(room.units)) {
        let index = turn * room.units + UNIT_POS as usize;
        if comptime!(all % room.units == 0) || index < all {
            let (row, column) = (index / per_row, index % per_row * size);
            let place = (row * room.stride + column) / size;
            if row < span.tokens && column < columns {
                let source = (base + row * token + column) / size;
                copy_async(&from[source..source + 1], &mut to[place..place + 1], comptime!(size as u32));
            } else {
                to[place] = Vector::new(E::from_int(0));
            }
        }
    }
}

/// [`load`], or [`start_load`] where it can.
#[cube]
pub(crate) fn fetch<F: Float, E: Float, N: Size>(
    from: &Tensor<Vector<F, N>>,
    to: &mut [E],
    span: &Span,
    #[comptime] room: Room,
    #[comptime] ahead: bool,
) {
    let (size, element) = (N::value().comptime(), E::size().comptime());
    if comptime!(ahead && size * element == 16) {
        start_load::<F, E, N>(from, to, span, room);
    } else {
        load::<F, E, N>(from, to, span, room);
    }
}

/// Waits for the unit's own copies; those of the others need `sync_cube` besides.
#[cube]
pub(crate) fn await_loads() {
    gpu_asm!("cp.async.wait_all;");
}

/// The reverse of [`load`].
#[cube]
pub(crate) fn save<E: Float, F: Float, N: Size>(from: &[E], to: &mut Tensor<Vector<F, N>>, span: &Span, #[comptime] room: Room) {
    let size = N::value();
    let per_row = comptime!(room.width / size);
    let all = comptime!(room.rows * per_row);
    let base = span.batch * to.stride(0) + span.head * to.stride(1) + span.start * to.stride(2) + span.column;
    let (token, columns) = (to.stride(2), to.shape(3) - span.column);
    let from = from.as_vectorized().with_vector_size::<N>();
    #[unroll]
    for turn in 0..comptime!(all.div_ceil(room.units)) {
        let index = turn * room.units + UNIT_POS as usize;
        if comptime!(all % room.units == 0) || index < all {
            let (row, column) = (index / per_row, index % per_row * size);
            if row < span.tokens && column < columns {
                to[(base + row * token + column) / size] = Vector::cast_from(from[(row * room.stride + column) / size]);
            }
        }
    }
}

/// Copies rows that lie `distance` elements apart in memory, from element `start` on, into a tile.
#[cube]
pub(crate) fn load_packed<E: Float, N: Size>(
    from: &[Vector<E, N>],
    to: &mut [E],
    start: usize,
    #[comptime] distance: usize,
    #[comptime] room: Room,
) {
    let size = N::value();
    let per_row = comptime!(room.width / size);
    let all = comptime!(room.rows * per_row);
    let to = to.as_vectorized_mut().with_vector_size_mut::<N>();
    #[unroll]
    for turn in 0..comptime!(all.div_ceil(room.units)) {
        let index = turn * room.units + UNIT_POS as usize;
        if comptime!(all % room.units == 0) || index < all {
            let (row, column) = (index / per_row, index % per_row * size);
            to[(row * room.stride + column) / size] = from[(start + row * distance + column) / size];
        }
    }
}

/// [`load_packed`], or the start of its copies, as [`start_load`] does: for vectors of 16 bytes.
#[cube]
pub(crate) fn fetch_packed<E: Float, N: Size>(
    from: &[Vector<E, N>],
    to: &mut [E],
    start: usize,
    #[comptime] distance: usize,
    #[comptime] room: Room,
    #[comptime] ahead: bool,
) {
    if comptime!(ahead) {
        let size = N::value();
        let per_row = comptime!(room.width / size);
        let all = comptime!(room.rows * per_row);
        let to = to.as_vectorized_mut().with_vector_size_mut::<N>();
        #[unroll]
        for turn in 0..comptime!(all.div_ceil(room.units)) {
            let index = turn * room.units + UNIT_POS as usize;
            if comptime!(all % room.units == 0) || index < all {
                let (row, column) = (index / per_row, index % per_row * size);
                let (source, place) = ((start + row * distance + column) / size, (row * room.stride + column) / size);
                copy_async(&from[source..source + 1], &mut to[place..place + 1], comptime!(size as u32));
            }
        }
    } else {
        load_packed::<E, N>(from, to, start, distance, room);
    }
}

/// Copies a tile out as matrix `index` of a stack of such, without gaps.
#[cube]
pub(crate) fn save_packed<E: Float, N: Size>(from: &[E], to: &mut [Vector<E, N>], index: usize, #[comptime] room: Room) {
    let size = N::value();
    let per_row = comptime!(room.width / size);
    let all = comptime!(room.rows * per_row);
    let from = from.as_vectorized().with_vector_size::<N>();
    #[unroll]
    for turn in 0..comptime!(all.div_ceil(room.units)) {
        let at = turn * room.units + UNIT_POS as usize;
        if comptime!(all % room.units == 0) || at < all {
            let (row, column) = (at / per_row, at % per_row * size);
            to[index * all + at] = from[(row * room.stride + column) / size];
        }
    }
}
