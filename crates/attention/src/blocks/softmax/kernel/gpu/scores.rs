//! From products of queries and keys to scores: scale, biases, hidden keys.

use cubecl::prelude::*;

use crate::blocks::cube::tiles::{Products, column_of, row_of};

/// What a kernel is compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Form {
    pub(super) products: Products,
    pub(super) causal: bool,
    /// Whether there is a bias `[B, H, T, S]`, broadcast by strides of 0.
    pub(super) bias: bool,
    /// Whether there is a bias by distance `[H, N]`.
    pub(super) distances: bool,
    /// Whether keys are hidden by `[B, S]`, not 0 = hidden.
    pub(super) padding: bool,
    /// Whether scores are products times a positive number, by which only differences of products are multiplied then.
    pub(super) plain: bool,
    /// Vectors in a row of queries and keys, values.
    pub(super) key_width: usize,
    pub(super) value_width: usize,
    /// Planes of a cube, and rows of 16 of one: of the queries in the passes over keys, of the keys in the pass over queries.
    pub(super) planes: usize,
    pub(super) m_tiles: usize,
    /// Columns of 8 of a plane's tile.
    pub(super) n_tiles: usize,
}

impl Form {
    /// Units of a cube.
    pub(super) const fn units(&self) -> usize {
        32 * self.planes
    }

    /// Rows of a cube's tile.
    pub(super) const fn rows(&self) -> usize {
        16 * self.planes * self.m_tiles
    }

    /// Columns of a cube's tile.
    pub(super) const fn columns(&self) -> usize {
        8 * self.n_tiles
    }
}

/// Where a plane's tile lies.
#[derive(CubeType, Clone, Copy)]
pub(super) struct Place {
    pub(super) batch: usize,
    pub(super) head: usize,
    pub(super) first_query: usize,
    pub(super) first_key: usize,
    /// Queries T and keys S of the problem.
    pub(super) queries: usize,
    pub(super) keys: usize,
}

/// Turns a plane's products into scores, −∞ where a key is hidden. Rows are queries and columns keys, or the reverse if `transposed`.
/// Factors are `scale` on products and `unit`, that of the exponential, on biases; the tensors that `form` does without are not read.
/// Scores are still to be multiplied by [`factor`].
#[cube]
pub(super) fn score<E: Float>(
    products: &mut Array<f32>,
    bias: &Tensor<E>,
    distances: &Tensor<E>,
    padding: &Tensor<i32>,
    scale: f32,
    unit: f32,
    place: Place,
    #[comptime] form: Form,
    #[comptime] transposed: bool,
) {
    let rows = comptime!(16 * form.m_tiles);
    let columns = comptime!(8 * form.n_tiles);
    let last_key = place.first_key + comptime!(if transposed { rows } else { columns });
    // Whether any key of the tile is hidden by where it is: past the end, or after the tile's first query.
    let edge = last_key > place.keys || (comptime!(form.causal) && last_key + place.queries > place.first_query + place.keys + 1);
    #[unroll]
    for m in 0..form.m_tiles {
        #[unroll]
        for n in 0..form.n_tiles {
            #[unroll]
            for i in 0..4usize {
                let at = comptime!(4 * (m * form.n_tiles + n) + i);
                if comptime!(!form.plain) {
                    products[at] *= scale;
                }
                if comptime!(form.bias || form.distances || form.padding) {
                    let row = comptime!(16 * m) + row_of(i);
                    let column = comptime!(8 * n) + column_of(i);
                    let (query, key) = if comptime!(transposed) {
                        (place.first_query + column, place.first_key + row)
                    } else {
                        (place.first_query + row, place.first_key + column)
                    };
                    // Those past the end are hidden below, or belong to rows that are not written.
                    let query = usize::min(query, place.queries - 1);
                    let key = usize::min(key, place.keys - 1);
                    if comptime!(form.bias) {
                        let from =
                            place.batch * bias.stride(0) + place.head * bias.stride(1) + query * bias.stride(2) + key * bias.stride(3);
                        products[at] += f32::cast_from(bias[from]) * unit;
                    }
                    if comptime!(form.distances) {
                        let (a, b) = (query + place.keys, key + place.queries);
                        let distance = usize::min(usize::max(a, b) - usize::min(a, b), distances.shape(1) - 1);
                        products[at] += f32::cast_from(distances[place.head * distances.stride(0) + distance]) * unit;
                    }
                    if comptime!(form.padding) && padding[place.batch * place.keys + key] != 0i32 {
                        products[at] = f32::new(f32::NEG_INFINITY);
                    }
                }
            }
        }
    }
    if edge {
        #[unroll]
        for m in 0..form.m_tiles {
            #[unroll]
            for n in 0..form.n_tiles {
                #[unroll]
                for i in 0..4usize {
                    let at = comptime!(4 * (m * form.n_tiles + n) + i);
                    let row = comptime!(16 * m) + row_of(i);
                    let column = comptime!(8 * n) + column_of(i);
                    let (query, key) = if comptime!(transposed) {
                        (place.first_query + column, place.first_key + row)
                    } else {
                        (place.first_query + row, place.first_key + column)
                    };
                    let hidden = key >= place.keys || (comptime!(form.causal) && key + place.queries > query + place.keys);
                    products[at] = select(hidden, f32::new(f32::NEG_INFINITY), products[at]);
                }
            }
        }
    }
}

/// What scores are multiplied by in exponents.
#[cube]
pub(super) fn factor(scale: f32, #[comptime] form: Form) -> f32 {
    if comptime!(form.plain) { scale } else { 1.0f32.runtime() }
}

/// Tiles of keys that the queries before `end` see.
#[cube]
pub(super) fn tiles_of_keys(end: usize, queries: usize, keys: usize, #[comptime] form: Form) -> usize {
    let mut seen = keys;
    if comptime!(form.causal) {
        let end = usize::min(end, queries) + keys;
        seen = if end > queries { usize::min(keys, end - queries) } else { 0usize.runtime() };
    }
    seen.div_ceil(comptime!(form.columns()))
}
