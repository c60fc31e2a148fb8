//! The definition, block by block.

use burn::tensor::{Int, Tensor, TensorData, activation};

use super::op::HaloOptions;

/// `O = softmax(scale · Q Kᵀ + R) V` in each block with its halo, `R = factor · (q · r^y_(u_y−p_y+w−1) + q · r^x_(u_x−p_x+w−1))`.
///
/// # Shapes
/// - `q`: `[B, ⌈Y/s⌉, ⌈X/s⌉, H, K]`; `k`: `[B, Y, X, H, K]`; `v`: `[B, Y, X, H, V]`; `relative`: `[2w − 1, K]` each, w = b + 2h
/// - output: `[B, ⌈Y/s⌉, ⌈X/s⌉, H, V]`
pub fn blocks([q, k, v]: [Tensor<5>; 3], relative: [Tensor<2>; 2], options: &HaloOptions, [scale, factor]: [f64; 2]) -> Tensor<5> {
    let [b, queries_y, queries_x, h, width] = q.dims();
    let [_, y, x, ..] = k.dims();
    let per_block = options.block / options.stride;
    let [k, v] = [k, v].map(|x| with_zeros(x, options.halo));
    let rows = (0..queries_y.div_ceil(per_block)).map(|block| {
        let (ty, keys_y) = (per_block.min(queries_y - block * per_block), Keys::of_block(options, block, y));
        let columns = (0..queries_x.div_ceil(per_block)).map(|column| {
            let (tx, keys_x) = (per_block.min(queries_x - column * per_block), Keys::of_block(options, column, x));
            let (t, s) = (ty * tx, keys_y.rows.len() * keys_x.rows.len());
            let q = q.clone().narrow(1, block * per_block, ty).narrow(2, column * per_block, tx);
            let q = q.permute([0, 3, 1, 2, 4]); // [B, H, ty, tx, K]
            let cut = |x: &Tensor<5>| {
                let width = x.dims()[4];
                let x = x.clone().select(1, keys_y.index(x)).select(2, keys_x.index(x));
                x.permute([0, 3, 1, 2, 4]).reshape([b, h, s, width])
            };
            let scores = (q.clone() * scale).reshape([b, h, t, width]).matmul(cut(&k).swap_dims(2, 3));
            let [by_row, by_column] = relative.clone().map(|vectors| {
                let offsets = vectors.dims()[0];
                let q = q.clone().reshape([b, h, t, width]) * factor;
                q.matmul(vectors.swap_dims(0, 1).unsqueeze()).reshape([b, h, ty, tx, offsets])
            });
            let by_row = moved(&by_row, 2, &keys_y, options).unsqueeze_dim::<6>(5); // [B, H, ty, tx, ky, 1]
            let by_column = moved(&by_column, 3, &keys_x, options).unsqueeze_dim::<6>(4); // [B, H, ty, tx, 1, kx]
            let scores = scores + (by_row + by_column).reshape([b, h, t, s]);
            let o = activation::softmax(scores, 3).matmul(cut(&v)); // [B, H, T, V]
            let width = o.dims()[3];
            o.reshape([b, h, ty, tx, width]).permute([0, 2, 3, 1, 4])
        });
        Tensor::cat(columns.collect(), 2)
    });
    Tensor::cat(rows.collect(), 1)
}

/// The products of queries with the vectors by relative place, for a block of b × b queries that see a window of w × w.
///
/// # Shapes
/// - `q`: `[N, blocks, b², K]`; `height`, `width`: `[2w − 1, K]`; output: `[N, blocks, b², w²]`
pub fn relative_logits(q: Tensor<4>, height: Tensor<2>, width: Tensor<2>, block: usize) -> Tensor<4> {
    let [n, blocks, ..] = q.dims();
    let window = height.dims()[0].div_ceil(2);
    let options = HaloOptions { block, halo: (window - block) / 2, ..HaloOptions::default() };
    let keys = Keys { rows: Vec::new(), places: (0..window).collect() };
    let [by_row, by_column] = [height, width].map(|vectors| {
        let products = q.clone().matmul(vectors.swap_dims(0, 1).unsqueeze());
        products.reshape([n, blocks, block, block, 2 * window - 1])
    });
    let by_row = moved(&by_row, 2, &keys, &options).unsqueeze_dim::<6>(5);
    let by_column = moved(&by_column, 3, &keys, &options).unsqueeze_dim::<6>(4);
    (by_row + by_column).reshape([n, blocks, block * block, window * window])
}

/// From products by offset `[B, H, ty, tx, 2w − 1]` to those of keys along one axis, that of the queries `axis`: `[B, H, ty, tx, keys]`
fn moved(products: &Tensor<5>, axis: usize, keys: &Keys, options: &HaloOptions) -> Tensor<5> {
    let window = options.block + 2 * options.halo;
    let parts = (0..products.dims()[axis]).map(|p| {
        let p_place = if options.in_pixels { p * options.stride } else { p };
        let offsets: Vec<i64> = keys.places.iter().map(|u| (u + window - 1 - p_place) as i64).collect();
        products.clone().narrow(axis, p, 1).select(4, index(offsets, products))
    });
    Tensor::cat(parts.collect(), axis)
}

fn index<const D: usize>(rows: Vec<i64>, like: &Tensor<D>) -> Tensor<1, Int> {
    let len = rows.len();
    Tensor::from_data(TensorData::new(rows, [len]), &like.device())
}

/// Zeros on all four sides of a map.
fn with_zeros(x: Tensor<5>, halo: usize) -> Tensor<5> {
    x.pad([(0, 0), (halo, halo), (halo, halo), (0, 0), (0, 0)], burn::tensor::ops::PadMode::Constant(0.0))
}

/// The keys along one axis that the queries of a block see.
struct Keys {
    /// In the map with zeros around it.
    rows: Vec<usize>,
    /// In the window.
    places: Vec<usize>,
}

impl Keys {
    fn of_block(options: &HaloOptions, block: usize, length: usize) -> Self {
        let HaloOptions { block: side, halo, masked, .. } = *options;
        let filled = length.next_multiple_of(side);
        let window = 0..side + 2 * halo;
        // Counted from the first of the halo of the first block.
        let seen = window.filter_map(|u| match block * side + u {
            place if place >= halo && place < halo + length => Some((place, u)),
            place if place < halo && !masked => Some((place, u)),
            place if place >= halo + filled && !masked => Some((place - (filled - length), u)),
            _ => None,
        });
        let (rows, places) = seen.unzip();
        Self { rows, places }
    }

    fn index(&self, like: &Tensor<5>) -> Tensor<1, Int> {
        index(self.rows.iter().map(|row| *row as i64).collect(), like)
    }
}
