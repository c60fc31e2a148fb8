//! The last kernel of the backward pass by matrix units: [`through_decays`](super::decays::through_decays) with the decays of a chunk's
//! tokens in registers, a plane for 16 key channels.

use cubecl::prelude::*;

use super::{
    cells::{CELL, LEVELS},
    chunk::load_column,
    form::Form,
    prepare::chunk_span,
    strips::{
        Numbers, PAIRS, add_scaled, channel_of, halves, load_square, load_turned, multiply_cell, of_level, over_cell, pair_of, read_logs,
        rounded, single, store_turned, token_of, widen,
    },
};
use crate::blocks::cube::{
    row_tiles::{Span, await_loads, fetch, fetch_packed, save},
    tile_product::{PLANE, Pair, Tiles, lane, plane},
};

impl Form {
    /// A plane per strip.
    pub(crate) fn by_strips(&self) -> Self {
        Self { planes: self.d_k / CELL, ..*self }
    }

    /// Bytes of shared memory of [`through_strips`].
    pub(crate) fn strip_bytes(&self) -> usize {
        let tiles = 2 * self.chunk * (self.stride(self.d_k) + self.stride(self.chunk));
        self.element * tiles + 4 * self.chunk * (1 + self.by_strips().planes + self.d_k) + 7 * 16
    }
}

/// As [`through_decays`](super::decays::through_decays), a cube per chunk and head. `by_values`: what β has of the values, `[B·W, T]`;
/// `d_beta` has that of the keys besides.
#[cube(launch_unchecked, address_type = "dynamic")]
pub(crate) fn through_strips<F: Float, E: Float, N: Size, M: Size>(
    q: &Tensor<Vector<F, M>>,
    k: &Tensor<Vector<F, M>>,
    g: &Tensor<f32>,
    beta: &Tensor<f32>,
    d_scores: &[Vector<E, N>],
    d_corrections: &[Vector<E, N>],
    row_q: &[f32],
    row_k: &[f32],
    column_k: &[f32],
    d_total: &[f32],
    by_values: &[f32],
    d_q: &mut Tensor<Vector<F, M>>,
    d_k: &mut Tensor<Vector<F, M>>,
    d_g: &mut Tensor<f32>,
    d_beta: &mut [f32],
    scale: f32,
    #[comptime] form: Form,
    #[define(F, E)] _types: [ElemType; 2],
) {
    let (c, packed, square_stride, cells) = comptime!((form.chunk, form.stride(form.d_k), form.stride(form.chunk), form.chunk / CELL));
    let mut q_tile = Shared::<[E]>::new_aligned_slice(comptime!(c * packed), 16usize);
    let mut k_tile = Shared::<[E]>::new_aligned_slice(comptime!(c * packed), 16usize);
    let mut scores = Shared::<[E]>::new_aligned_slice(comptime!(c * square_stride), 16usize);
    let mut corrections = Shared::<[E]>::new_aligned_slice(comptime!(c * square_stride), 16usize);
    // What a unit has of its plane's cells, first the gradients of earlier keys, then those of log decays before they are summed up.
    let mut kept = Shared::<[Vector<f32, Pair>]>::new_slice(comptime!(c * form.d_k / 2));
    let mut strength = Shared::<[f32]>::new_aligned_slice(c, 16usize);
    let mut partial = Shared::<[f32]>::new_slice(comptime!(form.planes * c));

    let heads = beta.shape(1);
    let span = chunk_span(heads, beta.shape(2), form);
    let chunk = CUBE_POS_Y as usize * CUBE_COUNT_X as usize + CUBE_POS_X as usize;
    let shared_head =
        Span { batch: span.batch, head: span.head / (heads / q.shape(1)), start: span.start, tokens: span.tokens, column: span.column };
    let (rows, squares) = comptime!((form.room(form.d_k), form.room(c)));
    fetch::<F, E, M>(q, &mut q_tile, &shared_head, rows, true);
    fetch::<F, E, M>(k, &mut k_tile, &shared_head, rows, true);
    fetch_packed::<E, N>(d_scores, &mut scores, chunk * comptime!(c * c), c, squares, true);
    fetch_packed::<E, N>(d_corrections, &mut corrections, chunk * comptime!(c * c), c, squares, true);
    load_column(beta, &mut strength, &span, form);
    await_loads();
    sync_cube();

    let column = plane() * CELL;
    let own = plane() * comptime!(cells * PAIRS * PLANE) + lane();
    // What reaches the end of the chunk reaches every decay of it.
    let mut to_all = Array::<f32>::new(2usize);
    // The decay over the cells behind.
    let mut behind = Array::<f32>::new(2usize);
    #[unroll]
    for half in 0..2usize {
        to_all[half] = 0.0f32;
        behind[half] = 1.0f32;
    }
    // The later cells' queries and β keys, decayed from the end of the cell at hand.
    let mut late_q = Sequence::<Array<Vector<E, Pair>>>::new();
    let mut late_k = Sequence::<Array<Vector<E, Pair>>>::new();
    #[unroll]
    for turn in 0..cells {
        let cell = comptime!(cells - 1 - turn);
        let row = comptime!(cell * CELL);
        let mut decays = single(&read_logs(g, &span, row, column));
        let through_end = far_rows(column_k, chunk, row, column, form);
        let queries = times(&load_turned::<E>(&q_tile, row, column, packed), scale);
        let keys = load_turned::<E>(&k_tile, row, column, packed);
        let strong = strengthen(&keys, &strength, row);
        let mut early = zeros();
        let of_scores = load_square::<E>(&scores, row, row, true, square_stride);
        let of_corrections = load_square::<E>(&corrections, row, row, true, square_stride);
        #[unroll]
        for level in 0..LEVELS {
            let factors = halves(&decays, level);
            let mut part = Tiles::zeros(1usize, 2usize);
            multiply_cell::<E>(&mut part, &rounded::<E>(&queries, &factors), &of_level::<E>(&of_scores, true, level));
            multiply_cell::<E>(&mut part, &rounded::<E>(&strong, &factors), &of_level::<E>(&of_corrections, true, level));
            add_scaled(&mut early, &part, &factors);
            widen(&mut decays, level);
        }
        let mut part = Tiles::zeros(1usize, 2usize);
        #[unroll]
        for other in 0..turn {
            let row_of_other = comptime!((cells - 1 - other) * CELL);
            multiply_cell::<E>(&mut part, late_q.index(other), &load_square::<E>(&scores, row_of_other, row, true, square_stride));
            multiply_cell::<E>(&mut part, late_k.index(other), &load_square::<E>(&corrections, row_of_other, row, true, square_stride));
        }
        add_scaled(&mut early, &part, &decays.after);
        #[unroll]
        for i in 0..PAIRS {
            let through_end = through_end[i] * decays.after[i] * Vector::new(behind[comptime!(i % 2)]);
            early[i] += through_end;
            let products = keys[i] * through_end;
            to_all[comptime!(i % 2)] += products.extract(0usize) + products.extract(1usize);
            kept[own + comptime!((cell * PAIRS + i) * PLANE)] = early[i];
        }
        let whole = over_cell(&decays);
        #[unroll]
        for other in 0..turn {
            decay_cell::<E>(late_q.index_mut(other), &whole);
            decay_cell::<E>(late_k.index_mut(other), &whole);
        }
        late_q.push(rounded::<E>(&queries, &decays.until));
        late_k.push(rounded::<E>(&strong, &decays.until));
        #[unroll]
        for half in 0..2usize {
            behind[half] *= whole[half];
        }
    }

    // The earlier cells' keys, decayed to the start of the cell at hand, and the decay over these cells.
    let mut early_k = Sequence::<Array<Vector<E, Pair>>>::new();
    let mut before = Array::<f32>::new(2usize);
    before[0] = 1.0f32;
    before[1] = 1.0f32;
    #[unroll]
    for cell in 0..cells {
        let row = comptime!(cell * CELL);
        let mut decays = single(&read_logs(g, &span, row, column));
        let mut of_q = far_rows(row_q, chunk, row, column, form);
        let mut of_k = far_rows(row_k, chunk, row, column, form);
        let queries = load_turned::<E>(&q_tile, row, column, packed);
        let keys = load_turned::<E>(&k_tile, row, column, packed);
        let (mut sum_q, mut sum_k) = (zeros(), zeros());
        let of_scores = load_square::<E>(&scores, row, row, false, square_stride);
        let of_corrections = load_square::<E>(&corrections, row, row, false, square_stride);
        #[unroll]
        for level in 0..LEVELS {
            let factors = halves(&decays, level);
            let decayed = rounded::<E>(&keys, &factors);
            let (mut part_q, mut part_k) = (Tiles::zeros(1usize, 2usize), Tiles::zeros(1usize, 2usize));
            multiply_cell::<E>(&mut part_q, &decayed, &of_level::<E>(&of_scores, false, level));
            multiply_cell::<E>(&mut part_k, &decayed, &of_level::<E>(&of_corrections, false, level));
            add_scaled(&mut sum_q, &part_q, &factors);
            add_scaled(&mut sum_k, &part_k, &factors);
            widen(&mut decays, level);
        }
        let (mut part_q, mut part_k) = (Tiles::zeros(1usize, 2usize), Tiles::zeros(1usize, 2usize));
        #[unroll]
        for other in 0..cell {
            let column_of_other = comptime!(other * CELL);
            let keys = early_k.index(other);
            multiply_cell::<E>(&mut part_q, keys, &load_square::<E>(&scores, row, column_of_other, false, square_stride));
            multiply_cell::<E>(&mut part_k, keys, &load_square::<E>(&corrections, row, column_of_other, false, square_stride));
        }
        add_scaled(&mut sum_q, &part_q, &decays.until);
        add_scaled(&mut sum_k, &part_k, &decays.until);
        let mut gradient_q = zeros();
        let mut gradient_k = zeros();
        let mut of_beta = Array::<Vector<f32, Pair>>::new(2usize);
        of_beta[0] = Vector::new(0.0f32);
        of_beta[1] = Vector::new(0.0f32);
        #[unroll]
        for i in 0..PAIRS {
            let from_start = decays.until[i] * Vector::new(before[comptime!(i % 2)]);
            of_q[i] = (sum_q[i] + of_q[i] * from_start) * Vector::new(scale);
            of_k[i] = sum_k[i] + of_k[i] * from_start;
            let token = row + token_of(i);
            let strong = of_k[i] * pair_of(strength[token], strength[token + 1]);
            let first = scores[token * comptime!(square_stride + 1)];
            let second = scores[(token + 1) * comptime!(square_stride + 1)];
            let diagonal = pair_of(f32::cast_from(first), f32::cast_from(second)) * Vector::new(scale);
            let place = own + comptime!((cell * PAIRS + i) * PLANE);
            let early = kept[place];
            gradient_q[i] = of_q[i] + diagonal * keys[i];
            gradient_k[i] = strong + early + diagonal * queries[i];
            kept[place] = queries[i] * of_q[i] + keys[i] * (strong - early);
            of_beta[comptime!(i / 2)] += keys[i] * of_k[i];
        }
        sync_plane();
        store_turned::<E>(&gradient_q, &mut q_tile, row, column, packed);
        store_turned::<E>(&gradient_k, &mut k_tile, row, column, packed);
        sum_channels(&of_beta, &mut partial, plane() * c + row);
        let whole = over_cell(&decays);
        #[unroll]
        for other in 0..cell {
            decay_cell::<E>(early_k.index_mut(other), &whole);
        }
        early_k.push(rounded::<E>(&keys, &decays.after));
        #[unroll]
        for half in 0..2usize {
            before[half] *= whole[half];
        }
    }

    #[unroll]
    for half in 0..2usize {
        let mut all = to_all[half];
        all += plane_shuffle_xor(all, 1u32);
        all += plane_shuffle_xor(all, 2u32);
        to_all[half] = all + d_total[chunk * form.d_k + column + channel_of(half)];
    }
    sum_back(&kept, own, &mut to_all, d_g, &span, column, form);
    sync_cube();
    let unit = UNIT_POS as usize;
    #[unroll]
    for turn in 0..comptime!(c.div_ceil(form.units())) {
        let token = turn * form.units() + unit;
        if token < span.tokens {
            let place = CUBE_POS_Y as usize * beta.shape(2) + span.start + token;
            let mut sum = by_values[place];
            #[unroll]
            for strip in 0..form.planes {
                sum += partial[comptime!(strip * c) + token];
            }
            d_beta[place] = sum;
        }
    }
    save::<E, F, M>(&q_tile, d_q, &span, rows);
    save::<E, F, M>(&k_tile, d_k, &span, rows);
}

#[cube]
fn zeros() -> Numbers {
    let mut numbers = Array::<Vector<f32, Pair>>::new(PAIRS);
    #[unroll]
    for i in 0..PAIRS {
        numbers[i] = Vector::new(0.0f32);
    }
    numbers
}

#[cube]
fn times(numbers: &Numbers, factor: f32) -> Numbers {
    let mut result = Array::<Vector<f32, Pair>>::new(PAIRS);
    #[unroll]
    for i in 0..PAIRS {
        result[i] = numbers[i] * Vector::new(factor);
    }
    result
}

/// Keys times their β.
#[cube]
fn strengthen(keys: &Numbers, strength: &[f32], row: usize) -> Numbers {
    let mut result = Array::<Vector<f32, Pair>>::new(PAIRS);
    #[unroll]
    for i in 0..PAIRS {
        let token = row + token_of(i);
        result[i] = keys[i] * pair_of(strength[token], strength[token + 1]);
    }
    result
}

/// A cell of `[C, K]` numbers of a chunk.
#[cube]
fn far_rows(from: &[f32], chunk: usize, row: usize, column: usize, #[comptime] form: Form) -> Numbers {
    let mut result = Array::<Vector<f32, Pair>>::new(PAIRS);
    #[unroll]
    for i in 0..PAIRS {
        let at = (chunk * form.chunk + row + token_of(i)) * form.d_k + column + channel_of(i);
        result[i] = pair_of(from[at], from[at + form.d_k]);
    }
    result
}

/// A cell times a factor for each channel.
#[cube]
fn decay_cell<E: Float>(cell: &mut Array<Vector<E, Pair>>, whole: &Array<f32>) {
    #[unroll]
    for i in 0..PAIRS {
        cell[i] = Vector::cast_from(Vector::<f32, Pair>::cast_from(cell[i]) * Vector::new(whole[comptime!(i % 2)]));
    }
}

/// Sums over the channels of a plane: numbers of the two eights of a cell's tokens.
#[cube]
fn sum_channels(numbers: &Array<Vector<f32, Pair>>, to: &mut [f32], start: usize) {
    #[unroll]
    for eight in 0..2usize {
        #[unroll]
        for next in 0..2usize {
            let mut all = numbers[eight].extract(next);
            all += plane_shuffle_xor(all, 4u32);
            all += plane_shuffle_xor(all, 8u32);
            all += plane_shuffle_xor(all, 16u32);
            if lane() < 4 {
                to[start + token_of(comptime!(2 * eight)) + next] = all;
            }
        }
    }
}

/// The gradients of log decays: sums from the last token on, starting with `sums`.
#[cube]
fn sum_back(
    kept: &[Vector<f32, Pair>],
    own: usize,
    sums: &mut Array<f32>,
    d_g: &mut Tensor<f32>,
    span: &Span,
    column: usize,
    #[comptime] form: Form,
) {
    let cells = comptime!(form.chunk / CELL);
    let (quad, place) = (lane() / 4 * 4, lane() % 4);
    #[unroll]
    for turn in 0..comptime!(2 * cells) {
        // Eights of tokens from the last on.
        let (cell, eight) = comptime!((cells - 1 - turn / 2, 1 - turn % 2));
        #[unroll]
        for half in 0..2usize {
            let i = comptime!(2 * eight + half);
            let pair = kept[own + comptime!((cell * PAIRS + i) * PLANE)];
            // Of the units behind in the quad, inclusive of the own.
            let both = pair.extract(0usize) + pair.extract(1usize);
            let one = both + select(place < 3, plane_shuffle(both, (quad + (place + 1) % 4) as u32), 0.0f32);
            let all = one + select(place < 2, plane_shuffle(one, (quad + (place + 2) % 4) as u32), 0.0f32);
            let behind = sums[half] + select(place < 3, plane_shuffle(all, (quad + (place + 1) % 4) as u32), 0.0f32);
            sums[half] += plane_shuffle(all, quad as u32);
            let second = behind + pair.extract(1usize);
            let values = pair_of(second + pair.extract(0usize), second);
            let channel = column + channel_of(half);
            #[unroll]
            for next in 0..2usize {
                let token = comptime!(cell * CELL) + token_of(i) + next;
                if token < span.tokens && channel < d_g.shape(3) {
                    let base = span.batch * d_g.stride(0) + span.head * d_g.stride(1);
                    let place = base + (span.start + token) * d_g.stride(2) + channel;
                    d_g[place] = values.extract(next);
                }
            }
        }
    }
}
