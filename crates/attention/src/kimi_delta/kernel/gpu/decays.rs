//! The last kernel of the backward pass: through the decays inside the chunks to queries, keys, log decays and β.

use cubecl::prelude::*;

use super::{
    chunk::{decay_halves, load_column, load_decays, pair_of, widen},
    form::Form,
    prepare::chunk_span,
};
use crate::blocks::cube::{
    row_tiles::{Span, load, load_packed},
    tile_product::{COLUMNS, ROWS, Tiles, corner, has_part, multiply, own_column, own_row},
};

/// Gradients of queries, keys and log decays, and what β has of the keys, a cube per chunk, head and slice of key channels. The form's
/// `d_k` is the width of the slice here; `padded` that of all.
///
/// `row_q`, `row_k`, `column_k`: as [`through_states`](super::through_states::through_states) leaves them.
#[cube(launch_unchecked, address_type = "dynamic")]
pub(crate) fn through_decays<F: Float, E: Float, N: Size, M: Size>(
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
    d_q: &mut Tensor<F>,
    d_k: &mut Tensor<F>,
    d_g: &mut Tensor<f32>,
    d_beta: &mut [f32],
    scale: f32,
    #[comptime] padded: usize,
    #[comptime] form: Form,
    #[define(F, E)] _types: [ElemType; 2],
) {
    let (c, packed, wide) = comptime!((form.chunk, form.stride(form.d_k), form.wide(form.d_k)));
    let half = comptime!(c / 2);
    let side_stride = comptime!(form.stride(half));
    let mut q_tile = Shared::<[E]>::new_aligned_slice(comptime!(c * packed), 16usize);
    let mut k_tile = Shared::<[E]>::new_aligned_slice(comptime!(c * packed), 16usize);
    let mut late_q = Shared::<[E]>::new_aligned_slice(comptime!(half * packed), 16usize);
    let mut late_k = Shared::<[E]>::new_aligned_slice(comptime!(half * packed), 16usize);
    let mut early = Shared::<[E]>::new_aligned_slice(comptime!(half * packed), 16usize);
    let mut of_scores = Shared::<[E]>::new_aligned_slice(comptime!(half * side_stride), 16usize);
    let mut of_corrections = Shared::<[E]>::new_aligned_slice(comptime!(half * side_stride), 16usize);
    let square_stride = comptime!(form.stride(c));
    let mut scores = Shared::<[E]>::new_aligned_slice(comptime!(c * square_stride), 16usize);
    let mut corrections = Shared::<[E]>::new_aligned_slice(comptime!(c * square_stride), 16usize);
    let mut until = Shared::<[f32]>::new_slice(comptime!(c * wide));
    let mut after = Shared::<[f32]>::new_slice(comptime!(c * wide));
    let mut sum_q = Shared::<[f32]>::new_slice(comptime!(c * wide));
    let mut sum_k = Shared::<[f32]>::new_slice(comptime!(c * wide));
    let mut sum_early = Shared::<[f32]>::new_slice(comptime!(c * wide));
    let mut strength = Shared::<[f32]>::new_slice(c);
    let mut partial = Shared::<[f32]>::new_slice(comptime!(4 * c));

    let heads = beta.shape(1);
    let span = chunk_span(heads, beta.shape(2), form);
    let column = CUBE_POS_Z as usize * form.d_k;
    let chunk = CUBE_POS_Y as usize * CUBE_COUNT_X as usize + CUBE_POS_X as usize;
    let own = Span { batch: span.batch, head: span.head, start: span.start, tokens: span.tokens, column };
    let shared_head = Span { batch: span.batch, head: span.head / (heads / q.shape(1)), start: span.start, tokens: span.tokens, column };
    load::<F, E, M>(q, &mut q_tile, &shared_head, comptime!(form.room(form.d_k)));
    load::<F, E, M>(k, &mut k_tile, &shared_head, comptime!(form.room(form.d_k)));
    load_packed::<E, N>(d_scores, &mut scores, chunk * comptime!(c * c), c, comptime!(form.room(c)));
    load_packed::<E, N>(d_corrections, &mut corrections, chunk * comptime!(c * c), c, comptime!(form.room(c)));
    load_column(beta, &mut strength, &span, form);
    load_decays(g, &mut until, &mut after, &own, form);
    clear(&mut sum_q, &mut sum_k, &mut sum_early, form);

    let share = comptime!(form.share(half, form.d_k));
    let (row, col) = corner(share);
    #[unroll]
    for level in 0..comptime!(form.levels()) {
        let side = comptime!(1usize << level);
        sync_cube();
        decay_halves::<E>(&q_tile, &k_tile, &until, &after, &mut late_q, &mut late_k, &mut early, &strength, true, packed, side, form);
        gather::<E>(&scores, &mut of_scores, scale, side, form);
        gather::<E>(&corrections, &mut of_corrections, 1.0f32, side, form);
        sync_cube();
        if has_part(share, form.planes) {
            let plain = comptime!(form.plain(half, side_stride, packed));
            let turned = comptime!(form.left_turned(half, side_stride, packed));
            let mut part = Tiles::zeros(share.tiles.0, share.tiles.1);
            multiply::<E>(&mut part, &of_scores[row * side_stride..], &early[col..], &strength, plain);
            add_rows(&part, &mut sum_q, &until, row, col, true, side, form);
            part.clear();
            multiply::<E>(&mut part, &of_corrections[row * side_stride..], &early[col..], &strength, plain);
            add_rows(&part, &mut sum_k, &until, row, col, true, side, form);
            part.clear();
            multiply::<E>(&mut part, &of_scores[row..], &late_q[col..], &strength, turned);
            multiply::<E>(&mut part, &of_corrections[row..], &late_k[col..], &strength, turned);
            add_rows(&part, &mut sum_early, &after, row, col, false, side, form);
        }
        sync_cube();
        widen(&mut until, &mut after, side, form);
    }

    // Through the state before and after the chunk; the sums of products with the log decays take the place of those of β k.
    let all = comptime!(c * form.d_k);
    let width = q.shape(3) - column;
    #[unroll]
    for turn in 0..comptime!(all.div_ceil(form.units())) {
        let index = turn * form.units() + UNIT_POS as usize;
        if comptime!(all % form.units() == 0) || index < all {
            let (x, y) = (index / form.d_k, index % form.d_k);
            let at = x * wide + y;
            let far = (chunk * c + x) * padded + column + y;
            let (from_start, to_end) = (until[at].exp(), after[at].exp());
            let (own_q, own_k) = (f32::cast_from(q_tile[x * packed + y]), f32::cast_from(k_tile[x * packed + y]));
            let of_q = sum_q[at] + scale * row_q[far] * from_start;
            let of_k = sum_k[at] + row_k[far] * from_start;
            let through_end = column_k[far] * to_end;
            let of_early = sum_early[at] + through_end;
            let diagonal = scale * f32::cast_from(scores[x * square_stride + x]);
            let strong = strength[x] * of_k;
            if x < span.tokens && y < width {
                let place = span.batch * d_q.stride(0) + span.head * d_q.stride(1) + (span.start + x) * d_q.stride(2) + column + y;
                d_q[place] = F::cast_from(of_q + diagonal * own_k);
                let place = span.batch * d_k.stride(0) + span.head * d_k.stride(1) + (span.start + x) * d_k.stride(2) + column + y;
                d_k[place] = F::cast_from(strong + of_early + diagonal * own_q);
            }
            sum_q[at] = own_q * of_q + own_k * (strong - of_early);
            sum_k[at] = own_k * of_k;
            sum_early[at] = own_k * through_end;
        }
    }
    sync_cube();
    let unit = UNIT_POS as usize;
    if unit < 4 * c {
        let (x, part) = (unit / 4, unit % 4);
        let mut sum = 0.0f32;
        for i in 0..comptime!(form.d_k / 4) {
            sum += sum_k[x * wide + 4 * i + part];
        }
        partial[unit] = sum;
    }
    // Sums from the last token on; what reaches the end of the chunk reaches every decay of it.
    if unit < form.d_k && unit < width {
        let mut sum = d_total[chunk * padded + column + unit];
        for x in 0..c {
            sum += sum_early[x * wide + unit];
        }
        for x in 0..c {
            let at = comptime!(c - 1) - x;
            sum += sum_q[at * wide + unit];
            if at < span.tokens {
                let place = span.batch * d_g.stride(0) + span.head * d_g.stride(1) + (span.start + at) * d_g.stride(2) + column + unit;
                d_g[place] = sum;
            }
        }
    }
    sync_cube();
    if unit < span.tokens {
        let place = (CUBE_POS_Z as usize * CUBE_COUNT_Y as usize + CUBE_POS_Y as usize) * beta.shape(2) + span.start + unit;
        d_beta[place] = partial[4 * unit] + partial[4 * unit + 1] + partial[4 * unit + 2] + partial[4 * unit + 3];
    }
}

#[cube]
fn clear(a: &mut [f32], b: &mut [f32], c: &mut [f32], #[comptime] form: Form) {
    let all = comptime!(form.chunk * form.wide(form.d_k));
    #[unroll]
    for turn in 0..comptime!(all.div_ceil(form.units())) {
        let index = turn * form.units() + UNIT_POS as usize;
        if index < all {
            a[index] = 0.0f32;
            b[index] = 0.0f32;
            c[index] = 0.0f32;
        }
    }
}

/// The squares of a level of a `[C, C]`, rows and columns packed, zeros between them.
#[cube]
fn gather<E: Float>(from: &[E], to: &mut [E], factor: f32, #[comptime] side: usize, #[comptime] form: Form) {
    let half = comptime!(form.chunk / 2);
    let (stride, square_stride) = comptime!((form.stride(half), form.stride(form.chunk)));
    #[unroll]
    for turn in 0..comptime!((half * half).div_ceil(form.units())) {
        let index = turn * form.units() + UNIT_POS as usize;
        if index < half * half {
            let (x, y) = (index / half, index % half);
            let mut value = 0.0f32;
            if x / side == y / side {
                let (late, _) = pair_of(x, side);
                let (_, early) = pair_of(y, side);
                value = factor * f32::cast_from(from[late * square_stride + early]);
            }
            to[x * stride + y] = E::cast_from(value);
        }
    }
}

/// Adds packed rows, decayed by `exp(sums)`, to those of their tokens: of the later halves or of the earlier.
#[cube]
fn add_rows(
    part: &Tiles,
    to: &mut [f32],
    sums: &[f32],
    row: usize,
    column: usize,
    #[comptime] later: bool,
    #[comptime] side: usize,
    #[comptime] form: Form,
) {
    let wide = comptime!(form.wide(form.d_k));
    #[unroll]
    for i in 0..comptime!(part.m) {
        #[unroll]
        for half in 0..2usize {
            let (late, early) = pair_of(row + own_row() + ROWS * i + 8 * half, side);
            let token = if comptime!(later) { late } else { early };
            #[unroll]
            for j in 0..comptime!(part.n) {
                let tile = part.pairs.index(comptime!(i * part.n + j));
                #[unroll]
                for next in 0..2usize {
                    let at = token * wide + column + own_column() + COLUMNS * j + next;
                    to[at] += tile[half].extract(next) * sums[at].exp();
                }
            }
        }
    }
}
