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

    /// Pairs of numbers that a plane keeps of the cells but one, of two matrices.
    fn list_size(&self) -> usize {
        (self.chunk / CELL - 1) * 2 * PAIRS * PLANE
    }

    /// Bytes of shared memory of [`through_strips`].
    pub(crate) fn strip_bytes(&self) -> usize {
        let tiles = 2 * self.chunk * (self.stride(self.d_k) + self.stride(self.chunk));
        let planes = self.by_strips().planes;
        let lists = planes * self.list_size();
        self.element * (tiles + 2 * lists) + 4 * (self.chunk * (1 + planes + self.d_k) + planes * self.chunk) + 9 * 16
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
    // Its cells decayed to one of their ends, and the decays over them by channels.
    let mut lists = Shared::<[Vector<E, Pair>]>::new_slice(comptime!(form.planes * form.list_size()));
    let mut wholes = Shared::<[f32]>::new_slice(comptime!(form.planes * c));
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
    // The lists hold the later cells' queries and β keys, decayed from their starts.
    let own_list = plane() * comptime!(form.list_size()) + lane();
    let own_wholes = plane() * c;
    for turn in 0..cells {
        let cell = cells - 1 - turn;
        let row = cell * CELL;
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
        let mut between = ones();
        for other in cell + 1..cells {
            let list = own_list + (other - 1) * comptime!(2 * PAIRS * PLANE);
            let late = listed::<E>(&lists, list, &between);
            multiply_cell::<E>(&mut part, &late, &load_square::<E>(&scores, other * CELL, row, true, square_stride));
            let late = listed::<E>(&lists, list + comptime!(PAIRS * PLANE), &between);
            multiply_cell::<E>(&mut part, &late, &load_square::<E>(&corrections, other * CELL, row, true, square_stride));
            decay(&mut between, &wholes, own_wholes + other * CELL);
        }
        add_scaled(&mut early, &part, &decays.after);
        #[unroll]
        for i in 0..PAIRS {
            let through_end = through_end[i] * decays.after[i] * Vector::new(behind[comptime!(i % 2)]);
            early[i] += through_end;
            let products = keys[i] * through_end;
            to_all[comptime!(i % 2)] += products.extract(0usize) + products.extract(1usize);
            kept[own + (cell * PAIRS + i) * PLANE] = early[i];
        }
        let whole = over_cell(&decays);
        #[unroll]
        for half in 0..2usize {
            if lane() % 4 == 0 {
                wholes[own_wholes + row + channel_of(half)] = whole[half];
            }
            behind[half] *= whole[half];
        }
        if cell > 0 {
            let list = own_list + (cell - 1) * comptime!(2 * PAIRS * PLANE);
            list_cell::<E>(&rounded::<E>(&queries, &decays.until), &mut lists, list);
            list_cell::<E>(&rounded::<E>(&strong, &decays.until), &mut lists, list + comptime!(PAIRS * PLANE));
        }
        sync_plane();
    }

    // Now the lists hold the earlier cells' keys, decayed to their ends.
    let mut before = ones();
    for cell in 0..cells {
        let row = cell * CELL;
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
        let mut between = ones();
        for back in 0..cell {
            let other = cell - 1 - back;
            let early = listed::<E>(&lists, own_list + other * comptime!(2 * PAIRS * PLANE), &between);
            multiply_cell::<E>(&mut part_q, &early, &load_square::<E>(&scores, row, other * CELL, false, square_stride));
            multiply_cell::<E>(&mut part_k, &early, &load_square::<E>(&corrections, row, other * CELL, false, square_stride));
            decay(&mut between, &wholes, own_wholes + other * CELL);
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
            let place = own + (cell * PAIRS + i) * PLANE;
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
        if cell + 1 < cells {
            list_cell::<E>(&rounded::<E>(&keys, &decays.after), &mut lists, own_list + cell * comptime!(2 * PAIRS * PLANE));
        }
        decay(&mut before, &wholes, own_wholes + row);
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

#[cube]
fn ones() -> Array<f32> {
    let mut factors = Array::<f32>::new(2usize);
    factors[0] = 1.0f32;
    factors[1] = 1.0f32;
    factors
}

/// Factors of the channels of pairs 0 and 1 times the decays of a cell, which begin at `start`.
#[cube]
fn decay(factors: &mut Array<f32>, wholes: &[f32], start: usize) {
    #[unroll]
    for half in 0..2usize {
        factors[half] *= wholes[start + channel_of(half)];
    }
}

/// Puts a cell into the unit's list.
#[cube]
fn list_cell<E: Float>(cell: &Array<Vector<E, Pair>>, lists: &mut [Vector<E, Pair>], start: usize) {
    #[unroll]
    for i in 0..PAIRS {
        lists[start + comptime!(i * PLANE)] = cell[i];
    }
}

/// A cell of the unit's list times a factor for each channel.
#[cube]
fn listed<E: Float>(lists: &[Vector<E, Pair>], start: usize, factors: &Array<f32>) -> Array<Vector<E, Pair>> {
    let mut cell = Array::<Vector<E, Pair>>::new(PAIRS);
    #[unroll]
    for i in 0..PAIRS {
        let pair = Vector::<f32, Pair>::cast_from(lists[start + comptime!(i * PLANE)]);
        cell[i] = Vector::cast_from(pair * Vector::new(factors[comptime!(i % 2)]));
    }
    cell
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
    for turn in 0..cells {
        let cell = cells - 1 - turn;
        // Eights of tokens from the last on.
        #[unroll]
        for part in 0..4usize {
            let (i, half) = comptime!((2 * (1 - part / 2) + part % 2, part % 2));
            let pair = kept[own + (cell * PAIRS + i) * PLANE];
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
                let token = cell * CELL + token_of(i) + next;
                if token < span.tokens && channel < d_g.shape(3) {
                    let base = span.batch * d_g.stride(0) + span.head * d_g.stride(1);
                    let place = base + (span.start + token) * d_g.stride(2) + channel;
                    d_g[place] = values.extract(next);
                }
            }
        }
    }
}
