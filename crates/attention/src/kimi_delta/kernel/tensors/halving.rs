//! Chunk-local matrices by halves.
//!
//! A lower triangular matrix over a chunk of C tokens, C a power of two, is split into its two halves on the diagonal and the square
//! below them, and the halves again, down to single tokens. The squares of size s (level s = 1, 2, 4 … C/2) of all chunks form one
//! batch `[P, s, s]`, P = M·C/2s: rows are the tokens of the second half of their pair, columns those of the first.
//!
//! The decay from token j to token i of one square is the product of the decay from j to the end of the first half and of that from
//! there to i, both products of numbers in [0, 1]: nothing overflows and nothing is divided or subtracted, whatever the decays are.

use burn::tensor::Tensor;

use crate::blocks::matmul;

/// The first or the second halves of the pairs of level `s`, as a view. `x`: `[M, C, K]`; output: `[P, s, K]`.
pub(super) fn half(x: &Tensor<3>, s: usize, second: bool) -> Tensor<3> {
    let [m, c, width] = x.dims();
    x.clone().reshape([m * c / (2 * s), 2 * s, width]).narrow(1, if second { s } else { 0 }, s)
}

/// Adds `x` `[P, s, K]` to one half of each pair of level `s` of `sum` `[M, C, K]`.
pub(super) fn add_to_half(sum: Tensor<3>, x: Tensor<3>, second: bool) -> Tensor<3> {
    let [m, c, width] = sum.dims();
    let [p, s, _] = x.dims();
    let sum = sum.reshape([p, 2 * s, width]);
    let start = if second { s } else { 0 };
    let updated = x + sum.clone().narrow(1, start, s);
    sum.slice_assign([0..p, start..start + s], updated).reshape([m, c, width])
}

/// Decays of all channels inside chunks.
pub(super) struct Decays {
    /// For s = 1, 2, 4 … C/2.
    pub(super) levels: Vec<LevelDecays>,
    /// From the start of the chunk through token i: `exp(g_1 + … + g_i)`. `[M, C, K]`
    pub(super) from_start: Tensor<3>,
    /// From after token i to the end of the chunk: `exp(g_{i+1} + … + g_C)`; `None` = 1, in chunks of one token. `[M, C, K]`
    pub(super) to_end: Option<Tensor<3>>,
}

/// Decays of the squares of one level.
pub(super) struct LevelDecays {
    /// From the start of the second half through token i. `[P, s, K]`
    pub(super) rows: Tensor<3>,
    /// From after token j to the end of the first half; `None` = 1. `[P, s, K]`
    pub(super) columns: Option<Tensor<3>>,
}

impl LevelDecays {
    /// The keys of the first halves at the end of those.
    pub(super) fn decay_columns(&self, x: Tensor<3>) -> Tensor<3> {
        scaled(x, self.columns.as_ref())
    }
}

/// `x ⊙ factor`.
pub(super) fn scaled<const D: usize>(x: Tensor<D>, factor: Option<&Tensor<D>>) -> Tensor<D> {
    match factor {
        Some(factor) => x * factor.clone(),
        None => x,
    }
}

impl Decays {
    /// `g`: `[M, C, K]`, C a power of two.
    pub(super) fn new(g: Tensor<3>) -> Self {
        let [m, c, width] = g.dims();
        let mut from_start = g.exp();
        let mut to_end: Option<Tensor<3>> = None;
        let mut levels = Vec::new();
        let mut s = 1;
        while s < c {
            let p = m * c / (2 * s);
            // Of the halves, one number per channel. `[P, 1, K]`
            let total = |second| half(&from_start, s, second).narrow(1, s - 1, 1);
            let (first, second) = (total(false), total(true));
            let ones = first.ones_like();
            let halves = |factors| Tensor::cat(factors, 1).reshape([p, 2, 1, width]);
            let level = LevelDecays { rows: half(&from_start, s, true), columns: to_end.as_ref().map(|x| half(x, s, false)) };
            let ends = halves(vec![second, ones.clone()]);
            to_end = Some(match to_end {
                Some(x) => (x.reshape([p, 2, s, width]) * ends).reshape([m, c, width]),
                None => ends.reshape([m, c, width]),
            });
            from_start = (from_start.reshape([p, 2, s, width]) * halves(vec![ones, first])).reshape([m, c, width]);
            levels.push(level);
            s *= 2;
        }
        Self { levels, from_start, to_end }
    }

    /// Of whole chunks, one number per channel. `[M, 1, K]`
    pub(super) fn total(&self) -> Tensor<3> {
        let c = self.from_start.dims()[1];
        self.from_start.clone().narrow(1, c - 1, 1)
    }

    /// `x` at the end of its chunk. `[M, C, K]`
    pub(super) fn decay_to_end(&self, x: Tensor<3>) -> Tensor<3> {
        scaled(x, self.to_end.as_ref())
    }
}

/// The matrix `[M, C, C]` of its diagonal `[M·C, 1, 1]` and the squares of the levels; zeros above the diagonal.
pub(super) fn join(diagonal: Tensor<3>, squares: impl IntoIterator<Item = Tensor<3>>) -> Tensor<3> {
    squares.into_iter().fold(diagonal, join_level)
}

/// Pairs of blocks `[2P, s, s]` on the diagonal and the squares `[P, s, s]` below them as blocks `[P, 2s, 2s]`.
fn join_level(blocks: Tensor<3>, squares: Tensor<3>) -> Tensor<3> {
    let [p, s, _] = squares.dims();
    let blocks = blocks.reshape([p, 2 * s, s]);
    let right = blocks.clone().slice_assign([0..p, 0..s], squares.zeros_like());
    let left = blocks.slice_assign([0..p, s..2 * s], squares);
    Tensor::cat(vec![left, right], 2)
}

/// The inverse of [`join`]: the diagonal `[M·C, 1, 1]` of `matrix` `[M, C, C]` and its squares in the order of the levels.
pub(super) fn split(matrix: Tensor<3>) -> (Tensor<3>, Vec<Tensor<3>>) {
    let mut blocks = matrix;
    let mut squares = Vec::new();
    while blocks.dims()[1] > 1 {
        let [p, c, _] = blocks.dims();
        let s = c / 2;
        let upper = blocks.clone().narrow(1, 0, s).narrow(2, 0, s);
        let lower = blocks.narrow(1, s, s);
        squares.push(lower.clone().narrow(2, 0, s));
        blocks = Tensor::cat(vec![upper, lower.narrow(2, s, s)], 1).reshape([2 * p, s, s]);
    }
    squares.reverse();
    (blocks, squares)
}

/// The inverse `[M, C, C]` of the unit lower triangular matrices whose squares are given, by forward substitution in blocks:
/// `[[A, 0], [X, B]]⁻¹ = [[A⁻¹, 0], [−B⁻¹ X A⁻¹, B⁻¹]]`.
///
/// `ones`: `[M·C, 1, 1]`
pub(super) fn invert_unit_lower(ones: Tensor<3>, squares: Vec<Tensor<3>>) -> Tensor<3> {
    squares.into_iter().fold(ones, |inverse, x| {
        let [p, s, _] = x.dims();
        if s == 1 {
            return join_level(inverse, x.neg());
        }
        let pair = inverse.clone().reshape([p, 2 * s, s]);
        let (first, second) = (pair.clone().narrow(1, 0, s), pair.narrow(1, s, s));
        join_level(inverse, matmul(matmul(second, x), first).neg())
    })
}

#[cfg(test)]
mod tests {
    use burn::tensor::DType;
    use regard_testkit::{Sampler, assert_close, cpu, relative_error};

    use super::*;

    fn identity(c: usize) -> Tensor<3> {
        Tensor::<2>::eye(c, &cpu()).cast(DType::F64).unsqueeze_dim(0)
    }

    #[test]
    fn a_lower_triangular_matrix_survives_splitting_and_joining() {
        let matrix = Sampler::new(1).tensor([3, 16, 16], -1.0, 1.0).f64(&cpu()).tril(0);
        let (diagonal, squares) = split(matrix.clone());
        assert_eq!(squares.iter().map(|s| s.dims()[1]).collect::<Vec<_>>(), [1, 2, 4, 8]);
        assert_close("joined", &join(diagonal, squares), &matrix, 0.0);
    }

    #[test]
    fn the_inverse_times_the_matrix_is_the_identity() {
        for c in [1, 2, 32] {
            let matrix = Sampler::new(2).tensor([3, c, c], -0.5, 0.5).f64(&cpu()).tril(-1) + identity(c);
            let (diagonal, squares) = split(matrix.clone());
            let inverse = invert_unit_lower(diagonal.ones_like(), squares);
            let identity = identity(c).expand([3, c, c]);
            assert!(relative_error(&inverse.matmul(matrix), &identity) < 1e-12);
        }
    }

    #[test]
    fn decays_of_a_square_multiply_to_the_decay_between_its_tokens() {
        let g = Sampler::new(3).tensor([2, 8, 3], -2.0, 0.0).f64(&cpu());
        let decays = Decays::new(g.clone());
        let sums = g.clone().cumsum(1);
        assert_close("from the start", &decays.from_start, &sums.clone().exp(), 1e-14);
        let to_end = (sums.clone().narrow(1, 7, 1) - sums.clone()).exp();
        assert_close("to the end", &decays.decay_to_end(g.ones_like()), &to_end, 1e-14);
        for (level, s) in decays.levels.iter().zip([1, 2, 4]) {
            // The last token of the second half and the first token of the first half.
            let product = level.rows.clone().narrow(1, s - 1, 1) * level.decay_columns(half(&g.ones_like(), s, false)).narrow(1, 0, 1);
            let between = half(&sums, s, true).narrow(1, s - 1, 1) - half(&sums, s, false).narrow(1, 0, 1);
            assert_close("between", &product, &between.exp(), 1e-14);
        }
    }
}
