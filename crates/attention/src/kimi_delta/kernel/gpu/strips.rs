//! Cells turned: pair `i` of unit `l` has the channel `l / 4 + 8 (i % 2)` and the tokens `2 (l % 4) + 8 (i / 2)` and the next, as the left
//! matrix of a product that sums over tokens, and as its result. A plane that has all cells of 16 channels, a strip, needs no other.
//!
//! Decays are products over squares of tokens as in [`cells`](super::cells).

use cubecl::{
    cmma::{MatrixIdent, MmaDefinition},
    prelude::*,
};

use super::cells::{Decays, LEVELS, exponential};
use crate::blocks::cube::{
    row_tiles::Span,
    tile_product::{COLUMNS, INNER, Pair, ROWS, Tiles, lane, own_column, own_row},
};

/// Pairs of numbers that a unit has of a cell.
pub(crate) const PAIRS: usize = 4;

/// One number for each pair of a cell.
pub(crate) type Numbers = Array<Vector<f32, Pair>>;

/// The token of the first number of pair `i`.
#[cube]
pub(crate) fn token_of(#[comptime] i: usize) -> usize {
    own_column() + comptime!(8 * (i / 2))
}

/// The channel of pair `i`.
#[cube]
pub(crate) fn channel_of(#[comptime] i: usize) -> usize {
    own_row() + comptime!(8 * (i % 2))
}

/// Log decays of a cell, zeros past the end; `g` has a column per channel or one for all.
#[cube]
pub(crate) fn read_logs(g: &Tensor<f32>, span: &Span, row: usize, column: usize) -> Numbers {
    let columns = g.shape(3);
    let base = span.batch * g.stride(0) + span.head * g.stride(1) + span.start * g.stride(2);
    let mut logs = Array::<Vector<f32, Pair>>::new(PAIRS);
    #[unroll]
    for i in 0..PAIRS {
        let channel = column + channel_of(i);
        let mut pair = Vector::<f32, Pair>::new(0.0f32);
        if channel < columns || columns == 1 {
            let at = base + if columns == 1 { 0usize.runtime() } else { channel };
            #[unroll]
            for next in 0..2usize {
                let token = row + token_of(i) + next;
                if token < span.tokens {
                    pair.insert(next, g[at + token * g.stride(2)]);
                }
            }
        }
        logs[i] = pair;
    }
    logs
}

/// The decays of single tokens.
#[cube]
pub(crate) fn single(logs: &Numbers) -> Decays {
    let mut until = Array::<Vector<f32, Pair>>::new(PAIRS);
    let mut after = Array::<Vector<f32, Pair>>::new(PAIRS);
    #[unroll]
    for i in 0..PAIRS {
        until[i] = pair_of(exponential(logs[i].extract(0usize)), exponential(logs[i].extract(1usize)));
        after[i] = Vector::new(1.0f32);
    }
    Decays { until, after }
}

/// Two numbers side by side.
#[cube]
pub(crate) fn pair_of(first: f32, second: f32) -> Vector<f32, Pair> {
    let mut pair = Vector::<f32, Pair>::empty();
    pair.insert(0usize, first);
    pair.insert(1usize, second);
    pair
}

/// From squares of `2^level` tokens to those of twice as many.
#[cube]
pub(crate) fn widen(decays: &mut Decays, #[comptime] level: usize) {
    let quad = lane() / 4 * 4;
    #[unroll]
    for i in 0..PAIRS {
        let (until, after) = (decays.until[i], decays.after[i]);
        if comptime!(level == 0) {
            let (first, second) = (until.extract(0usize), until.extract(1usize));
            decays.until[i] = pair_of(first, first * second);
            decays.after[i] = pair_of(second * after.extract(0usize), after.extract(1usize));
        } else if comptime!(level + 1 < LEVELS) {
            let late = is_late(level);
            // The last token of the other half.
            let from = if comptime!(level == 1) { lane() ^ 1 } else { quad + if late { 1usize.runtime() } else { 3usize.runtime() } };
            let other = Vector::new(plane_shuffle(until.extract(1usize), from as u32));
            decays.until[i] = select(late, until * other, until);
            decays.after[i] = select(late, after, after * other);
        } else if comptime!(i < 2) {
            let of_early = plane_shuffle(until.extract(1usize), (quad + 3) as u32);
            let of_late = plane_shuffle(decays.until[comptime!(i + 2)].extract(1usize), (quad + 3) as u32);
            decays.after[i] *= Vector::new(of_late);
            decays.until[comptime!(i + 2)] *= Vector::new(of_early);
        }
    }
}

/// Whether the unit's tokens are in the later half of a square of the level above: levels 1 and 2.
#[cube]
fn is_late(#[comptime] level: usize) -> bool {
    lane() / comptime!(level) % 2 == 1
}

/// What the products of a level take each token with: what decays up to a token of a later half, after one of an earlier half.
#[cube]
pub(crate) fn halves(decays: &Decays, #[comptime] level: usize) -> Numbers {
    let mut factors = Array::<Vector<f32, Pair>>::new(PAIRS);
    #[unroll]
    for i in 0..PAIRS {
        let (until, after) = (decays.until[i], decays.after[i]);
        factors[i] = if comptime!(level == 0) {
            pair_of(after.extract(0usize), until.extract(1usize))
        } else if comptime!(level + 1 < LEVELS) {
            select(is_late(level), until, after)
        } else if comptime!(i < 2) {
            after
        } else {
            until
        };
    }
    factors
}

/// The decay over the whole cell of the channels of pairs 0 and 1.
#[cube]
pub(crate) fn over_cell(decays: &Decays) -> Array<f32> {
    let mut whole = Array::<f32>::new(2usize);
    #[unroll]
    for half in 0..2usize {
        whole[half] = plane_shuffle(decays.until[comptime!(2 + half)].extract(1usize), (lane() / 4 * 4 + 3) as u32);
    }
    whole
}

/// A cell of a tile of tokens × channels, as f32.
#[cube]
pub(crate) fn load_turned<E: Float>(tile: &[E], row: usize, column: usize, #[comptime] stride: usize) -> Numbers {
    let lane = lane();
    let place = (row + lane % 8 + lane / 16 * 8) * stride + column + lane / 8 % 2 * 8;
    let mma = MmaDefinition::<E, E, f32>::new(ROWS, COLUMNS, INNER);
    let cell = mma.load_matrix::<E, Pair>(&tile[place..place + 8], MatrixIdent::A, PAIRS, true);
    let mut numbers = Array::<Vector<f32, Pair>>::new(PAIRS);
    #[unroll]
    for i in 0..PAIRS {
        numbers[i] = Vector::cast_from(cell[i]);
    }
    numbers
}

/// The reverse of [`load_turned`].
#[cube]
pub(crate) fn store_turned<E: Float>(cell: &Numbers, tile: &mut [E], row: usize, column: usize, #[comptime] stride: usize) {
    #[unroll]
    for i in 0..PAIRS {
        let at = (row + token_of(i)) * stride + column + channel_of(i);
        tile[at] = E::cast_from(cell[i].extract(0usize));
        tile[at + stride] = E::cast_from(cell[i].extract(1usize));
    }
}

/// Numbers times others, rounded for a product.
#[cube]
pub(crate) fn rounded<E: Float>(x: &Numbers, factors: &Numbers) -> Array<Vector<E, Pair>> {
    let mut result = Array::<Vector<E, Pair>>::new(PAIRS);
    #[unroll]
    for i in 0..PAIRS {
        result[i] = Vector::cast_from(x[i] * factors[i]);
    }
    result
}

/// `sums += factors ⊙ part`.
#[cube]
pub(crate) fn add_scaled(sums: &mut Numbers, part: &Tiles, factors: &Numbers) {
    #[unroll]
    for i in 0..PAIRS {
        sums[i] += part.pairs.index(comptime!(i / 2))[comptime!(i % 2)] * factors[i];
    }
}

/// A square of 16 of a tile of tokens × tokens as the right matrix of a product that sums over its columns, or over its rows.
#[cube]
pub(crate) fn load_square<E: Float>(
    tile: &[E],
    row: usize,
    column: usize,
    #[comptime] over_rows: bool,
    #[comptime] stride: usize,
) -> Array<Vector<E, Pair>> {
    let lane = lane();
    let (low, high) = (lane / 8 % 2 * 8, lane / 16 * 8);
    let place = if comptime!(over_rows) {
        (row + lane % 8 + low) * stride + column + high
    } else {
        (row + lane % 8 + high) * stride + column + low
    };
    let mma = MmaDefinition::<E, E, f32>::new(ROWS, COLUMNS, INNER);
    mma.load_matrix::<E, Pair>(&tile[place..place + 8], MatrixIdent::B, PAIRS, over_rows)
}

/// What of a square on the diagonal belongs to a level: rows in later halves, columns in the earlier halves of the same squares.
#[cube]
pub(crate) fn of_level<E: Float>(
    square: &Array<Vector<E, Pair>>,
    #[comptime] over_rows: bool,
    #[comptime] level: usize,
) -> Array<Vector<E, Pair>> {
    let zeros = Vector::<E, Pair>::new(E::from_int(0));
    let (single, paired) = (own_row(), own_column());
    let mut result = Array::<Vector<E, Pair>>::new(PAIRS);
    #[unroll]
    for i in 0..PAIRS {
        // Register i: the eight i / 2 of the axis that stays, the eight i % 2 of that which is summed over.
        let on_diagonal = comptime!(i / 2 == i % 2);
        result[i] = if comptime!(level + 1 == LEVELS) {
            if comptime!(i == if over_rows { 1 } else { 2 }) { square[i] } else { zeros }
        } else if comptime!(!on_diagonal) {
            zeros
        } else {
            // Within an eight; the summed axis has two neighbours in a register.
            let (row, column) = if comptime!(over_rows) { (paired, single) } else { (single, paired) };
            if comptime!(level == 0) {
                // The only two neighbours are the second, of a row, or the first, of a column.
                let mut pair = zeros;
                let there = if comptime!(over_rows) { row == column } else { row == column + 1 };
                let own = comptime!(usize::from(over_rows));
                pair.insert(own, select(there, square[i].extract(own), E::from_int(0)));
                pair
            } else {
                let there = (row ^ column) >> comptime!(level) == 1 && row > column;
                select(there, square[i], zeros)
            }
        };
    }
    result
}

/// `part += X B`, a cell and the right matrix of [`load_square`].
#[cube]
pub(crate) fn multiply_cell<E: Float>(part: &mut Tiles, x: &Array<Vector<E, Pair>>, square: &Array<Vector<E, Pair>>) {
    let mma = MmaDefinition::<E, E, f32>::new(ROWS, COLUMNS, INNER);
    #[unroll]
    for j in 0..2usize {
        let mut right = Array::<Vector<E, Pair>>::new(2usize);
        right[0] = square[comptime!(2 * j)];
        right[1] = square[comptime!(2 * j + 1)];
        mma.execute_inplace(x, &right, part.pairs.index_mut(j));
    }
}
