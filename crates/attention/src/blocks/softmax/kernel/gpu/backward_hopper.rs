//! The backward pass for compute capability 9.0, as in [`backward`](super::backward), for 16-bit numbers and widths of 64 or 128: two
//! warpgroups have 64 rows each and share the tiles that go by.

use cubecl::prelude::*;

use crate::blocks::cube::{
    tiles::{column_of, exponential, row_of},
    warpgroup::{await_panels, describe, finish, gather, load_panels, round_sums, spread, start_panels, start_sums},
};

use super::{
    backward::{reference, store_rows, zeros},
    scores::{Form, Place, factor, score, tiles_of_keys},
};

/// Gradient of the queries: see [`queries`](super::backward::queries).
#[cube(launch_unchecked, address_type = "dynamic")]
pub(super) fn queries_hopper<E: Float, N: Size>(
    q: &Tensor<Vector<E, N>>,
    k: &Tensor<Vector<E, N>>,
    v: &Tensor<Vector<E, N>>,
    d_o: &Tensor<Vector<E, N>>,
    lse: &Tensor<f32>,
    delta: &Tensor<f32>,
    bias: &Tensor<E>,
    distances: &Tensor<E>,
    padding: &Tensor<i32>,
    scale: f32,
    unit: f32,
    d_q: &mut Tensor<Vector<E, Const<2>>>,
    out_scale: f32,
    #[comptime] form: Form,
    #[comptime] bf16: bool,
    #[define(E)] _dtype: ElemType,
) {
    let products = comptime!(form.products);
    let element = comptime!(if bf16 { "bf16" } else { "f16" });
    let lanes = N::value().comptime();
    let n_tiles = comptime!(form.n_tiles);
    let (key_width, value_width, units) = comptime!((form.key_width, form.value_width, form.units()));
    let q_tiles = comptime!(key_width * lanes / 8);
    let (rows, columns) = comptime!((form.rows(), form.columns()));
    let (k_size, v_size) = comptime!((columns * key_width, columns * value_width));
    let size!(P) = comptime!(2 * n_tiles);
    let size!(S) = comptime!(4 * n_tiles);
    let size!(O) = comptime!(4 * q_tiles);
    let mut q_tile = Shared::<[Vector<E, N>]>::new_aligned_slice(comptime!(rows * key_width), 1024usize);
    let mut d_o_tile = Shared::<[Vector<E, N>]>::new_aligned_slice(comptime!(rows * value_width), 1024usize);
    let mut k_pair = Shared::<[Vector<E, N>]>::new_aligned_slice(comptime!(2 * k_size), 1024usize);
    let mut v_pair = Shared::<[Vector<E, N>]>::new_aligned_slice(comptime!(2 * v_size), 1024usize);

    let (queries, keys) = (q.shape(2), k.shape(2));
    let batch = CUBE_POS_Z as usize;
    let head = CUBE_POS_Y as usize;
    let group = head / (q.shape(1) / k.shape(1));
    let block = queries.div_ceil(rows) - 1 - CUBE_POS_X as usize;
    let start = block * rows;
    let plane_row = UNIT_POS as usize / 32 * 16;
    // Of the warpgroup in the tile of the cube, in pieces of 16 bytes.
    let own = UNIT_POS as usize / 128 * 512;

    let q_start = (batch * q.stride(0) + head * q.stride(1) + start * q.stride(2)) / lanes;
    let d_o_start = (batch * d_o.stride(0) + head * d_o.stride(1) + start * d_o.stride(2)) / lanes;
    let k_start = (batch * k.stride(0) + group * k.stride(1)) / lanes;
    let v_start = (batch * v.stride(0) + group * v.stride(1)) / lanes;
    let (q_stride, d_o_stride) = (q.stride(2) / lanes, d_o.stride(2) / lanes);
    let (k_stride, v_stride) = (k.stride(2) / lanes, v.stride(2) / lanes);
    let line = (batch * q.shape(1) + head) * queries;

    let mut sums = zeros(comptime!(4 * q_tiles));
    let mut row_lse = Array::<f32>::new(2usize);
    let mut row_delta = Array::<f32>::new(2usize);
    #[unroll]
    for i in 0..2usize {
        let query = start + plane_row + row_of(comptime!(2 * i));
        row_lse[i] = reference(lse, line, query, queries, unit);
        row_delta[i] = delta[line + usize::min(query, queries - 1)];
    }

    let tiles = tiles_of_keys(start + rows, queries, keys, form);
    load_panels::<E, N>(q, q_start, q_stride, queries - start, &mut q_tile, 0usize, rows, key_width, units);
    load_panels::<E, N>(d_o, d_o_start, d_o_stride, queries - start, &mut d_o_tile, 0usize, rows, value_width, units);
    load_panels::<E, N>(k, k_start, k_stride, keys, &mut k_pair, 0usize, columns, key_width, units);
    load_panels::<E, N>(v, v_start, v_stride, keys, &mut v_pair, 0usize, columns, value_width, units);
    let q_panels = describe::<E, N>(&q_tile, own, 16usize);
    let d_o_panels = describe::<E, N>(&d_o_tile, own, 16usize);
    for tile in 0..tiles {
        let this = tile % 2;
        let next = 1 - this;
        await_panels();
        sync_cube();
        let scores = start_panels::<E, S>(
            q_panels,
            describe::<E, N>(&k_pair, this * k_size, 16usize),
            n_tiles,
            comptime!(key_width / 2),
            comptime!(rows * 128),
            element,
        );
        let d_weights = start_panels::<E, S>(
            d_o_panels,
            describe::<E, N>(&v_pair, this * v_size, 16usize),
            n_tiles,
            comptime!(value_width / 2),
            comptime!(rows * 128),
            element,
        );
        if tile + 1 < tiles {
            let first = (tile + 1) * columns;
            let (k_from, v_from) = (k_start + first * k_stride, v_start + first * v_stride);
            load_panels::<E, N>(k, k_from, k_stride, keys - first, &mut k_pair, next * k_size, columns, key_width, units);
            load_panels::<E, N>(v, v_from, v_stride, keys - first, &mut v_pair, next * v_size, columns, value_width, units);
        }
        finish(1usize);
        let mut weights = spread::<S>(scores);
        let place = Place { batch, head, first_query: start + plane_row, first_key: tile * columns, queries, keys };
        score::<E>(&mut weights, bias, distances, padding, scale, unit, place, form, false);
        #[unroll]
        for n in 0..n_tiles {
            #[unroll]
            for i in 0..4usize {
                let at = comptime!(4 * n + i);
                weights[at] = exponential(fma(weights[at], factor(scale, form), -row_lse[comptime!(i / 2)]), products);
            }
        }
        finish(0usize);
        let mut gradients = spread::<S>(d_weights);
        #[unroll]
        for n in 0..n_tiles {
            #[unroll]
            for i in 0..4usize {
                let at = comptime!(4 * n + i);
                gradients[at] = weights[at] * (gradients[at] - row_delta[comptime!(i / 2)]);
            }
        }
        let panels = describe::<E, N>(&k_pair, this * k_size, comptime!(columns * 128));
        let rounded = round_sums::<E, P>(&gradients, n_tiles);
        let after = start_sums::<E, P, O>(rounded, panels, gather::<O>(&sums), q_tiles, comptime!(n_tiles / 2), element);
        finish(0usize);
        sums = spread::<O>(after);
    }
    store_rows::<E>(&sums, d_q, batch, head, start + plane_row, queries, out_scale, 1usize, q_tiles);
}

/// Gradients of keys and values: see [`keys`](super::backward::keys).
#[cube(launch_unchecked, address_type = "dynamic")]
pub(super) fn keys_hopper<E: Float, N: Size>(
    q: &Tensor<Vector<E, N>>,
    k: &Tensor<Vector<E, N>>,
    v: &Tensor<Vector<E, N>>,
    d_o: &Tensor<Vector<E, N>>,
    lse: &Tensor<f32>,
    delta: &Tensor<f32>,
    bias: &Tensor<E>,
    distances: &Tensor<E>,
    padding: &Tensor<i32>,
    scale: f32,
    unit: f32,
    d_k: &mut Tensor<Vector<E, Const<2>>>,
    d_v: &mut Tensor<Vector<E, Const<2>>>,
    out_scale: f32,
    #[comptime] form: Form,
    #[comptime] bf16: bool,
    #[define(E)] _dtype: ElemType,
) {
    let products = comptime!(form.products);
    let element = comptime!(if bf16 { "bf16" } else { "f16" });
    let lanes = N::value().comptime();
    let n_tiles = comptime!(form.n_tiles);
    let (key_width, value_width, units) = comptime!((form.key_width, form.value_width, form.units()));
    let (k_tiles, v_tiles) = comptime!((key_width * lanes / 8, value_width * lanes / 8));
    let (rows, columns) = comptime!((form.rows(), form.columns()));
    let (q_size, d_o_size) = comptime!((columns * key_width, columns * value_width));
    let size!(P) = comptime!(2 * n_tiles);
    let size!(S) = comptime!(4 * n_tiles);
    let size!(K) = comptime!(4 * k_tiles);
    let size!(V) = comptime!(4 * v_tiles);
    let mut k_tile = Shared::<[Vector<E, N>]>::new_aligned_slice(comptime!(rows * key_width), 1024usize);
    let mut v_tile = Shared::<[Vector<E, N>]>::new_aligned_slice(comptime!(rows * value_width), 1024usize);
    let mut q_pair = Shared::<[Vector<E, N>]>::new_aligned_slice(comptime!(2 * q_size), 1024usize);
    let mut d_o_pair = Shared::<[Vector<E, N>]>::new_aligned_slice(comptime!(2 * d_o_size), 1024usize);
    let mut tile_lse = Shared::<[f32]>::new_slice(comptime!(2 * columns));
    let mut tile_delta = Shared::<[f32]>::new_slice(comptime!(2 * columns));

    let (queries, keys) = (q.shape(2), k.shape(2));
    let batch = CUBE_POS_Z as usize;
    let group = CUBE_POS_Y as usize;
    let heads = q.shape(1) / k.shape(1);
    let start = CUBE_POS_X as usize * rows;
    let unit_number = UNIT_POS as usize;
    let plane_row = unit_number / 32 * 16;
    let own = unit_number / 128 * 512;

    let k_start = (batch * k.stride(0) + group * k.stride(1) + start * k.stride(2)) / lanes;
    let v_start = (batch * v.stride(0) + group * v.stride(1) + start * v.stride(2)) / lanes;
    let (q_stride, d_o_stride) = (q.stride(2) / lanes, d_o.stride(2) / lanes);

    let mut k_sums = zeros(comptime!(4 * k_tiles));
    let mut v_sums = zeros(comptime!(4 * v_tiles));
    load_panels::<E, N>(k, k_start, k.stride(2) / lanes, keys - start, &mut k_tile, 0usize, rows, key_width, units);
    load_panels::<E, N>(v, v_start, v.stride(2) / lanes, keys - start, &mut v_tile, 0usize, rows, value_width, units);
    let k_panels = describe::<E, N>(&k_tile, own, 16usize);
    let v_panels = describe::<E, N>(&v_tile, own, 16usize);

    // The first tile with a query that sees a key of the block.
    let mut first = 0usize.runtime();
    if comptime!(form.causal) && start + queries > keys {
        first = (start + queries - keys) / columns;
    }
    let tiles = queries.div_ceil(columns);
    let span = if tiles > first { tiles - first } else { 0usize.runtime() };
    let turns = heads * span;
    // Turn −1 only loads.
    for step in 0..turns + 1 {
        let turn = step - usize::min(step, 1usize);
        let this = turn % 2;
        if step > 0 {
            await_panels();
            sync_cube();
        }
        if step < turns {
            let side = step % 2;
            let head = group * heads + step / span;
            let query = (first + step % span) * columns;
            let q_from = (batch * q.stride(0) + head * q.stride(1) + query * q.stride(2)) / lanes;
            let d_o_from = (batch * d_o.stride(0) + head * d_o.stride(1) + query * d_o.stride(2)) / lanes;
            load_panels::<E, N>(q, q_from, q_stride, queries - query, &mut q_pair, side * q_size, columns, key_width, units);
            load_panels::<E, N>(d_o, d_o_from, d_o_stride, queries - query, &mut d_o_pair, side * d_o_size, columns, value_width, units);
            if unit_number < columns {
                let line = (batch * q.shape(1) + head) * queries;
                tile_lse[side * columns + unit_number] = reference(lse, line, query + unit_number, queries, unit);
                tile_delta[side * columns + unit_number] = delta[line + usize::min(query + unit_number, queries - 1)];
            }
        }
        if step > 0 {
            let head = group * heads + turn / span;
            let query = (first + turn % span) * columns;
            let scores = start_panels::<E, S>(
                k_panels,
                describe::<E, N>(&q_pair, this * q_size, 16usize),
                n_tiles,
                comptime!(key_width / 2),
                comptime!(rows * 128),
                element,
            );
            let d_weights = start_panels::<E, S>(
                v_panels,
                describe::<E, N>(&d_o_pair, this * d_o_size, 16usize),
                n_tiles,
                comptime!(value_width / 2),
                comptime!(rows * 128),
                element,
            );
            finish(1usize);
            let mut weights = spread::<S>(scores);
            let place = Place { batch, head, first_query: query, first_key: start + plane_row, queries, keys };
            score::<E>(&mut weights, bias, distances, padding, scale, unit, place, form, true);
            #[unroll]
            for n in 0..n_tiles {
                #[unroll]
                for j in 0..2usize {
                    let column_lse = tile_lse[this * columns + comptime!(8 * n) + column_of(j)];
                    #[unroll]
                    for half in 0..2usize {
                        let at = comptime!(4 * n + 2 * half + j);
                        weights[at] = exponential(fma(weights[at], factor(scale, form), -column_lse), products);
                    }
                }
            }
            let panels = describe::<E, N>(&d_o_pair, this * d_o_size, comptime!(columns * 128));
            let rounded = round_sums::<E, P>(&weights, n_tiles);
            let v_after = start_sums::<E, P, V>(rounded, panels, gather::<V>(&v_sums), v_tiles, comptime!(n_tiles / 2), element);
            finish(1usize);
            let mut gradients = spread::<S>(d_weights);
            #[unroll]
            for n in 0..n_tiles {
                #[unroll]
                for j in 0..2usize {
                    let column_delta = tile_delta[this * columns + comptime!(8 * n) + column_of(j)];
                    #[unroll]
                    for half in 0..2usize {
                        let at = comptime!(4 * n + 2 * half + j);
                        gradients[at] = weights[at] * (gradients[at] - column_delta);
                    }
                }
            }
            let panels = describe::<E, N>(&q_pair, this * q_size, comptime!(columns * 128));
            let rounded = round_sums::<E, P>(&gradients, n_tiles);
            let k_after = start_sums::<E, P, K>(rounded, panels, gather::<K>(&k_sums), k_tiles, comptime!(n_tiles / 2), element);
            finish(0usize);
            v_sums = spread::<V>(v_after);
            k_sums = spread::<K>(k_after);
        }
    }
    store_rows::<E>(&k_sums, d_k, batch, group, start + plane_row, keys, out_scale, 1usize, k_tiles);
    store_rows::<E>(&v_sums, d_v, batch, group, start + plane_row, keys, 1.0f32, 1usize, v_tiles);
}
