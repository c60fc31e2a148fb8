//! The backward pass, without atomics: one kernel has a block of queries and goes over keys, one has a block of keys and goes over
//! queries, one sums the gradient of the bias. Each computes the weights again from scores and log-sum-exp.
//!
//! With weights `p = exp(x − lse)` and `δ_t = Σ_v o_tv do_tv − dlse_t`: `dx_ts = p_ts (do_t · v_s − δ_t)`, `dq = scale · dx k`,
//! `dk = scale · dxᵀ q`, `dv = pᵀ do`, the bias's is `dx`.

use cubecl::prelude::*;

use crate::blocks::cube::tiles::{await_tiles, column_of, exponential, load_tile, multiply_rows, multiply_sums, row_of};

use super::scores::{Form, Place, factor, score, tiles_of_keys};

/// δ `[B, H, T]`; a plane for each row of outputs and their cotangents, which lie one after another.
#[cube(launch_unchecked, address_type = "dynamic")]
pub(super) fn delta<E: Float>(
    o: &Tensor<Vector<E, Const<2>>>,
    d_o: &Tensor<Vector<E, Const<2>>>,
    d_lse: &Tensor<f32>,
    delta: &mut Tensor<f32>,
    width: usize,
    #[comptime] has_d_lse: bool,
    #[define(E)] _dtype: ElemType,
) {
    let row = ABSOLUTE_POS / 32;
    if row < delta.len() {
        let mut sum = 0.0f32.runtime();
        let unit = UNIT_POS_PLANE as usize;
        let (query, line) = (row % o.shape(2), row / o.shape(2));
        let (head, batch) = (line % o.shape(1), line / o.shape(1));
        let o_row = (batch * o.stride(0) + head * o.stride(1) + query * o.stride(2)) / 2;
        let d_o_row = (batch * d_o.stride(0) + head * d_o.stride(1) + query * d_o.stride(2)) / 2;
        let pairs = width / 2;
        for step in 0..pairs.div_ceil(32) {
            let pair = step * 32 + unit;
            if pair < pairs {
                let products =
                    Vector::<f32, Const<2>>::cast_from(o[o_row + pair]) * Vector::<f32, Const<2>>::cast_from(d_o[d_o_row + pair]);
                sum += products.extract(0usize) + products.extract(1usize);
            }
        }
        let sum = plane_sum(sum);
        if unit == 0 {
            if comptime!(has_d_lse) {
                delta[row] = sum - d_lse[row];
            } else {
                delta[row] = sum;
            }
        }
    }
}

/// Gradient of the queries, each row of `d_q` after the other; a cube for each block of queries, head, sequence.
#[cube(launch_unchecked, address_type = "dynamic")]
pub(super) fn queries<E: Float, N: Size>(
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
    #[define(E)] _dtype: ElemType,
) {
    let products = comptime!(form.products);
    let lanes = N::value().comptime();
    let (m_tiles, n_tiles) = comptime!((form.m_tiles, form.n_tiles));
    let (key_width, value_width, units) = comptime!((form.key_width, form.value_width, form.units()));
    let q_tiles = comptime!(key_width * lanes / 8);
    let (rows, columns) = comptime!((form.rows(), form.columns()));
    let mut q_tile = Shared::<[Vector<E, N>]>::new_aligned_slice(comptime!(rows * (key_width + 1)), 16usize);
    let mut d_o_tile = Shared::<[Vector<E, N>]>::new_aligned_slice(comptime!(rows * (value_width + 1)), 16usize);
    let mut k_tile = Shared::<[Vector<E, N>]>::new_aligned_slice(comptime!(columns * (key_width + 1)), 16usize);
    let mut v_tile = Shared::<[Vector<E, N>]>::new_aligned_slice(comptime!(columns * (value_width + 1)), 16usize);
    let mut exchange = Shared::<[f32]>::new_slice(comptime!(if products.matrix_units { 1 } else { rows * columns }));

    let (queries, keys) = (q.shape(2), k.shape(2));
    let batch = CUBE_POS_Z as usize;
    let head = CUBE_POS_Y as usize;
    let group = head / (q.shape(1) / k.shape(1));
    let block = queries.div_ceil(rows) - 1 - CUBE_POS_X as usize;
    let start = block * rows;
    let plane_row = UNIT_POS as usize / 32 * comptime!(16 * m_tiles);

    let q_start = (batch * q.stride(0) + head * q.stride(1) + start * q.stride(2)) / lanes;
    let d_o_start = (batch * d_o.stride(0) + head * d_o.stride(1) + start * d_o.stride(2)) / lanes;
    let k_start = (batch * k.stride(0) + group * k.stride(1)) / lanes;
    let v_start = (batch * v.stride(0) + group * v.stride(1)) / lanes;
    let (q_stride, d_o_stride) = (q.stride(2) / lanes, d_o.stride(2) / lanes);
    let (k_stride, v_stride) = (k.stride(2) / lanes, v.stride(2) / lanes);
    let line = (batch * q.shape(1) + head) * queries;

    let mut sums = zeros(comptime!(4 * m_tiles * q_tiles));
    let mut row_lse = Array::<f32>::new(comptime!(2 * m_tiles));
    let mut row_delta = Array::<f32>::new(comptime!(2 * m_tiles));
    #[unroll]
    for i in 0..comptime!(2 * m_tiles) {
        let query = start + plane_row + comptime!(16 * (i / 2)) + row_of(comptime!(2 * (i % 2)));
        row_lse[i] = reference(lse, line, query, queries, unit);
        row_delta[i] = delta[line + usize::min(query, queries - 1)];
    }

    let tiles = tiles_of_keys(start + rows, queries, keys, form);
    load_tile::<E, N>(q, q_start, q_stride, queries - start, &mut q_tile, rows, key_width, units, products);
    load_tile::<E, N>(d_o, d_o_start, d_o_stride, queries - start, &mut d_o_tile, rows, value_width, units, products);
    for tile in 0..tiles {
        let first_key = tile * columns;
        load_tile::<E, N>(k, k_start + first_key * k_stride, k_stride, keys - first_key, &mut k_tile, columns, key_width, units, products);
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
        await_tiles(products);
        sync_cube();
        let mut weights = zeros(comptime!(4 * m_tiles * n_tiles));
        let mut gradients = zeros(comptime!(4 * m_tiles * n_tiles));
        multiply_rows::<E, N>(&q_tile, plane_row, &k_tile, &mut weights, m_tiles, n_tiles, key_width, products);
        multiply_rows::<E, N>(&d_o_tile, plane_row, &v_tile, &mut gradients, m_tiles, n_tiles, value_width, products);
        let place = Place { batch, head, first_query: start + plane_row, first_key, queries, keys };
        score::<E>(&mut weights, bias, distances, padding, scale, unit, place, form, false);
        #[unroll]
        for m in 0..m_tiles {
            #[unroll]
            for n in 0..n_tiles {
                #[unroll]
                for i in 0..4usize {
                    let at = comptime!(4 * (m * n_tiles + n) + i);
                    let row = comptime!(2 * m + i / 2);
                    gradients[at] =
                        exponential(fma(weights[at], factor(scale, form), -row_lse[row]), products) * (gradients[at] - row_delta[row]);
                }
            }
        }
        multiply_sums::<E, N>(&gradients, &k_tile, &mut sums, &mut exchange, plane_row * columns, m_tiles, n_tiles, key_width, products);
        sync_cube();
    }
    store_rows::<E>(&sums, d_q, batch, head, start + plane_row, queries, out_scale, m_tiles, q_tiles);
}

/// Gradients of keys and values, rows one after another; a cube for each block of keys, key/value head, sequence. The heads of a
/// group and the queries are summed in their order.
#[cube(launch_unchecked, address_type = "dynamic")]
pub(super) fn keys<E: Float, N: Size>(
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
    #[define(E)] _dtype: ElemType,
) {
    let products = comptime!(form.products);
    let lanes = N::value().comptime();
    let (m_tiles, n_tiles) = comptime!((form.m_tiles, form.n_tiles));
    let (key_width, value_width, units) = comptime!((form.key_width, form.value_width, form.units()));
    let (k_tiles, v_tiles) = comptime!((key_width * lanes / 8, value_width * lanes / 8));
    let (rows, columns) = comptime!((form.rows(), form.columns()));
    let mut k_tile = Shared::<[Vector<E, N>]>::new_aligned_slice(comptime!(rows * (key_width + 1)), 16usize);
    let mut v_tile = Shared::<[Vector<E, N>]>::new_aligned_slice(comptime!(rows * (value_width + 1)), 16usize);
    let mut q_tile = Shared::<[Vector<E, N>]>::new_aligned_slice(comptime!(columns * (key_width + 1)), 16usize);
    let mut d_o_tile = Shared::<[Vector<E, N>]>::new_aligned_slice(comptime!(columns * (value_width + 1)), 16usize);
    let mut tile_lse = Shared::<[f32]>::new_slice(columns);
    let mut tile_delta = Shared::<[f32]>::new_slice(columns);
    let mut exchange = Shared::<[f32]>::new_slice(comptime!(if products.matrix_units { 1 } else { rows * columns }));

    let (queries, keys) = (q.shape(2), k.shape(2));
    let batch = CUBE_POS_Z as usize;
    let group = CUBE_POS_Y as usize;
    let heads = q.shape(1) / k.shape(1);
    let start = CUBE_POS_X as usize * rows;
    let plane_row = UNIT_POS as usize / 32 * comptime!(16 * m_tiles);

    let k_start = (batch * k.stride(0) + group * k.stride(1) + start * k.stride(2)) / lanes;
    let v_start = (batch * v.stride(0) + group * v.stride(1) + start * v.stride(2)) / lanes;
    let (k_stride, v_stride) = (k.stride(2) / lanes, v.stride(2) / lanes);
    let (q_stride, d_o_stride) = (q.stride(2) / lanes, d_o.stride(2) / lanes);

    let mut k_sums = zeros(comptime!(4 * m_tiles * k_tiles));
    let mut v_sums = zeros(comptime!(4 * m_tiles * v_tiles));
    load_tile::<E, N>(k, k_start, k_stride, keys - start, &mut k_tile, rows, key_width, units, products);
    load_tile::<E, N>(v, v_start, v_stride, keys - start, &mut v_tile, rows, value_width, units, products);

    // The first query that sees a key of the block.
    let mut first = 0usize.runtime();
    if comptime!(form.causal) && start + queries > keys {
        first = (start + queries - keys) / columns;
    }
    let tiles = queries.div_ceil(columns);
    for member in 0..heads {
        let head = group * heads + member;
        let q_start = (batch * q.stride(0) + head * q.stride(1)) / lanes;
        let d_o_start = (batch * d_o.stride(0) + head * d_o.stride(1)) / lanes;
        let line = (batch * q.shape(1) + head) * queries;
        for tile in first..tiles {
            let query = tile * columns;
            load_tile::<E, N>(q, q_start + query * q_stride, q_stride, queries - query, &mut q_tile, columns, key_width, units, products);
            load_tile::<E, N>(
                d_o,
                d_o_start + query * d_o_stride,
                d_o_stride,
                queries - query,
                &mut d_o_tile,
                columns,
                value_width,
                units,
                products,
            );
            let own = UNIT_POS as usize;
            if own < columns {
                tile_lse[own] = reference(lse, line, query + own, queries, unit);
                tile_delta[own] = delta[line + usize::min(query + own, queries - 1)];
            }
            await_tiles(products);
            sync_cube();
            let mut weights = zeros(comptime!(4 * m_tiles * n_tiles));
            multiply_rows::<E, N>(&k_tile, plane_row, &q_tile, &mut weights, m_tiles, n_tiles, key_width, products);
            let place = Place { batch, head, first_query: query, first_key: start + plane_row, queries, keys };
            score::<E>(&mut weights, bias, distances, padding, scale, unit, place, form, true);
            #[unroll]
            for n in 0..n_tiles {
                #[unroll]
                for j in 0..2usize {
                    let column_lse = tile_lse[comptime!(8 * n) + column_of(j)];
                    #[unroll]
                    for row in 0..comptime!(2 * m_tiles) {
                        let at = comptime!(4 * (row / 2 * n_tiles + n) + 2 * (row % 2) + j);
                        weights[at] = exponential(fma(weights[at], factor(scale, form), -column_lse), products);
                    }
                }
            }
            multiply_sums::<E, N>(
                &weights,
                &d_o_tile,
                &mut v_sums,
                &mut exchange,
                plane_row * columns,
                m_tiles,
                n_tiles,
                value_width,
                products,
            );
            let mut gradients = zeros(comptime!(4 * m_tiles * n_tiles));
            multiply_rows::<E, N>(&v_tile, plane_row, &d_o_tile, &mut gradients, m_tiles, n_tiles, value_width, products);
            #[unroll]
            for n in 0..n_tiles {
                #[unroll]
                for j in 0..2usize {
                    let column_delta = tile_delta[comptime!(8 * n) + column_of(j)];
                    #[unroll]
                    for row in 0..comptime!(2 * m_tiles) {
                        let at = comptime!(4 * (row / 2 * n_tiles + n) + 2 * (row % 2) + j);
                        gradients[at] = weights[at] * (gradients[at] - column_delta);
                    }
                }
            }
            multiply_sums::<E, N>(
                &gradients,
                &q_tile,
                &mut k_sums,
                &mut exchange,
                plane_row * columns,
                m_tiles,
                n_tiles,
                key_width,
                products,
            );
            sync_cube();
        }
    }
    store_rows::<E>(&k_sums, d_k, batch, group, start + plane_row, keys, out_scale, m_tiles, k_tiles);
    store_rows::<E>(&v_sums, d_v, batch, group, start + plane_row, keys, 1.0f32, m_tiles, v_tiles);
}

/// Gradient of the bias `[B or 1, H or 1, T or 1, S]`, rows one after another; a cube for each block of keys, block of queries (one if
/// T is 1), head and sequence of the bias. What the bias is broadcast along is summed in its order.
#[cube(launch_unchecked, address_type = "dynamic")]
pub(super) fn bias<E: Float, N: Size>(
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
    d_bias: &mut Tensor<E>,
    #[comptime] form: Form,
    #[define(E)] _dtype: ElemType,
) {
    let products = comptime!(form.products);
    let lanes = N::value().comptime();
    let (m_tiles, n_tiles) = comptime!((form.m_tiles, form.n_tiles));
    let (key_width, value_width, units) = comptime!((form.key_width, form.value_width, form.units()));
    let (rows, columns) = comptime!((form.rows(), form.columns()));
    let mut q_tile = Shared::<[Vector<E, N>]>::new_aligned_slice(comptime!(rows * (key_width + 1)), 16usize);
    let mut d_o_tile = Shared::<[Vector<E, N>]>::new_aligned_slice(comptime!(rows * (value_width + 1)), 16usize);
    let mut k_tile = Shared::<[Vector<E, N>]>::new_aligned_slice(comptime!(columns * (key_width + 1)), 16usize);
    let mut v_tile = Shared::<[Vector<E, N>]>::new_aligned_slice(comptime!(columns * (value_width + 1)), 16usize);
    let mut column_sums = Shared::<[f32]>::new_slice(comptime!(form.planes * columns));

    let (queries, keys) = (q.shape(2), k.shape(2));
    let first_key = CUBE_POS_X as usize * columns;
    let (d_batches, d_heads, d_rows) = (d_bias.shape(0), d_bias.shape(1), d_bias.shape(2));
    let d_batch = CUBE_POS_Z as usize / d_heads;
    let d_head = CUBE_POS_Z as usize % d_heads;
    let plane = UNIT_POS as usize / 32;
    let plane_row = plane * comptime!(16 * m_tiles);

    // What this cube sums over.
    let (batches, heads) = (q.shape(0) / d_batches, q.shape(1) / d_heads);
    let blocks = if d_rows == 1 { queries.div_ceil(rows) } else { 1usize.runtime() };
    let mut sums = zeros(comptime!(4 * m_tiles * n_tiles));
    for block in 0..blocks {
        let start = (CUBE_POS_Y as usize + block) * rows;
        for member in 0..batches * heads {
            let batch = d_batch * batches + member / heads;
            let head = d_head * heads + member % heads;
            let group = head / (q.shape(1) / k.shape(1));
            let line = (batch * q.shape(1) + head) * queries;
            let q_start = (batch * q.stride(0) + head * q.stride(1) + start * q.stride(2)) / lanes;
            let d_o_start = (batch * d_o.stride(0) + head * d_o.stride(1) + start * d_o.stride(2)) / lanes;
            let k_start = (batch * k.stride(0) + group * k.stride(1) + first_key * k.stride(2)) / lanes;
            let v_start = (batch * v.stride(0) + group * v.stride(1) + first_key * v.stride(2)) / lanes;
            load_tile::<E, N>(q, q_start, q.stride(2) / lanes, queries - start, &mut q_tile, rows, key_width, units, products);
            load_tile::<E, N>(d_o, d_o_start, d_o.stride(2) / lanes, queries - start, &mut d_o_tile, rows, value_width, units, products);
            load_tile::<E, N>(k, k_start, k.stride(2) / lanes, keys - first_key, &mut k_tile, columns, key_width, units, products);
            load_tile::<E, N>(v, v_start, v.stride(2) / lanes, keys - first_key, &mut v_tile, columns, value_width, units, products);
            await_tiles(products);
            sync_cube();
            let mut weights = zeros(comptime!(4 * m_tiles * n_tiles));
            let mut gradients = zeros(comptime!(4 * m_tiles * n_tiles));
            multiply_rows::<E, N>(&q_tile, plane_row, &k_tile, &mut weights, m_tiles, n_tiles, key_width, products);
            multiply_rows::<E, N>(&d_o_tile, plane_row, &v_tile, &mut gradients, m_tiles, n_tiles, value_width, products);
            let place = Place { batch, head, first_query: start + plane_row, first_key, queries, keys };
            score::<E>(&mut weights, bias, distances, padding, scale, unit, place, form, false);
            #[unroll]
            for row in 0..comptime!(2 * m_tiles) {
                let query = start + plane_row + comptime!(16 * (row / 2)) + row_of(comptime!(2 * (row % 2)));
                let row_lse = reference(lse, line, query, queries, unit);
                let row_delta = delta[line + usize::min(query, queries - 1)];
                #[unroll]
                for n in 0..n_tiles {
                    #[unroll]
                    for j in 0..2usize {
                        let at = comptime!(4 * (row / 2 * n_tiles + n) + 2 * (row % 2) + j);
                        sums[at] += exponential(fma(weights[at], factor(scale, form), -row_lse), products) * (gradients[at] - row_delta);
                    }
                }
            }
            sync_cube();
        }
    }
    if d_rows == 1 {
        #[unroll]
        for n in 0..n_tiles {
            #[unroll]
            for j in 0..2usize {
                let mut sum = 0.0f32.runtime();
                #[unroll]
                for row in 0..comptime!(2 * m_tiles) {
                    sum += sums[comptime!(4 * (row / 2 * n_tiles + n) + 2 * (row % 2) + j)];
                }
                sum += plane_shuffle_xor(sum, 4u32);
                sum += plane_shuffle_xor(sum, 8u32);
                sum += plane_shuffle_xor(sum, 16u32);
                if UNIT_POS_PLANE < 4 {
                    column_sums[plane * columns + comptime!(8 * n) + column_of(j)] = sum;
                }
            }
        }
        sync_cube();
        let own = UNIT_POS as usize;
        if own < columns && first_key + own < keys {
            let mut sum = 0.0f32.runtime();
            #[unroll]
            for other in 0..form.planes {
                sum += column_sums[comptime!(other * columns) + own];
            }
            d_bias[CUBE_POS_Z as usize * keys + first_key + own] = E::cast_from(sum);
        }
    } else {
        #[unroll]
        for m in 0..m_tiles {
            #[unroll]
            for n in 0..n_tiles {
                #[unroll]
                for i in 0..4usize {
                    let query = CUBE_POS_Y as usize * rows + plane_row + comptime!(16 * m) + row_of(i);
                    let key = first_key + comptime!(8 * n) + column_of(i);
                    if query < queries && key < keys {
                        d_bias[(CUBE_POS_Z as usize * queries + query) * keys + key] =
                            E::cast_from(sums[comptime!(4 * (m * n_tiles + n) + i)]);
                    }
                }
            }
        }
    }
}

/// What the exponent of a weight is relative to: the log-sum-exp in the unit of the exponential. A row without keys, or past the end,
/// gets one so high that its weights are 0.
#[cube]
pub(super) fn reference(lse: &Tensor<f32>, line: usize, query: usize, queries: usize, unit: f32) -> f32 {
    let value = lse[line + usize::min(query, queries - 1)];
    select(value == f32::new(f32::NEG_INFINITY) || query >= queries, f32::new(f32::INFINITY), value * unit)
}

#[cube]
pub(super) fn zeros(#[comptime] length: usize) -> Array<f32> {
    let mut all = Array::<f32>::new(length);
    #[unroll]
    for i in 0..length {
        all[i] = 0.0f32.runtime();
    }
    all
}

/// Writes a plane's sums times `factor` to the rows of a head from `start` on that are before `end`.
#[cube]
pub(super) fn store_rows<E: Float>(
    sums: &Array<f32>,
    to: &mut Tensor<Vector<E, Const<2>>>,
    batch: usize,
    head: usize,
    start: usize,
    end: usize,
    factor: f32,
    #[comptime] m_tiles: usize,
    #[comptime] n_tiles: usize,
) {
    let line = batch * to.stride(0) + head * to.stride(1);
    #[unroll]
    for m in 0..m_tiles {
        #[unroll]
        for half in 0..2usize {
            let row = start + comptime!(16 * m) + row_of(comptime!(2 * half));
            if row < end {
                let place = line + row * to.stride(2);
                #[unroll]
                for n in 0..n_tiles {
                    let at = comptime!(4 * (m * n_tiles + n) + 2 * half);
                    let mut two = Vector::<E, Const<2>>::empty();
                    two.insert(0usize, E::cast_from(sums[at] * factor));
                    two.insert(1usize, E::cast_from(sums[comptime!(at + 1)] * factor));
                    to[(place + comptime!(8 * n) + column_of(0usize)) / 2] = two;
                }
            }
        }
    }
}
