//! The tokens of one block among themselves: decays between two of them are products of those of the tokens between.

use std::ops::Range;

use super::{prepare::Prepared, problem::BLOCK};

/// One number per token of a block, or per channel of as many.
pub(super) type Lanes = [f32; BLOCK];

/// The products of the queries, and of the keys times β, of a block with its own keys, up to the diagonal.
#[inline(always)]
pub(super) fn scores(chunk: &mut Prepared, scale: f32, tokens: Range<usize>) {
    let (m, k) = (tokens.len(), chunk.k);
    let row = |i: usize| tokens.start + i.min(m - 1);
    let decay: [&[f32]; BLOCK] = std::array::from_fn(|i| &chunk.decays.each[row(i) * chunk.k_row..][..k]);
    let query: [&[f32]; BLOCK] = std::array::from_fn(|i| chunk.query(row(i)));
    let key: [&[f32]; BLOCK] = std::array::from_fn(|i| chunk.key(row(i)));
    let [of_query, of_key] = products::<false>([&decay, &query, &key, &key], k);
    for i in 0..m {
        let token = tokens.start + i;
        let beta = chunk.beta[token];
        let (of_q, of_k) = chunk.left[2 * token * chunk.left_row..].split_at_mut(chunk.left_row);
        let (of_q, of_k) = (&mut of_q[k + tokens.start..], &mut of_k[k + tokens.start..]);
        for j in 0..=i {
            of_q[j] = of_query[i][j] * scale;
        }
        for j in 0..i {
            of_k[j] = of_key[i][j] * beta;
        }
    }
}

/// The products of queries, and of other rows, with columns of a block, decayed to them. With `BEFORE` those of the other rows are
/// decayed to the token before the row's alone. Arguments: decays, queries, other rows, columns.
#[inline(always)]
pub(super) fn products<const BEFORE: bool>([decay, query, other, column]: [&[&[f32]; BLOCK]; 4], k: usize) -> [[Lanes; BLOCK]; 2] {
    let (mut of_query, mut of_other) = ([[0.0_f32; BLOCK]; BLOCK], [[0.0_f32; BLOCK]; BLOCK]);
    for d in 0..k {
        // Column j of channel d, decayed to token i, in lane j.
        let mut columns = [0.0_f32; BLOCK];
        for i in 0..BLOCK {
            if BEFORE {
                add(&mut of_other[i], other[i][d], &columns);
            }
            for column in &mut columns {
                *column *= decay[i][d];
            }
            columns[i] = column[i][d];
            add(&mut of_query[i], query[i][d], &columns);
            if !BEFORE {
                add(&mut of_other[i], other[i][d], &columns);
            }
        }
    }
    [of_query, of_other]
}

#[inline(always)]
fn add(sum: &mut Lanes, factor: f32, x: &Lanes) {
    for (sum, x) in sum.iter_mut().zip(x) {
        *sum = x.mul_add(factor, *sum);
    }
}

/// Adds what a block's own products pass on: to the gradients of its scaled queries and keys times β as rows (alternating, `[2·m, K]`),
/// and of its keys as columns (`[m, K]`), given those of the products (alternating, `[2·m, C]`).
#[inline(always)]
pub(super) fn backward(chunk: &Prepared, scale: f32, tokens: Range<usize>, products: &[f32], rows: &mut [f32], columns: &mut [f32]) {
    let (m, k, k_row) = (tokens.len(), chunk.k, chunk.k_row);
    let token = |i: usize| tokens.start + i.min(m - 1);
    let decay: [&[f32]; BLOCK] = std::array::from_fn(|i| &chunk.decays.each[token(i) * k_row..][..k]);
    let query: [&[f32]; BLOCK] = std::array::from_fn(|i| chunk.query(token(i)));
    let key: [&[f32]; BLOCK] = std::array::from_fn(|i| chunk.key(token(i)));
    // The factors of tokens that are missing in a short block are 0.
    let (mut of_query, mut of_key, mut beta) = ([[0.0_f32; BLOCK]; BLOCK], [[0.0_f32; BLOCK]; BLOCK], [0.0_f32; BLOCK]);
    for i in 0..m {
        beta[i] = chunk.beta[tokens.start + i];
        for j in 0..i {
            of_query[i][j] = products[2 * i * chunk.c_row + tokens.start + j];
            of_key[i][j] = products[(2 * i + 1) * chunk.c_row + tokens.start + j];
        }
    }
    let mut start = 0;
    while start < k {
        let width = BLOCK.min(k - start);
        let decays: [Lanes; BLOCK] = std::array::from_fn(|i| lanes(decay[i], start, width));
        let keys: [Lanes; BLOCK] = std::array::from_fn(|i| lanes(key[i], start, width));
        let (mut row_q, mut row_k) = ([[0.0_f32; BLOCK]; BLOCK], [[0.0_f32; BLOCK]; BLOCK]);
        for j in 0..BLOCK {
            let mut decayed = keys[j];
            for i in j + 1..BLOCK {
                for (x, decay) in decayed.iter_mut().zip(&decays[i]) {
                    *x *= decay;
                }
                add(&mut row_q[i], of_query[i][j], &decayed);
                add(&mut row_k[i], of_key[i][j], &decayed);
            }
        }
        let queries: [Lanes; BLOCK] = std::array::from_fn(|i| scaled(&lanes(query[i], start, width), scale));
        let beta_keys: [Lanes; BLOCK] = std::array::from_fn(|i| scaled(&keys[i], beta[i]));
        let mut column = [[0.0_f32; BLOCK]; BLOCK];
        for j in 0..BLOCK {
            for i in (j + 1..BLOCK).rev() {
                let sum = &mut column[j];
                add(sum, of_query[i][j], &queries[i]);
                add(sum, of_key[i][j], &beta_keys[i]);
                for (x, decay) in sum.iter_mut().zip(&decays[i]) {
                    *x *= decay;
                }
            }
        }
        for i in 0..m {
            accumulate(&mut rows[2 * i * k_row + start..][..width], &row_q[i]);
            accumulate(&mut rows[(2 * i + 1) * k_row + start..][..width], &row_k[i]);
            accumulate(&mut columns[i * k_row + start..][..width], &column[i]);
        }
        start += BLOCK;
    }
}

#[inline(always)]
fn lanes(x: &[f32], start: usize, width: usize) -> Lanes {
    if width == BLOCK {
        x[start..].first_chunk().copied().unwrap_or_default()
    } else {
        std::array::from_fn(|i| if i < width { x[start + i] } else { 0.0 })
    }
}

#[inline(always)]
fn scaled(x: &Lanes, factor: f32) -> Lanes {
    std::array::from_fn(|i| x[i] * factor)
}

#[inline(always)]
fn accumulate(sum: &mut [f32], x: &Lanes) {
    for (sum, x) in sum.iter_mut().zip(x) {
        *sum += x;
    }
}
