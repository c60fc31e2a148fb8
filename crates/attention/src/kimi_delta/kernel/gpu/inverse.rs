//! The inverse of `I + diag(β) A`, A strictly lower triangular: squares of 16 by substitution, then joined pairwise, `-(D⁻¹ C) A⁻¹` below
//! the diagonal.

use cubecl::{cmma::MmaDefinition, prelude::*};

use super::form::Form;
use crate::blocks::cube::tile_product::{COLUMNS, INNER, Pair, ROWS, Tiles, own_column, own_row, plane};

/// The squares of 16 on the diagonal, a unit per column.
#[cube]
pub(crate) fn invert_squares(a: &[f32], beta: &[f32], inverse: &mut [f32], #[comptime] form: Form) {
    let wide = comptime!(form.wide(form.chunk));
    let column = UNIT_POS as usize;
    if column < form.chunk {
        let start = column / INNER * INNER;
        let mut values = Array::<f32>::new(INNER);
        #[unroll]
        for i in 0..INNER {
            let row = start + i;
            let mut sum = 0.0f32;
            #[unroll]
            for l in 0..i {
                sum += a[row * wide + start + l] * values[l];
            }
            let value = select(row == column, 1.0f32, select(row > column, -beta[row] * sum, 0.0f32));
            values[i] = value;
            inverse[row * wide + column] = value;
        }
    }
}

/// What lies below the squares of [`invert_squares`], by multiply-adds; above are zeros. `room`: C²/4 numbers.
#[cube]
pub(crate) fn join_squares(a: &[f32], beta: &[f32], inverse: &mut [f32], room: &mut [f32], #[comptime] form: Form) {
    let wide = comptime!(form.wide(form.chunk));
    #[unroll]
    for level in 0..comptime!((form.chunk / INNER).ilog2() as usize) {
        let side = comptime!(INNER << level);
        let all = comptime!(form.chunk / 2 * side);
        #[unroll]
        for step in 0..2usize {
            #[unroll]
            for turn in 0..comptime!(all.div_ceil(form.units())) {
                let index = turn * form.units() + UNIT_POS as usize;
                if comptime!(all % form.units() == 0) || index < all {
                    let (group, x, y) = (index / comptime!(side * side), index / side % side, index % side);
                    let upper = group * comptime!(2 * side);
                    let lower = upper + side;
                    let mut sum = 0.0f32;
                    for l in 0..side {
                        if comptime!(step == 0) {
                            sum += a[(lower + x) * wide + upper + l] * inverse[(upper + l) * wide + upper + y];
                        } else {
                            sum += inverse[(lower + x) * wide + lower + l] * room[group * comptime!(side * side) + l * side + y];
                        }
                    }
                    if comptime!(step == 0) {
                        room[index] = beta[lower + x] * sum;
                    } else {
                        inverse[(lower + x) * wide + upper + y] = -sum;
                    }
                }
            }
            sync_cube();
        }
    }
}

/// The same by matrix units, a plane per square of 16, each factor as the sum of two numbers of 16 bits. What lies above the diagonal is
/// neither read nor written.
#[cube]
pub(crate) fn join_squares_by_units<E: Float>(a: &[f32], beta: &[f32], inverse: &mut [f32], room: &mut [f32], #[comptime] form: Form) {
    let wide = comptime!(form.wide(form.chunk));
    #[unroll]
    for level in 0..comptime!((form.chunk / INNER).ilog2() as usize) {
        let across = comptime!(1usize << level);
        let side = comptime!(INNER * across);
        let (group, square) = (plane() / comptime!(across * across), plane() % comptime!(across * across));
        let (x, y) = (square / across, square % across);
        let upper = group * comptime!(2 * side);
        let lower = upper + side;
        let own_room = group * comptime!(side * side);
        let there = upper < form.chunk;
        #[unroll]
        for step in 0..2usize {
            if there {
                let mut part = Tiles::zeros(1usize, 2usize);
                #[unroll]
                for l in 0..across {
                    if comptime!(step == 0) {
                        if l >= y {
                            let left = (lower + INNER * x) * wide + upper + comptime!(INNER * l);
                            let right = (upper + comptime!(INNER * l)) * wide + upper + INNER * y;
                            multiply_exactly::<E>(&mut part, &a[left..], &inverse[right..], wide, wide);
                        }
                    } else if l <= x {
                        let left = (lower + INNER * x) * wide + lower + comptime!(INNER * l);
                        let right = own_room + comptime!(INNER * l * side) + INNER * y;
                        multiply_exactly::<E>(&mut part, &inverse[left..], &room[right..], wide, side);
                    }
                }
                #[unroll]
                for j in 0..2usize {
                    let tile = part.pairs.index(j);
                    #[unroll]
                    for half in 0..2usize {
                        #[unroll]
                        for next in 0..2usize {
                            let row = INNER * x + own_row() + comptime!(8 * half);
                            let column = INNER * y + own_column() + comptime!(COLUMNS * j + next);
                            let value = tile[half].extract(next);
                            if comptime!(step == 0) {
                                room[own_room + row * side + column] = beta[lower + row] * value;
                            } else {
                                inverse[(lower + row) * wide + upper + column] = -value;
                            }
                        }
                    }
                }
            }
            sync_cube();
        }
    }
}

/// `part += A B` of squares of 16.
#[cube]
fn multiply_exactly<E: Float>(part: &mut Tiles, a: &[f32], b: &[f32], #[comptime] a_stride: usize, #[comptime] b_stride: usize) {
    let mma = MmaDefinition::<E, E, f32>::new(ROWS, COLUMNS, INNER);
    let (row, column) = (own_row(), own_column());
    let mut left = Array::<Vector<E, Pair>>::new(4usize);
    let mut left_rest = Array::<Vector<E, Pair>>::new(4usize);
    #[unroll]
    for i in 0..4usize {
        let at = (row + comptime!(8 * (i % 2))) * a_stride + column + comptime!(8 * (i / 2));
        let (high, low) = halved::<E>(a[at], a[at + 1]);
        left[i] = high;
        left_rest[i] = low;
    }
    #[unroll]
    for j in 0..2usize {
        let mut right = Array::<Vector<E, Pair>>::new(2usize);
        let mut right_rest = Array::<Vector<E, Pair>>::new(2usize);
        #[unroll]
        for i in 0..2usize {
            let at = (column + comptime!(8 * i)) * b_stride + row + comptime!(COLUMNS * j);
            let (high, low) = halved::<E>(b[at], b[at + b_stride]);
            right[i] = high;
            right_rest[i] = low;
        }
        mma.execute_inplace(&left_rest, &right, part.pairs.index_mut(j));
        mma.execute_inplace(&left, &right_rest, part.pairs.index_mut(j));
        mma.execute_inplace(&left, &right, part.pairs.index_mut(j));
    }
}

/// Two numbers rounded, and what is left of them, rounded.
#[cube]
fn halved<E: Float>(x: f32, y: f32) -> (Vector<E, Pair>, Vector<E, Pair>) {
    let mut both = Vector::<f32, Pair>::empty();
    both.insert(0usize, x);
    both.insert(1usize, y);
    let high = Vector::<E, Pair>::cast_from(both);
    (high, Vector::cast_from(both - Vector::<f32, Pair>::cast_from(high)))
}
