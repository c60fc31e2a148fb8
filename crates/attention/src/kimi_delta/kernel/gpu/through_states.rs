//! The backward pass chunk by chunk: from the gradients of states and writes to those of what the chunks are made of.

use cubecl::prelude::*;

use super::{
    carry::negate_plus,
    chunk::{load_column, scale_rows, store_part},
    form::Form,
    prepare::chunk_span,
};
use crate::blocks::cube::{
    row_tiles::{Room, Span, await_loads, fetch, fetch_packed, save, save_packed},
    tile_product::{COLUMNS, ROWS, Tiles, corner, has_part, multiply, own_column, own_row},
};

/// Gradients through the states, a cube per chunk and head, given those of the states after the chunks and of what they write. Results:
/// those of the scores (`[C, C]`, of scaled queries), of `β A_kk`, of the values and, through them, of β; and, before the decays, of the
/// scaled queries through the state, of `β k` and of `k` through what is written, `[C, K]` each; and of the whole decay, `[K]`.
#[cube(launch_unchecked, address_type = "dynamic")]
pub(crate) fn through_states<F: Float, E: Float, N: Size, M: Size>(
    v: &Tensor<Vector<F, M>>,
    beta: &Tensor<f32>,
    d_o: &Tensor<Vector<F, M>>,
    w: &[Vector<E, N>],
    u: &[Vector<E, N>],
    inverse: &[Vector<E, N>],
    total: &[f32],
    states: &[Vector<E, N>],
    d_states: &[Vector<E, N>],
    d_writes: &[Vector<E, N>],
    d_scores: &mut [Vector<E, N>],
    d_corrections: &mut [Vector<E, N>],
    d_v: &mut Tensor<Vector<F, M>>,
    d_beta: &mut [f32],
    row_q: &mut [f32],
    row_k: &mut [f32],
    column_k: &mut [f32],
    d_total: &mut [f32],
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
    let span = chunk_span(heads, v.shape(2), form);
    let chunk = CUBE_POS_Y as usize * CUBE_COUNT_X as usize + CUBE_POS_X as usize;
    let of_keys = comptime!(form.share(c, form.d_k));
    let of_values = comptime!(form.share(c, form.d_v));
    let of_square = comptime!(form.share(c, c));
    let (k_row, k_column) = corner(of_keys);
    let (v_row, v_column) = corner(of_values);
    let (s_row, s_column) = corner(of_square);

    fetch::<F, E, M>(d_o, &mut o_tile, &span, comptime!(form.room(form.d_v)), form.tensor_cores);
    fetch_packed::<E, N>(
        d_writes,
        &mut x_tile,
        chunk * comptime!(c * form.d_v),
        form.d_v,
        comptime!(form.room(form.d_v)),
        form.tensor_cores,
    );
    fetch_packed::<E, N>(u, &mut u_tile, chunk * comptime!(c * form.d_v), form.d_v, comptime!(form.room(form.d_v)), form.tensor_cores);
    fetch_packed::<E, N>(w, &mut w_tile, chunk * comptime!(c * form.d_k), form.d_k, comptime!(form.room(form.d_k)), form.tensor_cores);
    fetch_packed::<E, N>(inverse, &mut square, chunk * comptime!(c * c), c, comptime!(form.room(c)), form.tensor_cores);
    load_column(beta, &mut strength, &span, form);
    let state_room = comptime!(Room { rows: form.d_k, ..form.room(form.d_v) });
    fetch_packed::<E, N>(states, &mut state_tile, chunk * comptime!(form.d_k * form.d_v), form.d_v, state_room, form.tensor_cores);
    await_fetched(form);
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
    fetch_packed::<E, N>(d_states, &mut state_tile, chunk * comptime!(form.d_k * form.d_v), form.d_v, state_room, form.tensor_cores);
    await_fetched(form);
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
    carried::<E, N>(&state_tile, states, total, &mut partial, d_total, chunk, form);
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
    fetch::<F, E, M>(v, &mut y_tile, &span, comptime!(form.room(form.d_v)), form.tensor_cores);
    await_fetched(form);
    sync_cube();
    if has_part(of_square, form.planes) {
        store_lower::<E>(&d_m, &mut square, s_row, s_column, -1.0f32, 1usize, square_stride);
    }
    dot_rows::<E>(&x_tile, &y_tile, &mut partial, d_beta, &span, v.shape(2), values, form);
    sync_cube();
    save_packed::<E, N>(&square, d_corrections, chunk, comptime!(form.room(c)));
    scale_rows::<E>(&mut x_tile, &strength, form.d_v, values, form);
    sync_cube();
    save::<E, F, M>(&x_tile, d_v, &span, comptime!(form.room(form.d_v)));
}

#[cube]
fn await_fetched(#[comptime] form: Form) {
    if comptime!(form.tensor_cores) {
        await_loads();
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

/// `total ⊙ Σ_v dS S`, the gradient of the sums of log decays over the chunk through the carried state, two units to a channel.
#[cube]
fn carried<E: Float, N: Size>(
    d_state: &[E],
    states: &[Vector<E, N>],
    total: &[f32],
    partial: &mut [f32],
    d_total: &mut [f32],
    chunk: usize,
    #[comptime] form: Form,
) {
    let size = N::value();
    let (stride, per_row) = comptime!((form.stride(form.d_v) / size, form.d_v / size));
    let unit = UNIT_POS as usize;
    let (row, part) = (unit / 2, unit % 2);
    if row < form.d_k {
        let d_state = d_state.as_vectorized().with_vector_size::<N>();
        let mut sum = 0.0f32;
        #[unroll]
        for i in 0..comptime!(per_row / 2) {
            let column = 2 * i + part;
            let products = Vector::<f32, N>::cast_from(d_state[row * stride + column])
                * Vector::<f32, N>::cast_from(states[(chunk * form.d_k + row) * per_row + column]);
            #[unroll]
            for lane in 0..size {
                sum += products.extract(lane);
            }
        }
        partial[unit] = sum;
    }
    sync_cube();
    if unit < form.d_k {
        d_total[chunk * form.d_k + unit] = (partial[2 * unit] + partial[2 * unit + 1]) * total[chunk * form.d_k + unit];
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
