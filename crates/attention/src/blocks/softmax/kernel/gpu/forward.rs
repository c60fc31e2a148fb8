//! The forward pass: a cube has a block of queries and goes over the keys that they see, with running maxima and sums.

use cubecl::prelude::*;

use crate::blocks::cube::tiles::{await_tiles, column_of, exponential, load_tile, multiply_rows, multiply_sums, row_of};

use super::scores::{Form, Place, factor, score, tiles_of_keys};

/// Output `[B, H, T, V]` and log-sum-exp `[B, H, T]`; a cube for each block of queries, head, sequence.
#[cube(launch_unchecked, address_type = "dynamic")]
pub(super) fn forward<E: Float, N: Size>(
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
    #[define(E)] _dtype: ElemType,
) {
    let products = comptime!(form.products);
    let lanes = N::value().comptime();
    let (m_tiles, n_tiles) = comptime!((form.m_tiles, form.n_tiles));
    let (key_width, value_width, units) = comptime!((form.key_width, form.value_width, form.units()));
    let o_tiles = comptime!(value_width * lanes / 8);
    let (rows, columns) = comptime!((form.rows(), form.columns()));
    let mut q_tile = Shared::<[Vector<E, N>]>::new_aligned_slice(comptime!(rows * (key_width + 1)), 16usize);
    let mut k_tile = Shared::<[Vector<E, N>]>::new_aligned_slice(comptime!(columns * (key_width + 1)), 16usize);
    let mut v_tile = Shared::<[Vector<E, N>]>::new_aligned_slice(comptime!(columns * (value_width + 1)), 16usize);
    let mut exchange = Shared::<[f32]>::new_slice(comptime!(if products.matrix_units { 1 } else { rows * columns }));

    let (queries, keys) = (q.shape(2), k.shape(2));
    let batch = CUBE_POS_Z as usize;
    let head = CUBE_POS_Y as usize;
    let group = head / (q.shape(1) / k.shape(1));
    // Blocks of late queries see the most keys if causal: they go first.
    let block = queries.div_ceil(rows) - 1 - CUBE_POS_X as usize;
    let start = block * rows;
    let plane = UNIT_POS as usize / 32;
    let plane_row = plane * comptime!(16 * m_tiles);

    let q_start = (batch * q.stride(0) + head * q.stride(1) + start * q.stride(2)) / lanes;
    let k_start = (batch * k.stride(0) + group * k.stride(1)) / lanes;
    let v_start = (batch * v.stride(0) + group * v.stride(1)) / lanes;
    let (q_stride, k_stride, v_stride) = (q.stride(2) / lanes, k.stride(2) / lanes, v.stride(2) / lanes);

    let mut sums = Array::<f32>::new(comptime!(4 * m_tiles * o_tiles));
    #[unroll]
    for i in 0..comptime!(4 * m_tiles * o_tiles) {
        sums[i] = 0.0f32.runtime();
    }
    // Of each row of the unit: the highest score and the sum of exponentials, of the unit's own columns until the end.
    let mut highest = Array::<f32>::new(comptime!(2 * m_tiles));
    let mut total = Array::<f32>::new(comptime!(2 * m_tiles));
    #[unroll]
    for i in 0..comptime!(2 * m_tiles) {
        highest[i] = f32::new(f32::NEG_INFINITY);
        total[i] = 0.0f32.runtime();
    }

    let tiles = tiles_of_keys(start + rows, queries, keys, form);
    load_tile::<E, N>(q, q_start, q_stride, queries - start, &mut q_tile, rows, key_width, units, products);
    if tiles > 0 {
        load_tile::<E, N>(k, k_start, k_stride, keys, &mut k_tile, columns, key_width, units, products);
    }
    for tile in 0..tiles {
        let first_key = tile * columns;
        await_tiles(products);
        sync_cube();
        // The values travel while keys are multiplied, the next keys while values are.
        load_tile::<E, N>(
            v,
            v_start + first_key * v_stride,
            v_stride,
            keys - first_key,
            &mut v_tile,
            columns,
            value_width,
            units,
            products,
        );
        let mut weights = Array::<f32>::new(comptime!(4 * m_tiles * n_tiles));
        #[unroll]
        for i in 0..comptime!(4 * m_tiles * n_tiles) {
            weights[i] = 0.0f32.runtime();
        }
        multiply_rows::<E, N>(&q_tile, plane_row, &k_tile, &mut weights, m_tiles, n_tiles, key_width, products);
        await_tiles(products);
        sync_cube();
        let next = first_key + columns;
        if tile + 1 < tiles {
            load_tile::<E, N>(k, k_start + next * k_stride, k_stride, keys - next, &mut k_tile, columns, key_width, units, products);
        }
        let place = Place { batch, head, first_query: start + plane_row, first_key, queries, keys };
        score::<E>(&mut weights, bias, distances, padding, scale, unit, place, form, false);
        let scales = weigh(&mut weights, &mut highest, &mut total, factor(scale, form), form);
        rescale(&mut sums, &scales, m_tiles, o_tiles);
        multiply_sums::<E, N>(&weights, &v_tile, &mut sums, &mut exchange, plane_row * columns, m_tiles, n_tiles, value_width, products);
    }

    store::<E>(&sums, &highest, &total, o, lse, batch, head, start + plane_row, queries, factor(scale, form) / unit, m_tiles, o_tiles);
}

/// Divides the sums of a plane's rows by the sums of weights and writes them, with the log-sum-exps. `start` is the plane's first row;
/// `natural` turns the unit of `highest` into that of natural exponents.
#[cube]
pub(super) fn store<E: Float>(
    sums: &Array<f32>,
    highest: &Array<f32>,
    total: &Array<f32>,
    o: &mut Tensor<Vector<E, Const<2>>>,
    lse: &mut Tensor<f32>,
    batch: usize,
    head: usize,
    start: usize,
    end: usize,
    natural: f32,
    #[comptime] m_tiles: usize,
    #[comptime] o_tiles: usize,
) {
    #[unroll]
    for m in 0..m_tiles {
        #[unroll]
        for half in 0..2usize {
            let row = comptime!(2 * m + half);
            let mut all = total[row];
            all += plane_shuffle_xor(all, 1u32);
            all += plane_shuffle_xor(all, 2u32);
            let share = select(all > 0.0, 1.0 / all, 0.0f32);
            let query = start + comptime!(16 * m) + row_of(comptime!(2 * half));
            if query < end {
                let place = batch * o.stride(0) + head * o.stride(1) + query * o.stride(2);
                #[unroll]
                for n in 0..o_tiles {
                    let at = comptime!(4 * (m * o_tiles + n) + 2 * half);
                    let mut two = Vector::<E, Const<2>>::empty();
                    two.insert(0usize, E::cast_from(sums[at] * share));
                    two.insert(1usize, E::cast_from(sums[comptime!(at + 1)] * share));
                    o[(place + comptime!(8 * n) + column_of(0usize)) / 2] = two;
                }
                if UNIT_POS_PLANE % 4 == 0 {
                    // ln 0 is −∞: that of a query that sees no key.
                    lse[(batch * o.shape(1) + head) * o.shape(2) + query] =
                        select(all > 0.0, highest[row] * natural + all.ln(), f32::new(f32::NEG_INFINITY));
                }
            }
        }
    }
}

/// Scores become weights relative to the new maxima. What was summed relative to the old ones is to be multiplied by the result, a number
/// for each row of the unit.
#[cube]
pub(super) fn weigh(
    weights: &mut Array<f32>,
    highest: &mut Array<f32>,
    total: &mut Array<f32>,
    factor: f32,
    #[comptime] form: Form,
) -> Array<f32> {
    let products = comptime!(form.products);
    let mut scales = Array::<f32>::new(comptime!(2 * form.m_tiles));
    #[unroll]
    for m in 0..form.m_tiles {
        #[unroll]
        for half in 0..2usize {
            let row = comptime!(2 * m + half);
            let mut top = highest[row];
            #[unroll]
            for n in 0..form.n_tiles {
                let at = comptime!(4 * (m * form.n_tiles + n) + 2 * half);
                top = f32::max(top, f32::max(weights[at], weights[comptime!(at + 1)]));
            }
            top = f32::max(top, plane_shuffle_xor(top, 1u32));
            top = f32::max(top, plane_shuffle_xor(top, 2u32));
            // A row whose keys are all hidden so far: finite, so that −∞ minus it is −∞.
            let base = select(top == f32::new(f32::NEG_INFINITY), 0.0f32, top) * -factor;
            let scale = exponential(fma(highest[row], factor, base), products);
            highest[row] = top;
            scales[row] = scale;
            let mut sum = total[row] * scale;
            #[unroll]
            for n in 0..form.n_tiles {
                #[unroll]
                for j in 0..2usize {
                    let at = comptime!(4 * (m * form.n_tiles + n) + 2 * half + j);
                    let weight = exponential(fma(weights[at], factor, base), products);
                    weights[at] = weight;
                    sum += weight;
                }
            }
            total[row] = sum;
        }
    }
    scales
}

/// Multiplies each row of the unit by its number.
#[cube]
pub(super) fn rescale(sums: &mut Array<f32>, scales: &Array<f32>, #[comptime] m_tiles: usize, #[comptime] o_tiles: usize) {
    #[unroll]
    for m in 0..m_tiles {
        #[unroll]
        for n in 0..o_tiles {
            #[unroll]
            for i in 0..4usize {
                sums[comptime!(4 * (m * o_tiles + n) + i)] *= scales[comptime!(2 * m + i / 2)];
            }
        }
    }
}
