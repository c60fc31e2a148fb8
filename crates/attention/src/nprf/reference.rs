//! The definition, with the whole T×S matrix and nothing taken out of the exponents.

use burn::tensor::{Bool, Int, Tensor, activation};

use super::{
    features::{exponents, prepared, without},
    product::Grid,
};
use crate::blocks::matmul;

/// `o_i = Σ_j p_ij v_j / Σ_j p_ij` and the denominator, `p_ij = φ(q_i)·φ(k_j) exp(b_ij)`, `φ(x) = exp(W x − |x|²/2) / √M`.
///
/// # Shapes
/// - `q`: `[B, H, T, K]`; `k`: `[B, H, S, K]`; `v`: `[B, H, S, V]`; `projection` W: `[H or 1, M, K]`
/// - `bias` b: broadcasts to `[B, H, T, S]`, see [`bias_matrix`]; `hidden`: `[B, H, T, S]` or broadcast to it, `true` = hidden
/// - `normalised`: see [`NprfOptions::normalised`](super::NprfOptions::normalised)
/// - output: `[B, H, T, V]` and `[B, H, T]`; zeros for a query that sees no key
pub fn dense(
    q: Tensor<4>,
    k: Tensor<4>,
    v: Tensor<4>,
    projection: Tensor<3>,
    bias: Option<Tensor<4>>,
    hidden: Option<Tensor<4, Bool>>,
    normalised: bool,
) -> (Tensor<4>, Tensor<3>) {
    // Burn rounds the gradient of a division by a number to f32.
    let scale = (projection.dims()[1] as f64).powf(-0.5);
    let [q, k] = [q, k].map(|x| exponents(prepared(x, normalised), projection.clone()).exp() * scale);
    let mut weights = matmul(q, k.swap_dims(2, 3));
    if let Some(bias) = bias {
        weights = weights * bias.exp();
    }
    let weights = without(weights, hidden.as_ref());
    let denominator = weights.clone().sum_dim(3);
    let safe = denominator.clone().mask_fill(denominator.clone().equal_elem(0), 1);
    (matmul(weights, v) / safe, denominator.squeeze_dim(3))
}

/// The softmax attention that [`dense`] estimates: `p_ij = exp(q_i·k_j + b_ij)`, queries and keys prepared alike.
pub fn exact(
    q: Tensor<4>,
    k: Tensor<4>,
    v: Tensor<4>,
    bias: Option<Tensor<4>>,
    hidden: Option<Tensor<4, Bool>>,
    normalised: bool,
) -> Tensor<4> {
    let mut scores = matmul(prepared(q, normalised), prepared(k, normalised).swap_dims(2, 3));
    if let Some(bias) = bias {
        scores = scores + bias;
    }
    let Some(hidden) = hidden else { return matmul(activation::softmax(scores, 3), v) };
    let hidden = hidden.expand(scores.dims());
    matmul(activation::softmax(scores.mask_fill(hidden.clone(), -1e30), 3).mask_fill(hidden, 0.0), v)
}

/// The biases of all pairs of a sequence, `[1, H, N, N]`, from a table `[H, 2N − 1]`: entry `j − i + N − 1` is that of query i and
/// key j.
pub fn bias_matrix(bias: Tensor<2>) -> Tensor<4> {
    let tokens = bias.dims()[1].div_ceil(2);
    gathered(bias, Grid::line(tokens))
}

/// The biases of all pairs of tokens of a grid, row-major, from a table `[H, 2Y − 1, 2X − 1]`: entry `[y_j − y_i + Y − 1,
/// x_j − x_i + X − 1]`. `class` `[H, 3]` adds a class token in front: class → class, class → patch, patch → class.
pub fn grid_bias_matrix(bias: Tensor<3>, class: Option<Tensor<2>>) -> Tensor<4> {
    let [h, rows, columns] = bias.dims();
    let grid = Grid { rows: rows.div_ceil(2), columns: columns.div_ceil(2) };
    let patches = gathered(bias.reshape([h, rows * columns]), grid);
    let Some(class) = class else { return patches };
    let n = grid.tokens();
    let entry = |i: usize, shape: [usize; 4]| class.clone().narrow(1, i, 1).reshape([1, h, 1, 1]).expand(shape);
    let first = Tensor::cat(vec![entry(0, [1, h, 1, 1]), entry(1, [1, h, 1, n])], 3);
    Tensor::cat(vec![first, Tensor::cat(vec![entry(2, [1, h, n, 1]), patches], 3)], 2)
}

fn gathered(table: Tensor<2>, grid: Grid) -> Tensor<4> {
    let (h, n) = (table.dims()[0], grid.tokens());
    let at = |i: usize| [i / grid.columns, i % grid.columns];
    let entries: Vec<i64> = (0..n * n)
        .map(|pair| {
            let ([y_i, x_i], [y_j, x_j]) = (at(pair / n), at(pair % n));
            ((y_j + grid.rows - 1 - y_i) * (2 * grid.columns - 1) + x_j + grid.columns - 1 - x_i) as i64
        })
        .collect();
    let entries = Tensor::<1, Int>::from_data(entries.as_slice(), &table.device());
    table.select(1, entries).reshape([1, h, n, n])
}

/// `Σ_j c_ij (q_i · k_j) x_j` with the matrix of coefficients: for devices that have no kernel of the product.
pub(super) fn product(q: Tensor<4>, k: Tensor<4>, x: Tensor<4>, coefficients: Tensor<2>, grid: Grid) -> Tensor<4> {
    matmul(matmul(q, k.swap_dims(2, 3)) * gathered(coefficients, grid), x)
}
