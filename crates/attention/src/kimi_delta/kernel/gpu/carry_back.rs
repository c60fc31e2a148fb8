//! The gradient of the state, against the order of the chunks.

use cubecl::prelude::*;

use super::{
    carry::{decay_state, read_state, save_part, write_state},
    chunk::store_part,
    form::Form,
};
use crate::blocks::cube::{
    row_tiles::{Span, await_loads, fetch, fetch_packed},
    tile_product::{Tiles, corner, has_part, multiply},
};

/// The gradients of the states after the chunks and of what the chunks write, a cube per head and slice of columns, from the last
/// chunk to the first: `dV' = scoresᵀ dO + K dS`, `dS ← total ⊙ dS + Qᵀ dO − Wᵀ dV'`. With matrix units, the tiles of the next chunk
/// travel meanwhile.
///
/// `last`, `first`: `[B·W, K, V]`; `d_states`: `[chunks, K, V]` and `d_writes`: `[chunks, C, V]`, in padded widths.
#[cube(launch_unchecked, address_type = "dynamic")]
pub(crate) fn carry_back<F: Float, E: Float, N: Size, M: Size>(
    q_start: &[Vector<E, N>],
    k_end: &[Vector<E, N>],
    w: &[Vector<E, N>],
    scores: &[Vector<E, N>],
    total: &[f32],
    d_o: &Tensor<Vector<F, M>>,
    last: &[f32],
    first: &mut [f32],
    d_states: &mut [Vector<E, N>],
    d_writes: &mut [Vector<E, N>],
    d_k: usize,
    #[comptime] form: Form,
    #[define(F, E)] _types: [ElemType; 2],
) {
    let (c, packed, thin) = comptime!((form.chunk, form.stride(form.d_k), form.stride(form.slice)));
    let square_stride = comptime!(form.stride(c));
    let (rows_size, square_size, thin_size) = comptime!((c * packed, c * square_stride, c * thin));
    let buffers = comptime!(form.buffers());
    let mut w_tile = Shared::<[E]>::new_aligned_slice(comptime!(buffers * rows_size), 16usize);
    let mut q_tile = Shared::<[E]>::new_aligned_slice(comptime!(buffers * rows_size), 16usize);
    let mut k_tile = Shared::<[E]>::new_aligned_slice(comptime!(buffers * rows_size), 16usize);
    let mut square = Shared::<[E]>::new_aligned_slice(comptime!(buffers * square_size), 16usize);
    let mut o_tile = Shared::<[E]>::new_aligned_slice(comptime!(buffers * thin_size), 16usize);
    let mut writes = Shared::<[E]>::new_aligned_slice(thin_size, 16usize);
    let mut state_tile = Shared::<[E]>::new_aligned_slice(comptime!(form.d_k * thin), 16usize);
    let mut decay = Shared::<[f32]>::new_slice(form.d_k);

    let heads = d_o.shape(1);
    let (tokens, d_v) = (d_o.shape(2), d_o.shape(3));
    let column = CUBE_POS_X as usize * form.slice;
    let chunks = tokens.div_ceil(c);
    let matrix = CUBE_POS_Y as usize;
    let of_state = comptime!(form.share(form.d_k, form.slice));
    let of_rows = comptime!(form.share(c, form.slice));
    let (state_row, state_column) = corner(of_state);
    let (row, col) = corner(of_rows);
    let mut state = Tiles::zeros(of_state.tiles.0, of_state.tiles.1);
    if has_part(of_state, form.planes) {
        read_state(&mut state, last, matrix * d_k * d_v, state_row, column + state_column, d_k, d_v);
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
            let n = chunks - 1 - turn;
            let chunk = matrix * chunks + n;
            let side = turn % buffers;
            let (one, of_square, of_thin) = (side * rows_size, side * square_size, side * thin_size);
            let (rows, room) = (chunk * comptime!(c * form.d_k), comptime!(form.room(form.d_k)));
            fetch_packed::<E, N>(w, &mut w_tile[one..one + rows_size], rows, form.d_k, room, form.tensor_cores);
            fetch_packed::<E, N>(q_start, &mut q_tile[one..one + rows_size], rows, form.d_k, room, form.tensor_cores);
            fetch_packed::<E, N>(k_end, &mut k_tile[one..one + rows_size], rows, form.d_k, room, form.tensor_cores);
            let (start, room) = (chunk * comptime!(c * c), comptime!(form.room(c)));
            fetch_packed::<E, N>(scores, &mut square[of_square..of_square + square_size], start, c, room, form.tensor_cores);
            let span = Span { batch: matrix / heads, head: matrix % heads, start: n * c, tokens: clamp_max(tokens - n * c, c), column };
            let room = comptime!(form.room(form.slice));
            fetch::<F, E, M>(d_o, &mut o_tile[of_thin..of_thin + thin_size], &span, room, form.tensor_cores);
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
            let past = turn + 1 - buffers;
            let chunk = matrix * chunks + chunks - 1 - past;
            let side = past % buffers;
            let (one, of_square, of_thin) = (side * rows_size, side * square_size, side * thin_size);
            save_part::<E, N>(&state_tile, d_states, chunk * comptime!(form.d_k * form.d_v) + column, form.d_k, form);
            if has_part(of_rows, form.planes) {
                let mut part = Tiles::zeros(of_rows.tiles.0, of_rows.tiles.1);
                let lie = comptime!(form.left_turned(c, square_stride, thin));
                multiply::<E>(&mut part, &square[of_square + row..], &o_tile[of_thin + col..], &decay, lie);
                let lie = comptime!(form.plain(form.d_k, packed, thin));
                multiply::<E>(&mut part, &k_tile[one + row * packed..], &state_tile[col..], &decay, lie);
                store_part::<E>(&part, &mut writes, row, col, thin);
            }
            let turned = comptime!(form.left_turned(c, packed, thin));
            if has_part(of_state, form.planes) {
                decay_state(&mut state, &decay, state_row);
                multiply::<E>(&mut state, &q_tile[one + state_row..], &o_tile[of_thin + state_column..], &decay, turned);
            }
            sync_cube();
            save_part::<E, N>(&writes, d_writes, chunk * comptime!(c * form.d_v) + column, c, form);
            if has_part(of_state, form.planes) {
                let mut taken = Tiles::zeros(of_state.tiles.0, of_state.tiles.1);
                multiply::<E>(&mut taken, &w_tile[one + state_row..], &writes[state_column..], &decay, turned);
                subtract(&mut state, &taken);
            }
        }
    }
    if has_part(of_state, form.planes) {
        write_state(&state, first, matrix * d_k * d_v, state_row, column + state_column, d_k, d_v);
    }
}

#[cube]
fn subtract(from: &mut Tiles, part: &Tiles) {
    #[unroll]
    for i in 0..comptime!(from.m * from.n) {
        let own = from.pairs.index_mut(i);
        let other = part.pairs.index(i);
        own[0] -= other[0];
        own[1] -= other[1];
    }
}
