//! The forward pass for compute capability 9.0: two warpgroups have 64 queries each and share keys and values. The scores of the next keys
//! are multiplied while those at hand become weights.

use cubecl::{
    cmma::{MatrixIdent, MmaDefinition},
    prelude::*,
};

use crate::blocks::cube::{
    tiles::{load_tile, pitch},
    warpgroup::{await_panels, describe, finish, gather, load_panels, round_sums, spread, start_rows, start_sums},
};

use super::{
    forward::{rescale, store, weigh},
    scores::{Form, Place, factor, score, tiles_of_keys},
};

/// As [`forward`](super::forward::forward), for 16-bit numbers and widths of 64 or 128.
#[cube(launch_unchecked, address_type = "dynamic")]
pub(super) fn forward_hopper<E: Float, N: Size>(
    q: &Tensor<Vector<E, N>>,
    k: &Tensor<Vector<E, N>>,
    v: &Tensor<Vector<E, N>>,
    bias: &Tensor<E>,
    distances: &Tensor<E>,
    padding: &Tensor<i32>,
    scale: f32,
    unit: f32,
    o: &mut Tensor<Vector<E, Const<2>>>,
    lse: &mut Tensor<f32>,
    #[comptime] form: Form,
    #[comptime] bf16: bool,
    #[define(E)] _dtype: ElemType,
) {
    let lanes = N::value().comptime();
    let n_tiles = comptime!(form.n_tiles);
    let element = comptime!(if bf16 { "bf16" } else { "f16" });
    let (key_width, value_width, units) = comptime!((form.key_width, form.value_width, form.units()));
    let o_tiles = comptime!(value_width * lanes / 8);
    let (rows, columns) = comptime!((form.rows(), form.columns()));
    let (k_size, v_size) = comptime!((columns * key_width, columns * value_width));
    let size!(Q) = comptime!(2 * key_width);
    let size!(P) = comptime!(2 * n_tiles);
    let size!(S) = comptime!(4 * n_tiles);
    let size!(O) = comptime!(4 * o_tiles);
    let mut k_pair = Shared::<[Vector<E, N>]>::new_aligned_slice(comptime!(2 * k_size), 1024usize);
    let mut v_pair = Shared::<[Vector<E, N>]>::new_aligned_slice(comptime!(2 * v_size), 1024usize);
    let mut q_tile = Shared::<[Vector<E, N>]>::new_aligned_slice(comptime!(rows * pitch(key_width)), 16usize);

    let (queries, keys) = (q.shape(2), k.shape(2));
    let batch = CUBE_POS_Z as usize;
    let head = CUBE_POS_Y as usize;
    let group = head / (q.shape(1) / k.shape(1));
    let block = queries.div_ceil(rows) - 1 - CUBE_POS_X as usize;
    let start = block * rows;
    let plane_row = UNIT_POS as usize / 32 * 16;

    let q_start = (batch * q.stride(0) + head * q.stride(1) + start * q.stride(2)) / lanes;
    let k_start = (batch * k.stride(0) + group * k.stride(1)) / lanes;
    let v_start = (batch * v.stride(0) + group * v.stride(1)) / lanes;
    let (q_stride, k_stride, v_stride) = (q.stride(2) / lanes, k.stride(2) / lanes, v.stride(2) / lanes);

    let mut sums = Array::<f32>::new(comptime!(4 * o_tiles));
    #[unroll]
    for i in 0..comptime!(4 * o_tiles) {
        sums[i] = 0.0f32.runtime();
    }
    let mut highest = Array::<f32>::new(2usize);
    let mut total = Array::<f32>::new(2usize);
    #[unroll]
    for i in 0..2usize {
        highest[i] = f32::new(f32::NEG_INFINITY);
        total[i] = 0.0f32.runtime();
    }

    let tiles = tiles_of_keys(start + rows, queries, keys, form);
    load_tile::<E, N>(q, q_start, q_stride, queries - start, &mut q_tile, rows, key_width, units, form.products);
    load_panels::<E, N>(k, k_start, k_stride, keys, &mut k_pair, 0usize, columns, key_width, units);
    await_panels();
    sync_cube();
    let mma = MmaDefinition::<E, E, f32>::new(16usize, 8usize, 16usize);
    let mut fragments = Vector::<u32, Q>::empty();
    #[unroll]
    for step in 0..comptime!(key_width / 2) {
        let lane = UNIT_POS_PLANE as usize;
        let at = (plane_row + lane % 16) * comptime!(pitch(key_width)) + comptime!(2 * step) + lane / 16;
        let fragment = mma.load_matrix::<_, Const<2>>(&q_tile[at..at + 1], MatrixIdent::A, 4usize, false);
        #[unroll]
        for part in 0..4usize {
            fragments.insert(comptime!(4 * step + part), u32::reinterpret(fragment[part]));
        }
    }
    let steps = comptime!(key_width / 2);
    let mut next_scores = start_rows::<E, Q, S>(fragments, describe::<E, N>(&k_pair, 0usize, 16usize), n_tiles, steps, element);
    load_panels::<E, N>(v, v_start, v_stride, keys, &mut v_pair, 0usize, columns, value_width, units);
    if tiles > 1 {
        let (from, left) = (k_start + columns * k_stride, keys - columns);
        load_panels::<E, N>(k, from, k_stride, left, &mut k_pair, k_size, columns, key_width, units);
    }
    finish(0usize);

    for tile in 0..tiles {
        let this = tile % 2;
        let next = 1 - this;
        let mut weights = spread::<S>(next_scores);
        await_panels();
        sync_cube();
        // Of keys that do not exist in the last turn, and then not read: a branch around registers in flight would wait for them.
        next_scores = start_rows::<E, Q, S>(fragments, describe::<E, N>(&k_pair, next * k_size, 16usize), n_tiles, steps, element);
        if tile + 1 < tiles {
            let first = (tile + 1) * columns;
            let from = v_start + first * v_stride;
            load_panels::<E, N>(v, from, v_stride, keys - first, &mut v_pair, next * v_size, columns, value_width, units);
        }
        if tile + 2 < tiles {
            let first = (tile + 2) * columns;
            let from = k_start + first * k_stride;
            load_panels::<E, N>(k, from, k_stride, keys - first, &mut k_pair, this * k_size, columns, key_width, units);
        }
        let place = Place { batch, head, first_query: start + plane_row, first_key: tile * columns, queries, keys };
        score::<E>(&mut weights, bias, distances, padding, scale, unit, place, form, false);
        let scales = weigh(&mut weights, &mut highest, &mut total, factor(scale, form), form);
        rescale(&mut sums, &scales, 1usize, o_tiles);
        let panels = describe::<E, N>(&v_pair, this * v_size, comptime!(columns * 128));
        let rounded = round_sums::<E, P>(&weights, n_tiles);
        let after = start_sums::<E, P, O>(rounded, panels, gather::<O>(&sums), o_tiles, comptime!(n_tiles / 2), element);
        finish(0usize);
        sums = spread::<O>(after);
    }
    store::<E>(&sums, &highest, &total, o, lse, batch, head, start + plane_row, queries, factor(scale, form) / unit, 1usize, o_tiles);
}
