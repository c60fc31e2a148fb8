//! The state from chunk to chunk, with the outputs.

use cubecl::prelude::*;

use super::{chunk::store_part, form::Form};
use crate::blocks::cube::{
    row_tiles::{Span, await_loads, fetch_packed, save},
    tile_product::{COLUMNS, ROWS, Share, Tiles, corner, corner_of, has_part, multiply, own_column, own_row, plane},
};

/// The state from chunk to chunk and the outputs, a cube per head and slice of columns:
/// `V' = U − W S`, `O = Q S + scores V'`, `S ← total ⊙ S + Kᵀ V'`. Half of the planes multiply W, the others Q; with matrix units, the
/// tiles of the next chunk travel meanwhile.
///
/// `first`, `last`: `[B·W, K, V]`; `states`: `[B·W, chunks, K, V]` in padded widths, the states before the chunks, if they are kept.
#[cube(launch_unchecked, address_type = "dynamic")]
pub(crate) fn carry<F: Float, E: Float, N: Size, M: Size>(
    q_start: &[Vector<E, N>],
    k_end: &[Vector<E, N>],
    w: &[Vector<E, N>],
    u: &[Vector<E, N>],
    scores: &[Vector<E, N>],
    total: &[f32],
    first: &[f32],
    last: &mut [f32],
    states: &mut [Vector<E, N>],
    out: &mut Tensor<Vector<F, M>>,
    d_k: usize,
    #[comptime] keep: bool,
    #[comptime] form: Form,
    #[define(F, E)] _types: [ElemType; 2],
) {
    let (c, packed, thin) = comptime!((form.chunk, form.stride(form.d_k), form.stride(form.slice)));
    let square_stride = comptime!(form.stride(c));
    let (rows_size, square_size, thin_size) = comptime!((c * packed, c * square_stride, c * thin));
    let buffers = comptime!(form.buffers());
    // W and Q lie one behind the other, so that planes of either role differ in a number.
    let mut rows_tile = Shared::<[E]>::new_aligned_slice(comptime!(buffers * 2 * rows_size), 16usize);
    let mut k_tile = Shared::<[E]>::new_aligned_slice(comptime!(buffers * rows_size), 16usize);
    let mut square = Shared::<[E]>::new_aligned_slice(comptime!(buffers * square_size), 16usize);
    let mut u_tile = Shared::<[E]>::new_aligned_slice(comptime!(buffers * thin_size), 16usize);
    let mut writes = Shared::<[E]>::new_aligned_slice(thin_size, 16usize);
    let mut out_tile = Shared::<[E]>::new_aligned_slice(thin_size, 16usize);
    let mut state_tile = Shared::<[E]>::new_aligned_slice(comptime!(form.d_k * thin), 16usize);
    let mut decay = Shared::<[f32]>::new_slice(form.d_k);

    let (tokens, d_v) = (out.shape(2), out.shape(3));
    let column = CUBE_POS_X as usize * form.slice;
    let chunks = tokens.div_ceil(c);
    let matrix = CUBE_POS_Y as usize;
    let of_state = comptime!(form.share(form.d_k, form.slice));
    let of_rows = comptime!(Share::new(c, form.slice, form.planes / 2));
    let (state_row, state_column) = corner(of_state);
    let reads = plane() >= comptime!(form.planes / 2);
    let place = plane() % comptime!(form.planes / 2);
    let (row, col) = corner_of(place, of_rows);
    let at_work = place < comptime!(of_rows.used());
    let mut state = Tiles::zeros(of_state.tiles.0, of_state.tiles.1);
    if has_part(of_state, form.planes) {
        read_state(&mut state, first, matrix * d_k * d_v, state_row, column + state_column, d_k, d_v);
    }
    let unit = UNIT_POS as usize;
    let mut next_decay = 0.0f32;
    // With two buffers, the first turn has tiles to fetch and nothing to compute.
    for turn in 0..chunks + comptime!(buffers - 1) {
        if comptime!(form.tensor_cores) {
            await_loads();
            if unit < form.d_k {
                decay[unit] = next_decay;
            }
        }
        if has_part(of_state, form.planes) {
            store_part::<E>(&state, &mut state_tile, state_row, state_column, thin);
        }
        sync_cube();
        if turn < chunks {
            let chunk = matrix * chunks + turn;
            let side = turn % buffers;
            let (two, one) = (side * comptime!(2 * rows_size), side * rows_size);
            let (of_square, of_thin) = (side * square_size, side * thin_size);
            let (rows, room) = (chunk * comptime!(c * form.d_k), comptime!(form.room(form.d_k)));
            fetch_packed::<E, N>(w, &mut rows_tile[two..two + rows_size], rows, form.d_k, room, form.tensor_cores);
            let two = two + rows_size;
            fetch_packed::<E, N>(q_start, &mut rows_tile[two..two + rows_size], rows, form.d_k, room, form.tensor_cores);
            fetch_packed::<E, N>(k_end, &mut k_tile[one..one + rows_size], rows, form.d_k, room, form.tensor_cores);
            let (start, room) = (chunk * comptime!(c * c), comptime!(form.room(c)));
            fetch_packed::<E, N>(scores, &mut square[of_square..of_square + square_size], start, c, room, form.tensor_cores);
            let (start, room) = (chunk * comptime!(c * form.d_v) + column, comptime!(form.room(form.slice)));
            fetch_packed::<E, N>(u, &mut u_tile[of_thin..of_thin + thin_size], start, form.d_v, room, form.tensor_cores);
            if unit < form.d_k {
                next_decay = total[chunk * form.d_k + unit];
                if comptime!(!form.tensor_cores) {
                    decay[unit] = next_decay;
                }
            }
        }
        if comptime!(!form.tensor_cores) {
            sync_cube();
        }
        if turn + 1 >= buffers {
            let n = turn + 1 - buffers;
            let side = n % buffers;
            let (two, one) = (side * comptime!(2 * rows_size), side * rows_size);
            let (of_square, of_thin) = (side * square_size, side * thin_size);
            if n > 0 {
                save_outputs::<E, F, M>(&out_tile, out, matrix, n - 1, column, form);
            }
            if keep {
                let start = (matrix * chunks + n) * comptime!(form.d_k * form.d_v) + column;
                save_part::<E, N>(&state_tile, states, start, form.d_k, form);
            }
            let mut part = Tiles::zeros(of_rows.tiles.0, of_rows.tiles.1);
            if at_work {
                let own = two + row * packed + if reads { rows_size.runtime() } else { 0usize.runtime() };
                multiply::<E>(&mut part, &rows_tile[own..], &state_tile[col..], &decay, comptime!(form.plain(form.d_k, packed, thin)));
                if !reads {
                    negate_plus::<E>(&mut part, &u_tile[of_thin..], row, col, thin);
                    store_part::<E>(&part, &mut writes, row, col, thin);
                }
            }
            if has_part(of_state, form.planes) {
                decay_state(&mut state, &decay, state_row);
            }
            sync_cube();
            if has_part(of_state, form.planes) {
                let lie = comptime!(form.left_turned(c, packed, thin));
                multiply::<E>(&mut state, &k_tile[one + state_row..], &writes[state_column..], &decay, lie);
            }
            if at_work && reads {
                let lie = comptime!(form.plain(c, square_stride, thin));
                multiply::<E>(&mut part, &square[of_square + row * square_stride..], &writes[col..], &decay, lie);
                store_part::<E>(&part, &mut out_tile, row, col, thin);
            }
        }
    }
    sync_cube();
    save_outputs::<E, F, M>(&out_tile, out, matrix, chunks - 1, column, form);
    if has_part(of_state, form.planes) {
        write_state(&state, last, matrix * d_k * d_v, state_row, column + state_column, d_k, d_v);
    }
}

/// The outputs of chunk `n`, a slice of columns.
#[cube]
fn save_outputs<E: Float, F: Float, M: Size>(
    from: &[E],
    out: &mut Tensor<Vector<F, M>>,
    matrix: usize,
    n: usize,
    column: usize,
    #[comptime] form: Form,
) {
    let heads = out.shape(1);
    let start = n * form.chunk;
    let span = Span { batch: matrix / heads, head: matrix % heads, start, tokens: clamp_max(out.shape(2) - start, form.chunk), column };
    save::<E, F, M>(from, out, &span, comptime!(form.room(form.slice)));
}

/// Writes a tile of `slice` columns into rows of padded values.
#[cube]
pub(crate) fn save_part<E: Float, N: Size>(
    from: &[E],
    to: &mut [Vector<E, N>],
    start: usize,
    #[comptime] rows: usize,
    #[comptime] form: Form,
) {
    let size = N::value();
    let per_row = comptime!(form.slice / size);
    let all = comptime!(rows * per_row);
    let stride = comptime!(form.stride(form.slice));
    let from = from.as_vectorized().with_vector_size::<N>();
    #[unroll]
    for turn in 0..comptime!(all.div_ceil(form.units())) {
        let index = turn * form.units() + UNIT_POS as usize;
        if comptime!(all % form.units() == 0) || index < all {
            let (row, column) = (index / per_row, index % per_row * size);
            to[(start + row * form.d_v + column) / size] = from[(row * stride + column) / size];
        }
    }
}

/// A plane's part of a state in memory, zeros past its widths.
#[cube]
pub(crate) fn read_state(part: &mut Tiles, from: &[f32], base: usize, row: usize, column: usize, d_k: usize, d_v: usize) {
    #[unroll]
    for i in 0..comptime!(part.m) {
        #[unroll]
        for j in 0..comptime!(part.n) {
            let tile = part.pairs.index_mut(comptime!(i * part.n + j));
            #[unroll]
            for half in 0..2usize {
                let mut pair = Vector::<f32, Const<2>>::new(0.0f32);
                #[unroll]
                for next in 0..2usize {
                    let (x, y) = (row + own_row() + ROWS * i + 8 * half, column + own_column() + COLUMNS * j + next);
                    if x < d_k && y < d_v {
                        pair.insert(next, from[base + x * d_v + y]);
                    }
                }
                tile[half] = pair;
            }
        }
    }
}

/// The reverse of [`read_state`].
#[cube]
pub(crate) fn write_state(part: &Tiles, to: &mut [f32], base: usize, row: usize, column: usize, d_k: usize, d_v: usize) {
    #[unroll]
    for i in 0..comptime!(part.m) {
        #[unroll]
        for j in 0..comptime!(part.n) {
            let tile = part.pairs.index(comptime!(i * part.n + j));
            #[unroll]
            for half in 0..2usize {
                #[unroll]
                for next in 0..2usize {
                    let (x, y) = (row + own_row() + ROWS * i + 8 * half, column + own_column() + COLUMNS * j + next);
                    if x < d_k && y < d_v {
                        to[base + x * d_v + y] = tile[half].extract(next);
                    }
                }
            }
        }
    }
}

/// Rows of a state times the decay of their channels.
#[cube]
pub(crate) fn decay_state(state: &mut Tiles, decay: &[f32], row: usize) {
    #[unroll]
    for i in 0..comptime!(state.m) {
        #[unroll]
        for half in 0..2usize {
            let factor = decay[row + own_row() + ROWS * i + 8 * half];
            #[unroll]
            for j in 0..comptime!(state.n) {
                let tile = state.pairs.index_mut(comptime!(i * state.n + j));
                tile[half] *= Vector::new(factor);
            }
        }
    }
}

/// `part ← tile − part`.
#[cube]
pub(crate) fn negate_plus<E: Float>(part: &mut Tiles, tile: &[E], row: usize, column: usize, #[comptime] stride: usize) {
    #[unroll]
    for i in 0..comptime!(part.m) {
        #[unroll]
        for j in 0..comptime!(part.n) {
            let own = part.pairs.index_mut(comptime!(i * part.n + j));
            #[unroll]
            for half in 0..2usize {
                let at = (row + own_row() + ROWS * i + 8 * half) * stride + column + own_column() + COLUMNS * j;
                let mut pair = Vector::<f32, Const<2>>::empty();
                pair.insert(0usize, f32::cast_from(tile[at]) - own[half].extract(0usize));
                pair.insert(1usize, f32::cast_from(tile[at + 1]) - own[half].extract(1usize));
                own[half] = pair;
            }
        }
    }
}
