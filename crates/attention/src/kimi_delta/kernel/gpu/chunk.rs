//! What happens inside one chunk, whatever the state: tiles in shared memory, all units of a cube at work on them.

use cubecl::prelude::*;

use super::{
    form::Form,
    inverse::{invert_squares, join_squares},
};
use crate::blocks::cube::{
    row_tiles::Span,
    tile_product::{COLUMNS, ROWS, Tiles, multiply, own_column, own_row, plane, store},
};

/// The log decays of a chunk as sums over one token, `[C, K]`; `g` has a column per key channel or one for all.
#[cube]
pub(crate) fn load_decays(g: &Tensor<f32>, until: &mut [f32], after: &mut [f32], span: &Span, #[comptime] form: Form) {
    let stride = comptime!(form.wide(form.d_k));
    let (columns, d_k) = (g.shape(3), form.d_k);
    let base = span.batch * g.stride(0) + span.head * g.stride(1) + span.start * g.stride(2);
    #[unroll]
    for turn in 0..comptime!((form.chunk * form.d_k).div_ceil(form.units())) {
        let index = turn * form.units() + UNIT_POS as usize;
        if index < form.chunk * d_k {
            let (row, column) = (index / d_k, index % d_k);
            let mut value = 0.0f32;
            if row < span.tokens && (span.column + column < columns || columns == 1) {
                let at = if columns == 1 { 0usize.runtime() } else { span.column + column };
                value = g[base + row * g.stride(2) + at];
            }
            until[row * stride + column] = value;
            after[row * stride + column] = 0.0f32;
        }
    }
}

/// From sums over squares of `side` tokens to sums over twice as many: `until` holds what decays up to a token from the start of its
/// square, itself included, `after` what decays after it to the end. Sums of differences would cancel where decays are strong.
#[cube]
pub(crate) fn widen(until: &mut [f32], after: &mut [f32], #[comptime] side: usize, #[comptime] form: Form) {
    let wide = comptime!(form.wide(form.d_k));
    let all = comptime!(form.chunk / 2 * form.d_k);
    #[unroll]
    for step in 0..2usize {
        #[unroll]
        for turn in 0..comptime!(all.div_ceil(form.units())) {
            let index = turn * form.units() + UNIT_POS as usize;
            if comptime!(all % form.units() == 0) || index < all {
                let (p, column) = (index / form.d_k, index % form.d_k);
                let (late, early) = pair_of(p, side);
                let start = p / side * comptime!(2 * side);
                if comptime!(step == 0) {
                    after[early * wide + column] += until[(start + comptime!(2 * side - 1)) * wide + column];
                } else {
                    until[late * wide + column] += until[(start + comptime!(side - 1)) * wide + column];
                }
            }
        }
        sync_cube();
    }
}

/// Numbers of one per token, zeros past the end.
#[cube]
pub(crate) fn load_column(from: &Tensor<f32>, to: &mut [f32], span: &Span, #[comptime] form: Form) {
    #[unroll]
    for turn in 0..comptime!(form.chunk.div_ceil(form.units())) {
        let row = turn * form.units() + UNIT_POS as usize;
        if row < form.chunk {
            let mut value = 0.0f32;
            if row < span.tokens {
                value = from[span.batch * from.stride(0) + span.head * from.stride(1) + (span.start + row) * from.stride(2)];
            }
            to[row] = value;
        }
    }
}

/// Row `p` of the packed halves of a level whose squares have `side` rows: the token of the later half and that of the earlier.
#[cube]
pub(crate) fn pair_of(p: usize, #[comptime] side: usize) -> (usize, usize) {
    let early = p / side * comptime!(2 * side) + p % side;
    (early + side, early)
}

/// For the squares of a level: the later halves of the rows of `q` and `k`, decayed from the end of the earlier half, and the earlier
/// halves of the rows of `k`, decayed to it. All exponents are ≤ 0. The later halves of `k` are times their β if `strong`.
#[cube]
pub(crate) fn decay_halves<E: Float>(
    q: &[E],
    k: &[E],
    until: &[f32],
    after: &[f32],
    late_q: &mut [E],
    late_k: &mut [E],
    early_k: &mut [E],
    beta: &[f32],
    #[comptime] strong: bool,
    #[comptime] q_stride: usize,
    #[comptime] side: usize,
    #[comptime] form: Form,
) {
    let (wide, packed) = comptime!((form.wide(form.d_k), form.stride(form.d_k)));
    let all = comptime!(form.chunk / 2 * form.d_k);
    #[unroll]
    for turn in 0..comptime!(all.div_ceil(form.units())) {
        let index = turn * form.units() + UNIT_POS as usize;
        if comptime!(all % form.units() == 0) || index < all {
            let (p, column) = (index / form.d_k, index % form.d_k);
            let (late, early) = pair_of(p, side);
            let down = until[late * wide + column].exp();
            let up = after[early * wide + column].exp();
            late_q[p * packed + column] = E::cast_from(f32::cast_from(q[late * q_stride + column]) * down);
            let factor = if comptime!(strong) { beta[late] * down } else { down };
            late_k[p * packed + column] = E::cast_from(f32::cast_from(k[late * packed + column]) * factor);
            early_k[p * packed + column] = E::cast_from(f32::cast_from(k[early * packed + column]) * up);
        }
    }
}

/// Which square of 16 × 16 of a level's packed products a plane computes, for which of two left matrices.
#[derive(CubeType, Clone, Copy)]
pub(crate) struct Square {
    pub(crate) second: bool,
    pub(crate) row: usize,
    pub(crate) column: usize,
    pub(crate) there: bool,
}

/// The squares of a level for the planes of turn `turn`.
#[cube]
pub(crate) fn square(turn: usize, #[comptime] side: usize, #[comptime] form: Form) -> Square {
    let index = turn * form.planes + plane();
    let (second, place) = (index % 2 == 1, index / 2);
    if comptime!(side > ROWS) {
        let across = comptime!(form.chunk / 2 / ROWS);
        Square { second, row: place / across * ROWS, column: place % across * ROWS, there: place < across * across }
    } else {
        Square { second, row: place * ROWS, column: place * ROWS, there: place < comptime!(form.chunk / 2 / ROWS) }
    }
}

/// How many turns the planes take for all squares of a level.
pub(crate) fn turns(side: usize, form: Form) -> usize {
    let across = form.chunk / 2 / ROWS;
    (2 * if side > ROWS { across * across } else { across }).div_ceil(form.planes)
}

/// `scores_ij = Σ_d q_id k_jd exp(gc_id − gc_jd)` and the same of `k` for `i > j`, in their places in two `[C, C]`; the diagonal of the
/// scores is `q_i · k_i`. What lies above is not written. In
/// the end `until` and `after` are sums over the whole chunk.
#[cube]
pub(crate) fn decayed_products<E: Float>(
    q: &[E],
    k: &[E],
    until: &mut [f32],
    after: &mut [f32],
    late_q: &mut [E],
    late_k: &mut [E],
    early: &mut [E],
    scores: &mut [f32],
    corrections: &mut [f32],
    partial: &mut [f32],
    #[comptime] q_stride: usize,
    #[comptime] form: Form,
) {
    let wide = comptime!(form.wide(form.chunk));
    let packed = comptime!(form.stride(form.d_k));
    #[unroll]
    for level in 0..comptime!(form.levels()) {
        let side = comptime!(1usize << level);
        sync_cube();
        decay_halves::<E>(q, k, &*until, &*after, late_q, late_k, early, &*until, false, q_stride, side, form);
        sync_cube();
        #[unroll]
        for turn in 0..comptime!(turns(side, form)) {
            let square = square(turn, side, form);
            if square.there {
                let mut part = Tiles::zeros(1usize, 2usize);
                let lie = comptime!(form.right_turned(form.d_k, packed, packed));
                if square.second {
                    multiply::<E>(&mut part, &late_k[square.row * packed..], &early[square.column * packed..], &*until, lie);
                    scatter(&part, corrections, &square, side, wide);
                } else {
                    multiply::<E>(&mut part, &late_q[square.row * packed..], &early[square.column * packed..], &*until, lie);
                    scatter(&part, scores, &square, side, wide);
                }
            }
        }
        widen(until, after, side, form);
    }
    // The diagonal, four units to a row.
    let unit = UNIT_POS as usize;
    if unit < 4 * form.chunk {
        let (row, part) = (unit / 4, unit % 4);
        let mut sum = 0.0f32;
        for i in 0..comptime!(form.d_k / 4) {
            let column = 4 * i + part;
            sum += f32::cast_from(q[row * q_stride + column]) * f32::cast_from(k[row * packed + column]);
        }
        partial[unit] = sum;
    }
    sync_cube();
    if unit < form.chunk {
        scores[unit * wide + unit] = partial[4 * unit] + partial[4 * unit + 1] + partial[4 * unit + 2] + partial[4 * unit + 3];
    }
}

/// Puts the products of packed rows that belong to one square of the level into their places.
#[cube]
fn scatter(part: &Tiles, to: &mut [f32], square: &Square, #[comptime] side: usize, #[comptime] wide: usize) {
    #[unroll]
    for j in 0..2usize {
        let tile = part.pairs.index(j);
        #[unroll]
        for half in 0..2usize {
            #[unroll]
            for next in 0..2usize {
                let (x, y) = (square.row + own_row() + 8 * half, square.column + own_column() + COLUMNS * j + next);
                if x / side == y / side {
                    let (late, _) = pair_of(x, side);
                    let (_, early) = pair_of(y, side);
                    to[late * wide + early] = tile[half].extract(next);
                }
            }
        }
    }
}

/// The inverse of `I + diag(β) A`, `A` strictly lower triangular. `room`: C²/4 numbers.
#[cube]
pub(crate) fn invert(a: &[f32], beta: &[f32], inverse: &mut [f32], room: &mut [f32], #[comptime] form: Form) {
    let wide = comptime!(form.wide(form.chunk));
    #[unroll]
    for turn in 0..comptime!((form.chunk * form.chunk).div_ceil(form.units())) {
        let index = turn * form.units() + UNIT_POS as usize;
        if index < form.chunk * form.chunk {
            inverse[index / form.chunk * wide + index % form.chunk] = 0.0f32;
        }
    }
    sync_cube();
    invert_squares(a, beta, inverse, form);
    sync_cube();
    join_squares(a, beta, inverse, room, form);
}

/// A matrix of f32 rounded into a tile, zeros above the diagonal.
#[cube]
pub(crate) fn round_lower<E: Float>(from: &[f32], to: &mut [E], factor: f32, #[comptime] form: Form) {
    let (wide, stride) = comptime!((form.wide(form.chunk), form.stride(form.chunk)));
    #[unroll]
    for turn in 0..comptime!((form.chunk * form.chunk).div_ceil(form.units())) {
        let index = turn * form.units() + UNIT_POS as usize;
        if index < form.chunk * form.chunk {
            let (row, column) = (index / form.chunk, index % form.chunk);
            let mut value = 0.0f32;
            if column <= row {
                value = factor * from[row * wide + column];
            }
            to[row * stride + column] = E::cast_from(value);
        }
    }
}

/// The rows of a tile times a factor each.
#[cube]
pub(crate) fn scale_rows<E: Float>(
    tile: &mut [E],
    factors: &[f32],
    #[comptime] width: usize,
    #[comptime] stride: usize,
    #[comptime] form: Form,
) {
    #[unroll]
    for turn in 0..comptime!((form.chunk * width).div_ceil(form.units())) {
        let index = turn * form.units() + UNIT_POS as usize;
        if index < form.chunk * width {
            let at = index / width * stride + index % width;
            tile[at] = E::cast_from(f32::cast_from(tile[at]) * factors[index / width]);
        }
    }
}

/// Writes a plane's part of a product into a tile.
#[cube]
pub(crate) fn store_part<E: Float>(part: &Tiles, tile: &mut [E], row: usize, column: usize, #[comptime] stride: usize) {
    store::<E>(part, &mut tile[row * stride + column..], stride);
}
