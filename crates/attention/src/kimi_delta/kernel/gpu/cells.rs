//! Cells of a chunk, 16 tokens × 16 channels, in the registers of a plane as matrix units take them: pair `i` of unit `l` has the token
//! `l / 4 + 8 (i % 2)` and the channels `2 (l % 4) + 8 (i / 2)` and the next.
//!
//! The decay between two tokens is a product of two numbers in [0, 1]: what decays from the start of the square of the later token up to
//! it, and what decays after the earlier one to the end of its square, the squares being the two halves, of 1, 2, 4 or 8 tokens, that part
//! the tokens. Such products neither overflow nor cancel.

use cubecl::{
    cmma::{MatrixIdent, MmaDefinition},
    prelude::*,
};

use crate::blocks::cube::{
    row_tiles::Span,
    tile_product::{COLUMNS, INNER, Pair, ROWS, Tiles, lane, own_column, own_row},
    tiles::power_of_two,
};

/// Tokens and channels of a cell.
pub(crate) const CELL: usize = 16;
/// Pairs of numbers that a unit has of one.
const PAIRS: usize = 4;
/// Levels at which tokens of a cell part.
pub(crate) const LEVELS: usize = 4;

/// Products of decays over squares, by channels.
#[derive(CubeType)]
pub(crate) struct Decays {
    /// From the start of each token's square up to it, itself included.
    pub(crate) until: Array<Vector<f32, Pair>>,
    /// After each token to the end of its square.
    pub(crate) after: Array<Vector<f32, Pair>>,
}

/// The decays of single tokens, from their logarithms; `g` has a column per channel or one for all. Tokens past the end do not decay.
#[cube]
pub(crate) fn read_decays<G: Size>(g: &Tensor<Vector<f32, G>>, span: &Span, row: usize, column: usize) -> Decays {
    let (columns, width) = (g.shape(3), G::value().comptime());
    let base = span.batch * g.stride(0) + span.head * g.stride(1) + span.start * g.stride(2) + span.column;
    let mut until = Array::<Vector<f32, Pair>>::new(PAIRS);
    let mut after = Array::<Vector<f32, Pair>>::new(PAIRS);
    #[unroll]
    for i in 0..PAIRS {
        let token = row + own_row() + comptime!(8 * (i % 2));
        let channel = column + own_column() + comptime!(8 * (i / 2));
        let at = base + token * g.stride(2);
        let mut decay = Vector::<f32, Pair>::new(1.0f32);
        if token < span.tokens {
            if comptime!(width == 2) {
                if channel < columns {
                    let pair = g[(at + channel) / width];
                    decay.insert(0usize, exponential(pair.extract(0usize)));
                    decay.insert(1usize, exponential(pair.extract(1usize)));
                }
            } else {
                #[unroll]
                for next in 0..2usize {
                    if columns == 1 {
                        decay.insert(next, exponential(g[at].extract(0usize)));
                    } else if channel + next < columns {
                        decay.insert(next, exponential(g[at + channel + next].extract(0usize)));
                    }
                }
            }
        }
        until[i] = decay;
        after[i] = Vector::new(1.0f32);
    }
    Decays { until, after }
}

#[cube]
pub(crate) fn exponential(x: f32) -> f32 {
    power_of_two(x * std::f32::consts::LOG2_E)
}

/// Whether the unit's tokens are in the later half of a square of the level above, unless the halves are those of the cell.
#[cube]
fn is_late(#[comptime] level: usize) -> bool {
    lane() / comptime!(4usize << level) % 2 == 1
}

/// From squares of `2^level` tokens to those of twice as many.
#[cube]
pub(crate) fn widen(decays: &mut Decays, #[comptime] level: usize) {
    let side = comptime!(1usize << level);
    if comptime!(level + 1 < LEVELS) {
        let late = is_late(level);
        // The last token of the other half.
        let first = lane() / comptime!(8 * side) * comptime!(8 * side) + lane() % 4;
        let last = first + if late { comptime!(4 * (side - 1)).runtime() } else { comptime!(4 * (2 * side - 1)).runtime() };
        #[unroll]
        for i in 0..PAIRS {
            let other = shuffle(decays.until[i], last);
            let (until, after) = (decays.until[i], decays.after[i]);
            decays.until[i] = select(late, until * other, until);
            decays.after[i] = select(late, after, after * other);
        }
    } else {
        let last = 28 + lane() % 4;
        #[unroll]
        for half in 0..2usize {
            let (early, later) = comptime!((2 * half, 2 * half + 1));
            let of_early = shuffle(decays.until[early], last);
            let of_late = shuffle(decays.until[later], last);
            decays.after[early] *= of_late;
            decays.until[later] *= of_early;
        }
    }
}

#[cube]
fn shuffle(pair: Vector<f32, Pair>, from: usize) -> Vector<f32, Pair> {
    let mut result = Vector::<f32, Pair>::empty();
    #[unroll]
    for next in 0..2usize {
        result.insert(next, plane_shuffle(pair.extract(next), from as u32));
    }
    result
}

/// What the products of a level take each token with: what decays up to a token of a later half, after one of an earlier half.
#[cube]
fn halves(decays: &Decays, #[comptime] level: usize) -> Array<Vector<f32, Pair>> {
    let mut factors = Array::<Vector<f32, Pair>>::new(PAIRS);
    #[unroll]
    for i in 0..PAIRS {
        factors[i] = if comptime!(level + 1 < LEVELS) {
            select(is_late(level), decays.until[i], decays.after[i])
        } else if comptime!(i % 2 == 1) {
            decays.until[i]
        } else {
            decays.after[i]
        };
    }
    factors
}

/// A cell of a tile, whose row starts at `at`.
#[cube]
pub(crate) fn load_cell<E: Float>(tile: &[E], at: usize, #[comptime] stride: usize) -> Array<Vector<E, Pair>> {
    let lane = lane();
    let place = at + (lane % 8 + lane / 8 % 2 * 8) * stride + lane / 16 * 8;
    let mma = MmaDefinition::<E, E, f32>::new(ROWS, COLUMNS, INNER);
    mma.load_matrix::<E, Pair>(&tile[place..place + 8], MatrixIdent::A, PAIRS, false)
}

/// The reverse of [`load_cell`].
#[cube]
pub(crate) fn store_cell<E: Float>(cell: &Array<Vector<E, Pair>>, tile: &mut [E], at: usize, #[comptime] stride: usize) {
    let tile = tile.as_vectorized_mut().with_vector_size_mut::<Pair>();
    #[unroll]
    for i in 0..PAIRS {
        tile[(at + (own_row() + comptime!(8 * (i % 2))) * stride + own_column() + comptime!(8 * (i / 2))) / 2] = cell[i];
    }
}

/// A cell times factors, rounded.
#[cube]
pub(crate) fn scaled<E: Float>(cell: &Array<Vector<E, Pair>>, factors: &Array<Vector<f32, Pair>>) -> Array<Vector<E, Pair>> {
    let mut result = Array::<Vector<E, Pair>>::new(PAIRS);
    #[unroll]
    for i in 0..PAIRS {
        result[i] = Vector::cast_from(Vector::<f32, Pair>::cast_from(cell[i]) * factors[i]);
    }
    result
}

/// Sums over the channels of products of a cell's tokens, a square of 16 for each level at which they part; the two highest share one.
#[cube]
pub(crate) fn no_levels() -> Tiles {
    Tiles::zeros(comptime!(LEVELS - 1), 2usize)
}

/// Adds the products of the tokens of two cells to those of a level. Of squares that do not belong to the level, nothing is used, but
/// the two highest must not meet: halves of the cell, and its two quarters on the diagonal.
#[cube]
fn add_level<E: Float>(late: &Array<Vector<E, Pair>>, early: &Array<Vector<E, Pair>>, sums: &mut Tiles, #[comptime] level: usize) {
    let mma = MmaDefinition::<E, E, f32>::new(ROWS, COLUMNS, INNER);
    #[unroll]
    for j in 0..comptime!(if level + 1 < LEVELS { 2 } else { 1 }) {
        let mut left = Array::<Vector<E, Pair>>::new(PAIRS);
        #[unroll]
        for i in 0..PAIRS {
            let there = comptime!(match level {
                3 => i % 2 == 1,
                2 => i % 2 == j,
                _ => true,
            });
            left[i] = if comptime!(there) { late[i] } else { Vector::new(E::from_int(0)) };
        }
        let mut right = Array::<Vector<E, Pair>>::new(2usize);
        right[0] = early[j];
        right[1] = early[comptime!(j + 2)];
        mma.execute_inplace(&left, &right, sums.pairs.index_mut(comptime!(2 * level.min(LEVELS - 2) + j)));
    }
}

/// Adds the products of a cell of queries and of keys with the keys, decayed, over 16 channels. In the end `decays` are those of the
/// whole cell.
#[cube]
pub(crate) fn add_products<E: Float>(
    q: &Array<Vector<E, Pair>>,
    k: &Array<Vector<E, Pair>>,
    decays: &mut Decays,
    of_q: &mut Tiles,
    of_k: &mut Tiles,
) {
    #[unroll]
    for level in 0..LEVELS {
        let factors = halves(&*decays, level);
        let keys = scaled(k, &factors);
        add_level(&scaled(q, &factors), &keys, of_q, level);
        add_level(&keys, &keys, of_k, level);
        widen(decays, level);
    }
}

/// `q_t · k_t` of the unit's two tokens, over the unit's channels.
#[cube]
pub(crate) fn add_dots<E: Float>(q: &Array<Vector<E, Pair>>, k: &Array<Vector<E, Pair>>, dots: &mut Array<f32>) {
    #[unroll]
    for i in 0..PAIRS {
        let products = Vector::<f32, Pair>::cast_from(q[i]) * Vector::<f32, Pair>::cast_from(k[i]);
        dots[comptime!(i % 2)] += products.extract(0usize) + products.extract(1usize);
    }
}

/// The square of a cell, each number from the level at which its tokens part, zeros above the diagonal and `dots` on it.
#[cube]
pub(crate) fn join_levels(sums: &Tiles, dots: &Array<f32>) -> Tiles {
    let mut square = Tiles::zeros(1usize, 2usize);
    #[unroll]
    for j in 0..2usize {
        let tile = square.pairs.index_mut(j);
        #[unroll]
        for half in 0..comptime!(2 - j) {
            let half = comptime!(half + j);
            let mut pair = sums.pairs.index(comptime!(2 * (LEVELS - 2) + j))[half];
            if comptime!(half == j) {
                let mut all = dots[half];
                all += plane_shuffle_xor(all, 1u32);
                all += plane_shuffle_xor(all, 2u32);
                #[unroll]
                for next in 0..2usize {
                    let (row, column) = (own_row(), own_column() + next);
                    let apart = row ^ column;
                    let near =
                        select(apart >= 2, sums.pairs.index(comptime!(2 + j))[half].extract(next), sums.pairs.index(j)[half].extract(next));
                    let lower = select(apart >= 4, pair.extract(next), near);
                    pair.insert(next, select(row > column, lower, select(row == column, all, 0.0f32)));
                }
            }
            tile[half] = pair;
        }
    }
    square
}
