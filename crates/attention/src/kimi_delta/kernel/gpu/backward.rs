//! The backward pass: the gradient of the state against the order of the chunks, then what it is to the inputs, chunk by chunk at once.

use cubecl::prelude::*;

use super::{
    chunk::{load_column, scale_rows, store_part},
    form::Form,
    forward::{chunk_span, decay_state, negate_plus, read_state, write_state},
};
use crate::blocks::cube::{
    row_tiles::{Room, Span, load, load_packed, save, save_packed},
    tile_product::{COLUMNS, ROWS, Tiles, corner, has_part, multiply, own_column, own_row},
};

/// The gradients of the states after the chunks and of what the chunks write, a cube per head and slice of columns, from the last
/// chunk to the first: `dV' = scoresᵀ dO + K dS`, `dS ← total ⊙ dS + Qᵀ dO − Wᵀ dV'`.
///
/// `last`, `first`: `[B·W, K, V]`; `d_states`: `[chunks, K, V]` and `d_writes`: `[chunks, C, V]`, in padded widths.
#[cube(launch_unchecked, address_type = "dynamic")]
pub(crate) fn carry_back<F: Float, E: Float, N: Size>(
    q_start: &[Vector<E, N>],
    k_end: &[Vector<E, N>],
    w: &[Vector<E, N>],
    scores: &[Vector<E, N>],
    total: &[f32],
    d_o: &Tensor<Vector<F, N>>,
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
    let mut w_tile = Shared::<[E]>::new_aligned_slice(comptime!(c * packed), 16usize);
    let mut q_tile = Shared::<[E]>::new_aligned_slice(comptime!(c * packed), 16usize);
    let mut k_tile = Shared::<[E]>::new_aligned_slice(comptime!(c * packed), 16usize);
    let mut square = Shared::<[E]>::new_aligned_slice(comptime!(c * square_stride), 16usize);
    let mut o_tile = Shared::<[E]>::new_aligned_slice(comptime!(c * thin), 16usize);
    let mut writes = Shared::<[E]>::new_aligned_slice(comptime!(c * thin), 16usize);
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
    for turn in 0..chunks {
        let n = chunks - 1 - turn;
        let chunk = matrix * chunks + n;
        let span = Span { batch: matrix / heads, head: matrix % heads, start: n * c, tokens: clamp_max(tokens - n * c, c), column };
        sync_cube();
        load_packed::<E, N>(w, &mut w_tile, chunk * comptime!(c * form.d_k), form.d_k, comptime!(form.room(form.d_k)));
        load_packed::<E, N>(q_start, &mut q_tile, chunk * comptime!(c * form.d_k), form.d_k, comptime!(form.room(form.d_k)));
        load_packed::<E, N>(k_end, &mut k_tile, chunk * comptime!(c * form.d_k), form.d_k, comptime!(form.room(form.d_k)));
        load_packed::<E, N>(scores, &mut square, chunk * comptime!(c * c), c, comptime!(form.room(c)));
        load::<F, E, N>(d_o, &mut o_tile, &span, comptime!(form.room(form.slice)));
        if (UNIT_POS as usize) < form.d_k {
            decay[UNIT_POS as usize] = total[chunk * form.d_k + UNIT_POS as usize];
        }
        if has_part(of_state, form.planes) {
            store_part::<E>(&state, &mut state_tile, state_row, state_column, thin);
        }
        sync_cube();
        save_part::<E, N>(&state_tile, d_states, chunk * comptime!(form.d_k * form.d_v) + column, form.d_k, form);
        if has_part(of_rows, form.planes) {
            let mut part = Tiles::zeros(of_rows.tiles.0, of_rows.tiles.1);
            multiply::<E>(&mut part, &square[row..], &o_tile[col..], &decay, comptime!(form.left_turned(c, square_stride, thin)));
            multiply::<E>(&mut part, &k_tile[row * packed..], &state_tile[col..], &decay, comptime!(form.plain(form.d_k, packed, thin)));
            store_part::<E>(&part, &mut writes, row, col, thin);
        }
        if has_part(of_state, form.planes) {
            decay_state(&mut state, &decay, state_row);
            multiply::<E>(&mut state, &q_tile[state_row..], &o_tile[state_column..], &decay, comptime!(form.left_turned(c, packed, thin)));
        }
        sync_cube();
        save_part::<E, N>(&writes, d_writes, chunk * comptime!(c * form.d_v) + column, c, form);
        if has_part(of_state, form.planes) {
            let mut taken = Tiles::zeros(of_state.tiles.0, of_state.tiles.1);
            multiply::<E>(&mut taken, &w_tile[state_row..], &writes[state_column..], &decay, comptime!(form.left_turned(c, packed, thin)));
            subtract(&mut state, &taken);
        }
    }
    if has_part(of_state, form.planes) {
        write_state(&state, first, matrix * d_k * d_v, state_row, column + state_column, d_k, d_v);
    }
}

/// Writes a tile of `slice` columns into rows of padded values.
#[cube]
fn save_part<E: Float, N: Size>(from: &[E], to: &mut [Vector<E, N>], start: usize, #[comptime] rows: usize, #[comptime] form: Form) {
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

/// Gradients through the states, a cube per chunk and head, given those of the states after the chunks and of what they write. Results:
/// those of the scores (`[C, C]`, of scaled queries), of `β A_kk`, of the values and, through them, of β; and, before the decays, of the
/// scaled queries through the state, of `β k` and of `k` through what is written, `[C, K]` each; and of the whole decay, `[K]`.
#[cube(launch_unchecked, address_type = "dynamic")]
pub(crate) fn through_states<F: Float, E: Float, N: Size>(
    v: &Tensor<Vector<F, N>>,
    beta: &Tensor<f32>,
    d_o: &Tensor<Vector<F, N>>,
    w: &[Vector<E, N>],
    u: &[Vector<E, N>],
    inverse: &[Vector<E, N>],
    total: &[f32],
    states: &[f32],
    d_states: &[Vector<E, N>],
    d_writes: &[Vector<E, N>],
    d_scores: &mut [Vector<E, N>],
    d_corrections: &mut [Vector<E, N>],
    d_v: &mut Tensor<Vector<F, N>>,
    d_beta: &mut [f32],
    row_q: &mut [f32],
    row_k: &mut [f32],
    column_k: &mut [f32],
    d_total: &mut [f32],
    key_width: usize,
    #[comptime] form: Form,
    #[define(F, E)] _types: [ElemType; 2],
) {
    let (c, keys, values) = comptime!((form.chunk, form.stride(form.d_k), form.stride(form.d_v)));
    let square_stride = comptime!(form.stride(c));
    let mut state_tile = Shared::<[E]>::new_aligned_slice(comptime!(form.d_k * values), 16usize);
    let mut o_tile = Shared::<[E]>::new_aligned_slice(comptime!(c * values), 16usize);
    let mut x_tile = Shared::<[E]>::new_aligned_slice(comptime!(c * values), 16usize);
    let mut u_tile = Shared::<[E]>::new_aligned_slice(comptime!(c * values), 16usize);
    let mut y_tile = Shared::<[E]>::new_aligned_slice(comptime!(c * values), 16usize);
    let mut w_tile = Shared::<[E]>::new_aligned_slice(comptime!(c * keys), 16usize);
    let mut z_tile = Shared::<[E]>::new_aligned_slice(comptime!(c * keys), 16usize);
    let mut square = Shared::<[E]>::new_aligned_slice(comptime!(c * square_stride), 16usize);
    let mut strength = Shared::<[f32]>::new_slice(c);
    let mut partial = Shared::<[f32]>::new_slice(comptime!(4 * form.chunk.max(form.d_k)));

    let heads = v.shape(1);
    let value_width = v.shape(3);
    let span = chunk_span(heads, v.shape(2), form);
    let chunk = CUBE_POS_Y as usize * CUBE_COUNT_X as usize + CUBE_POS_X as usize;
    let of_keys = comptime!(form.share(c, form.d_k));
    let of_values = comptime!(form.share(c, form.d_v));
    let of_square = comptime!(form.share(c, c));
    let (k_row, k_column) = corner(of_keys);
    let (v_row, v_column) = corner(of_values);
    let (s_row, s_column) = corner(of_square);

    load::<F, E, N>(d_o, &mut o_tile, &span, comptime!(form.room(form.d_v)));
    load_packed::<E, N>(d_writes, &mut x_tile, chunk * comptime!(c * form.d_v), form.d_v, comptime!(form.room(form.d_v)));
    load_packed::<E, N>(u, &mut u_tile, chunk * comptime!(c * form.d_v), form.d_v, comptime!(form.room(form.d_v)));
    load_packed::<E, N>(w, &mut w_tile, chunk * comptime!(c * form.d_k), form.d_k, comptime!(form.room(form.d_k)));
    load_packed::<E, N>(inverse, &mut square, chunk * comptime!(c * c), c, comptime!(form.room(c)));
    load_column(beta, &mut strength, &span, form);
    load_state::<E>(states, &mut state_tile, chunk * key_width * value_width, key_width, value_width, form);
    sync_cube();

    // V' = U − W S, dW = −dV' Sᵀ, and dO Sᵀ.
    if has_part(of_values, form.planes) {
        let mut part = Tiles::zeros(of_values.tiles.0, of_values.tiles.1);
        multiply::<E>(
            &mut part,
            &w_tile[v_row * keys..],
            &state_tile[v_column..],
            &strength,
            comptime!(form.plain(form.d_k, keys, values)),
        );
        negate_plus::<E>(&mut part, &u_tile, v_row, v_column, values);
        store_part::<E>(&part, &mut y_tile, v_row, v_column, values);
    }
    if has_part(of_keys, form.planes) {
        let lie = comptime!(form.right_turned(form.d_v, values, values));
        let mut part = Tiles::zeros(of_keys.tiles.0, of_keys.tiles.1);
        multiply::<E>(&mut part, &x_tile[k_row * values..], &state_tile[k_column * values..], &strength, lie);
        part.scale(-1.0f32);
        store_part::<E>(&part, &mut z_tile, k_row, k_column, keys);
        let mut read = Tiles::zeros(of_keys.tiles.0, of_keys.tiles.1);
        multiply::<E>(&mut read, &o_tile[k_row * values..], &state_tile[k_column * values..], &strength, lie);
        write_rows(&read, row_q, chunk, k_row, k_column, form);
    }
    sync_cube();

    // dR = Tᵀ dV', dP = Tᵀ dW, and dO V'ᵀ; the gradient of the next state takes the place of the state.
    let mut d_r = Tiles::zeros(of_values.tiles.0, of_values.tiles.1);
    let mut d_p = Tiles::zeros(of_keys.tiles.0, of_keys.tiles.1);
    if has_part(of_values, form.planes) {
        multiply::<E>(&mut d_r, &square[v_row..], &x_tile[v_column..], &strength, comptime!(form.left_turned(c, square_stride, values)));
    }
    if has_part(of_keys, form.planes) {
        multiply::<E>(&mut d_p, &square[k_row..], &z_tile[k_column..], &strength, comptime!(form.left_turned(c, square_stride, keys)));
        write_rows(&d_p, row_k, chunk, k_row, k_column, form);
    }
    let mut d_square = Tiles::zeros(of_square.tiles.0, of_square.tiles.1);
    if has_part(of_square, form.planes) {
        let lie = comptime!(form.right_turned(form.d_v, values, values));
        multiply::<E>(&mut d_square, &o_tile[s_row * values..], &y_tile[s_column * values..], &strength, lie);
    }
    load_packed::<E, N>(
        d_states,
        &mut state_tile,
        chunk * comptime!(form.d_k * form.d_v),
        form.d_v,
        comptime!(Room { rows: form.d_k, ..form.room(form.d_v) }),
    );
    sync_cube();
    if has_part(of_values, form.planes) {
        store_part::<E>(&d_r, &mut x_tile, v_row, v_column, values);
    }
    if has_part(of_keys, form.planes) {
        store_part::<E>(&d_p, &mut z_tile, k_row, k_column, keys);
        let lie = comptime!(form.right_turned(form.d_v, values, values));
        let mut part = Tiles::zeros(of_keys.tiles.0, of_keys.tiles.1);
        multiply::<E>(&mut part, &y_tile[k_row * values..], &state_tile[k_column * values..], &strength, lie);
        write_rows(&part, column_k, chunk, k_row, k_column, form);
    }
    if has_part(of_square, form.planes) {
        store_lower::<E>(&d_square, &mut square, s_row, s_column, 1.0f32, 0usize, square_stride);
    }
    carried(&state_tile, states, total, &mut partial, d_total, chunk, key_width, value_width, form);
    sync_cube();
    save_packed::<E, N>(&square, d_scores, chunk, comptime!(form.room(c)));

    // dM = −(dR Uᵀ + dP Wᵀ) below the diagonal, dv = β dR, and what β has of it.
    let mut d_m = Tiles::zeros(of_square.tiles.0, of_square.tiles.1);
    if has_part(of_square, form.planes) {
        let by_values = comptime!(form.right_turned(form.d_v, values, values));
        let by_keys = comptime!(form.right_turned(form.d_k, keys, keys));
        multiply::<E>(&mut d_m, &x_tile[s_row * values..], &u_tile[s_column * values..], &strength, by_values);
        multiply::<E>(&mut d_m, &z_tile[s_row * keys..], &w_tile[s_column * keys..], &strength, by_keys);
    }
    // The values take the place of V', whose last reader is done.
    load::<F, E, N>(v, &mut y_tile, &span, comptime!(form.room(form.d_v)));
    sync_cube();
    if has_part(of_square, form.planes) {
        store_lower::<E>(&d_m, &mut square, s_row, s_column, -1.0f32, 1usize, square_stride);
    }
    dot_rows::<E>(&x_tile, &y_tile, &mut partial, d_beta, &span, v.shape(2), values, form);
    sync_cube();
    save_packed::<E, N>(&square, d_corrections, chunk, comptime!(form.room(c)));
    scale_rows::<E>(&mut x_tile, &strength, form.d_v, values, form);
    sync_cube();
    save::<E, F, N>(&x_tile, d_v, &span, comptime!(form.room(form.d_v)));
}

/// A state of f32 rounded into a tile, zeros past its widths.
#[cube]
fn load_state<E: Float>(from: &[f32], to: &mut [E], base: usize, d_k: usize, d_v: usize, #[comptime] form: Form) {
    let stride = comptime!(form.stride(form.d_v));
    #[unroll]
    for turn in 0..comptime!((form.d_k * form.d_v).div_ceil(form.units())) {
        let index = turn * form.units() + UNIT_POS as usize;
        if index < form.d_k * form.d_v {
            let (row, column) = (index / form.d_v, index % form.d_v);
            let mut value = 0.0f32;
            if row < d_k && column < d_v {
                value = from[base + row * d_v + column];
            }
            to[row * stride + column] = E::cast_from(value);
        }
    }
}

/// Writes a plane's part of `[C, K]`.
#[cube]
fn write_rows(part: &Tiles, to: &mut [f32], chunk: usize, row: usize, column: usize, #[comptime] form: Form) {
    #[unroll]
    for i in 0..comptime!(part.m) {
        #[unroll]
        for j in 0..comptime!(part.n) {
            let tile = part.pairs.index(comptime!(i * part.n + j));
            #[unroll]
            for half in 0..2usize {
                let at = (chunk * form.chunk + row + own_row() + ROWS * i + 8 * half) * form.d_k + column + own_column() + COLUMNS * j;
                to[at] = tile[half].extract(0usize);
                to[at + 1] = tile[half].extract(1usize);
            }
        }
    }
}

/// Stores what of a part is at least `below` under the diagonal, times `factor`, and zeros for the rest.
#[cube]
fn store_lower<E: Float>(
    part: &Tiles,
    to: &mut [E],
    row: usize,
    column: usize,
    factor: f32,
    #[comptime] below: usize,
    #[comptime] stride: usize,
) {
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
                    let value = select(x >= y + below, factor * tile[half].extract(next), 0.0f32);
                    to[x * stride + y] = E::cast_from(value);
                }
            }
        }
    }
}

/// `total ⊙ Σ_v dS S`, the gradient of the sums of log decays over the chunk through the carried state, four units to a channel.
#[cube]
fn carried<E: Float>(
    d_state: &[E],
    states: &[f32],
    total: &[f32],
    partial: &mut [f32],
    d_total: &mut [f32],
    chunk: usize,
    d_k: usize,
    d_v: usize,
    #[comptime] form: Form,
) {
    let stride = comptime!(form.stride(form.d_v));
    let unit = UNIT_POS as usize;
    #[unroll]
    for turn in 0..comptime!((4 * form.d_k).div_ceil(form.units())) {
        let index = turn * form.units() + unit;
        let (row, part) = (index / 4, index % 4);
        let mut sum = 0.0f32;
        if row < d_k {
            #[unroll]
            for i in 0..comptime!(form.d_v / 4) {
                let column = 4 * i + part;
                if column < d_v {
                    sum += f32::cast_from(d_state[row * stride + column]) * states[(chunk * d_k + row) * d_v + column];
                }
            }
        }
        if index < 4 * form.d_k {
            partial[index] = sum;
        }
    }
    sync_cube();
    if unit < form.d_k {
        let sum = partial[4 * unit] + partial[4 * unit + 1] + partial[4 * unit + 2] + partial[4 * unit + 3];
        d_total[chunk * form.d_k + unit] = sum * total[chunk * form.d_k + unit];
    }
}

/// `x_i · y_i` of each token, four units to a row.
#[cube]
fn dot_rows<E: Float>(
    x: &[E],
    y: &[E],
    partial: &mut [f32],
    to: &mut [f32],
    span: &Span,
    tokens: usize,
    #[comptime] stride: usize,
    #[comptime] form: Form,
) {
    let unit = UNIT_POS as usize;
    if unit < 4 * form.chunk {
        let (row, part) = (unit / 4, unit % 4);
        let mut sum = 0.0f32;
        for i in 0..comptime!(form.d_v / 4) {
            let at = row * stride + 4 * i + part;
            sum += f32::cast_from(x[at]) * f32::cast_from(y[at]);
        }
        partial[unit] = sum;
    }
    sync_cube();
    if unit < span.tokens {
        to[CUBE_POS_Y as usize * tokens + span.start + unit] =
            partial[4 * unit] + partial[4 * unit + 1] + partial[4 * unit + 2] + partial[4 * unit + 3];
    }
}
