//! One query of each sequence against all keys, as in decoding: the heads that share keys are the rows of one tile, planes take turns at
//! the keys and cubes share them where sequences are few.

use burn::{backend::TensorMetadata, tensor::DType};
use burn_cubecl::tensor::CubeTensor;
use cubecl::{
    frontend::barrier::copy_async_checked,
    ir::{ElemType, FloatKind},
    prelude::*,
};

use super::{
    Problem, dims,
    forward::{rescale, store, weigh},
    narrow,
    plan::Plan,
    scores::{Form, Place, factor, score},
    tensor,
};
use crate::blocks::cube::{
    element, empty,
    tensors::buffer,
    tiles::{exponent_unit, exponential, multiply_rows, multiply_sums, pitch},
};

/// Keys of a plane's tile.
const KEYS: usize = 16;
/// Heads that may share keys: the rows of a tile.
const ROWS: usize = 16;
const PLANES: usize = 4;
/// Tiles below which a plane's part of the keys is not worth a cube.
const FEWEST: usize = 4;

/// Whether [`decode`] takes queries `[B, G, R, K]`, those of a group as rows.
pub(super) fn takes(plan: &Plan, rows: usize) -> bool {
    plan.forward.products.matrix_units && rows <= ROWS && plan.key_width <= 128 && plan.value_width <= 128
}

/// Output and log-sum-exp of queries `[B, G, R, K]` that see all keys.
pub(super) fn decode(problem: &Problem, plan: &Plan, value_width: usize) -> (CubeTensor, CubeTensor) {
    let ([b, g, r, _], keys) = (dims(&problem.q), dims(&problem.k)[2]);
    let client = &problem.q.client;
    let processors = client.properties().hardware.num_streaming_multiprocessors.unwrap_or(16) as usize;
    let whole = PLANES * KEYS;
    let splits = (2 * processors / (b * g)).clamp(1, keys.div_ceil(FEWEST * whole));
    let length = keys.div_ceil(splits).next_multiple_of(whole);
    let splits = keys.div_ceil(length);
    let form = Form { planes: PLANES, m_tiles: 1, n_tiles: KEYS / 8, causal: false, ..plan.forward };
    let dtype = problem.q.dtype();
    let parts = if splits == 1 { dtype } else { DType::F32 };
    let out = empty(&problem.q, [splits * b, g, r, plan.value_width], parts);
    let lse = empty(&problem.q, [splits * b, g, r], DType::F32);
    let kind = if splits == 1 { element(&problem.q) } else { ElemType::Float(FloatKind::F32) };
    // SAFETY: tiles and rows are checked against the shapes.
    unsafe {
        kernel::launch_unchecked(
            client,
            CubeCount::Static(splits as u32, g as u32, b as u32),
            CubeDim::new_1d((32 * PLANES) as u32),
            problem.address_type(&[&out]),
            problem.lanes,
            tensor(&problem.q),
            tensor(&problem.k),
            tensor(&problem.v),
            problem.bias(),
            problem.distances(),
            problem.padding(),
            problem.scale(form),
            exponent_unit(form.products),
            tensor(&out),
            tensor(&lse),
            length,
            form,
            [element(&problem.q), kind],
        );
    }
    if splits == 1 {
        return (narrow(out, value_width), lse);
    }
    let (whole, whole_lse) = (empty(&problem.q, [b, g, r, plan.value_width], dtype), empty(&problem.q, [b, g, r], DType::F32));
    // SAFETY: a cube has one row.
    unsafe {
        merge::launch_unchecked(
            client,
            CubeCount::Static((b * g * r) as u32, 1, 1),
            CubeDim::new_1d(plan.value_width as u32),
            problem.address_type(&[&out]),
            buffer(&out),
            buffer(&lse),
            buffer(&whole),
            buffer(&whole_lse),
            splits,
            element(&problem.q),
        );
    }
    (narrow(whole, value_width), whole_lse)
}

/// Output `[splits · B, G, R, V]` and log-sum-exp of each part of the keys, a cube for each part, group, sequence.
#[cube(launch_unchecked, address_type = "dynamic")]
fn kernel<E: Float, F: Float, N: Size>(
    q: &Tensor<Vector<E, N>>,
    k: &Tensor<Vector<E, N>>,
    v: &Tensor<Vector<E, N>>,
    bias: &Tensor<E>,
    distances: &Tensor<E>,
    padding: &Tensor<i32>,
    scale: f32,
    unit: f32,
    o: &mut Tensor<Vector<F, Const<2>>>,
    lse: &mut Tensor<f32>,
    length: usize,
    #[comptime] form: Form,
    #[define(E, F)] _types: [ElemType; 2],
) {
    let lanes = N::value().comptime();
    let (key_width, value_width, n_tiles) = comptime!((form.key_width, form.value_width, form.n_tiles));
    let o_tiles = comptime!(value_width * lanes / 8);
    let (k_size, v_size) = comptime!((KEYS * pitch(key_width), KEYS * pitch(value_width)));
    let mut q_tile = Shared::<[Vector<E, N>]>::new_aligned_slice(comptime!(ROWS * pitch(key_width)), 16usize);
    // Two tiles of each plane: one is filled while the other is read.
    let mut k_tiles = Shared::<[Vector<E, N>]>::new_aligned_slice(comptime!(2 * PLANES * k_size), 16usize);
    let mut v_tiles = Shared::<[Vector<E, N>]>::new_aligned_slice(comptime!(2 * PLANES * v_size), 16usize);
    let mut exchange = Shared::<[f32]>::new_slice(comptime!(PLANES / 2 * 32 * (4 * o_tiles + 4)));
    let mut unused = Shared::<[f32]>::new_slice(1usize);

    let (rows, keys) = (q.shape(2), k.shape(2));
    let (batch, head, split) = (CUBE_POS_Z as usize, CUBE_POS_Y as usize, CUBE_POS_X as usize);
    let plane = UNIT_POS as usize / 32;
    let q_start = (batch * q.stride(0) + head * q.stride(1)) / lanes;
    load_rows::<E, N>(q, q_start, q.stride(2) / lanes, rows, &mut q_tile, UNIT_POS as usize, ROWS, key_width, comptime!(32 * PLANES));
    let k_start = (batch * k.stride(0) + head * k.stride(1)) / lanes;
    let v_start = (batch * v.stride(0) + head * v.stride(1)) / lanes;
    let (k_stride, v_stride) = (k.stride(2) / lanes, v.stride(2) / lanes);

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

    let start = split * length;
    let end = usize::min(start + length, keys);
    let tiles = (end - start).div_ceil(KEYS);
    let turns = if tiles > plane { (tiles - plane).div_ceil(PLANES) } else { 0usize.runtime() };
    let lane = UNIT_POS_PLANE as usize;
    for turn in 0..turns + 1 {
        gpu_asm!("cp.async.wait_all;");
        if turn == 0 {
            sync_cube();
        } else {
            sync_plane();
        }
        if turn < turns {
            let first = start + (turn * PLANES + plane) * KEYS;
            let side = plane * 2 + turn % 2;
            let (k_at, v_at) = (side * k_size, side * v_size);
            load_rows::<E, N>(
                k,
                k_start + first * k_stride,
                k_stride,
                keys - first,
                &mut k_tiles[k_at..k_at + k_size],
                lane,
                KEYS,
                key_width,
                32usize,
            );
            load_rows::<E, N>(
                v,
                v_start + first * v_stride,
                v_stride,
                keys - first,
                &mut v_tiles[v_at..v_at + v_size],
                lane,
                KEYS,
                value_width,
                32usize,
            );
        }
        if turn > 0 {
            let side = plane * 2 + (turn - 1) % 2;
            let first_key = start + ((turn - 1) * PLANES + plane) * KEYS;
            let mut weights = Array::<f32>::new(comptime!(4 * n_tiles));
            #[unroll]
            for i in 0..comptime!(4 * n_tiles) {
                weights[i] = 0.0f32.runtime();
            }
            let keys_at = &k_tiles[side * k_size..];
            multiply_rows::<E, N>(&q_tile, 0usize.runtime(), keys_at, &mut weights, 1usize, n_tiles, key_width, form.products);
            let place = Place { batch, head, first_query: 0usize.runtime(), first_key, queries: rows, keys };
            score::<E>(&mut weights, bias, distances, padding, scale, unit, place, form, false);
            let scales = weigh(&mut weights, &mut highest, &mut total, factor(scale, form), form);
            rescale(&mut sums, &scales, 1usize, o_tiles);
            let values = &v_tiles[side * v_size..];
            multiply_sums::<E, N>(&weights, values, &mut sums, &mut unused, 0usize.runtime(), 1usize, n_tiles, value_width, form.products);
        }
        sync_plane();
    }

    // The sums of the upper half of the planes join those of the lower half, until one has all.
    let own = lane;
    let size = comptime!(32 * (4 * o_tiles + 4));
    #[unroll]
    for step in 0..comptime!(PLANES.ilog2() as usize) {
        let half = comptime!(PLANES >> (step + 1));
        if plane >= half && plane < comptime!(2 * half) {
            let at = (plane - half) * size + own;
            #[unroll]
            for i in 0..comptime!(4 * o_tiles) {
                exchange[at + comptime!(32 * i)] = sums[i];
            }
            #[unroll]
            for i in 0..2usize {
                exchange[at + comptime!(32 * (4 * o_tiles + i))] = highest[i];
                exchange[at + comptime!(32 * (4 * o_tiles + 2 + i))] = total[i];
            }
        }
        sync_cube();
        if plane < half {
            let at = plane * size + own;
            let unit = factor(scale, form);
            #[unroll]
            for i in 0..2usize {
                let other = exchange[at + comptime!(32 * (4 * o_tiles + i))];
                let top = f32::max(highest[i], other);
                let base = select(top == f32::new(f32::NEG_INFINITY), 0.0f32, top) * -unit;
                let own_scale = exponential(fma(highest[i], unit, base), form.products);
                let other_scale = exponential(fma(other, unit, base), form.products);
                highest[i] = top;
                total[i] = total[i] * own_scale + exchange[at + comptime!(32 * (4 * o_tiles + 2 + i))] * other_scale;
                #[unroll]
                for n in 0..o_tiles {
                    #[unroll]
                    for j in 0..2usize {
                        let place = comptime!(4 * n + 2 * i + j);
                        sums[place] = sums[place] * own_scale + exchange[at + comptime!(32 * place)] * other_scale;
                    }
                }
            }
        }
        sync_cube();
    }
    if plane == 0 {
        let part = split * CUBE_COUNT_Z as usize + batch;
        let natural = factor(scale, form) / unit;
        store::<F>(&sums, &highest, &total, o, lse, part, head, 0usize.runtime(), rows, natural, 1usize, o_tiles);
    }
}

/// Starts to copy rows of `width` vectors, of which the first `valid` exist and the others are zeros, by `units` units.
#[cube]
fn load_rows<E: Float, N: Size>(
    from: &Tensor<Vector<E, N>>,
    start: usize,
    stride: usize,
    valid: usize,
    to: &mut [Vector<E, N>],
    unit: usize,
    #[comptime] count: usize,
    #[comptime] width: usize,
    #[comptime] units: usize,
) {
    let all = comptime!(count * width);
    #[unroll]
    for step in 0..comptime!(all.div_ceil(units)) {
        let at = unit + comptime!(step * units);
        if comptime!((step + 1) * units <= all) || at < all {
            let (row, column) = (at / width, at % width);
            let place = row * comptime!(pitch(width)) + column;
            let present = row < valid;
            let source = start + select(present, row * stride + column, 0usize);
            let end = source + select(present, 1usize, 0usize);
            let length = E::size().comptime();
            copy_async_checked(&from[source..end], &mut to[place..place + 1], comptime!((16 / length) as u32));
        }
    }
}

/// Joins the outputs of parts of the keys, a cube per row and a unit per column. `parts`: `[splits, rows, V]`; `logs`: `[splits, rows]`.
#[cube(launch_unchecked, address_type = "dynamic")]
fn merge<E: Float>(parts: &[f32], logs: &[f32], o: &mut [E], lse: &mut [f32], splits: usize, #[define(E)] _type: ElemType) {
    let (row, rows) = (CUBE_POS_X as usize, CUBE_COUNT_X as usize);
    let (column, width) = (UNIT_POS as usize, CUBE_DIM as usize);
    let mut top = f32::new(f32::NEG_INFINITY);
    for split in 0..splits {
        top = f32::max(top, logs[split * rows + row]);
    }
    let base = select(top == f32::new(f32::NEG_INFINITY), 0.0f32, top);
    let mut sum = 0.0f32;
    let mut total = 0.0f32;
    for split in 0..splits {
        let weight = (logs[split * rows + row] - base).exp();
        total += weight;
        sum += weight * parts[(split * rows + row) * width + column];
    }
    // A query that sees no key has zeros and −∞.
    o[row * width + column] = E::cast_from(select(total > 0.0, sum / total, 0.0f32));
    if column == 0 {
        lse[row] = base + total.ln();
    }
}
