//! Maps of images: sizes that divide, windows, norms over batches.

use burn::{
    nn::BatchNorm,
    tensor::{Tensor, ops::PadMode},
};

/// Zeros to the right and below, so that the sides are multiples of `sides`.
///
/// # Shapes
/// - `x`: `[B, Y, X, D]`; output: `[B, Y', X', D]`, Y' and X' the next multiples
pub fn pad_map(x: Tensor<4>, sides: [usize; 2]) -> Tensor<4> {
    let [_, y, columns, _] = x.dims();
    let [below, right] = [(y, sides[0]), (columns, sides[1])].map(|(length, side)| length.next_multiple_of(side) - length);
    if below + right == 0 { x } else { x.pad([(0, 0), (0, below), (0, right), (0, 0)], PadMode::Constant(0.0)) }
}

/// The first rows and columns: the reverse of [`pad_map`].
///
/// # Shapes
/// - `x`: `[B, Y', X', D]`; output: `[B, Y, X, D]`
pub fn crop_map(x: Tensor<4>, [y, columns]: [usize; 2]) -> Tensor<4> {
    if x.dims()[1..3] == [y, columns] { x } else { x.narrow(1, 0, y).narrow(2, 0, columns) }
}

/// A map in windows of P × Q tokens, row-major, as the tokens of each, row-major.
///
/// # Shapes
/// - `x`: `[B, Y, X, D]`, sides multiples of those of the windows; output: `[B, Y/P · X/Q, P · Q, D]`
pub fn to_windows(x: Tensor<4>, [p, q]: [usize; 2]) -> Tensor<4> {
    let [b, y, columns, d] = x.dims();
    let x = x.reshape([b, y / p, p, columns / q, q, d]).swap_dims(2, 3);
    x.reshape([b, y / p * (columns / q), p * q, d])
}

/// The reverse of [`to_windows`], for maps of Y × X tokens.
///
/// # Shapes
/// - `x`: `[B, Y/P · X/Q, P · Q, D]`; output: `[B, Y, X, D]`
pub fn from_windows(x: Tensor<4>, [p, q]: [usize; 2], [y, columns]: [usize; 2]) -> Tensor<4> {
    let [b, _, _, d] = x.dims();
    x.reshape([b, y / p, columns / q, p, q, d]).swap_dims(2, 3).reshape([b, y, columns, d])
}

/// A batch norm over all tokens of all maps, per channel.
///
/// # Shapes
/// - `x`: `[B, Y, X, D]`; output: the same
pub fn batch_norm(norm: &BatchNorm, x: Tensor<4>) -> Tensor<4> {
    let dims = x.dims();
    if dims.contains(&0) {
        return x;
    }
    norm.forward(x.reshape([-1, dims[3] as i64])).reshape(dims)
}
