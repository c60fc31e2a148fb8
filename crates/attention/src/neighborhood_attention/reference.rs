//! The definition, with the whole matrix of all pairs of tokens.

use burn::tensor::{Bool, Int, Tensor, TensorData};

use super::WindowAxis;

/// `o_i = Σ_j p_ij v_j`, `p_i = softmax_j(scale · q_i · k_j + bias_(j−i))` over the neighbourhood of i and the extra keys, and
/// `lse_i = ln Σ_j exp(scale · q_i · k_j + bias_(j−i))`. O(N²) time and memory.
///
/// # Shapes
/// - `q`: `[B, X1…Xr, H, K]`; `k`: `[B, X1…Xr, G, K]`; `v`: `[B, X1…Xr, G, V]`
/// - `bias`: `[H, (2k_1 − 1) ⋯ (2k_r − 1)]`; `extra`: `[B, M, G, K]` and `[B, M, G, V]`
/// - output: `[B, X1…Xr, H, V]` and `[B, X1…Xr, H, 1]`
pub fn dense<const N: usize>(
    [q, k, v]: [Tensor<N>; 3],
    axes: &[WindowAxis],
    scale: f64,
    bias: Option<Tensor<2>>,
    extra: Option<[Tensor<4>; 2]>,
) -> (Tensor<N>, Tensor<N>) {
    let shape = q.dims();
    let (grid, h) = (&shape[1..N - 2], shape[N - 2]);
    let n: usize = grid.iter().product();
    let m = extra.as_ref().map_or(0, |x| x[0].dims()[1]);
    let device = q.device();
    // [B, heads, tokens, width]
    let flat = |x: Tensor<N>| {
        let dims = x.dims();
        x.reshape([dims[0], n, dims[N - 2], dims[N - 1]]).swap_dims(1, 2)
    };
    let joined = |x: Tensor<N>, extra: Option<Tensor<4>>| {
        let x = flat(x);
        let x = extra.map_or(x.clone(), |extra| Tensor::cat(vec![x, extra.swap_dims(1, 2)], 2));
        let [b, g, s, width] = x.dims();
        x.unsqueeze_dim::<5>(2).expand([b, g, h / g, s, width]).reshape([b, h, s, width])
    };
    let [extra_k, extra_v] = extra.map_or([None, None], |x| x.map(Some));
    let (q, k, v) = (flat(q), joined(k, extra_k), joined(v, extra_v));

    let mut scores = (q * scale).matmul(k.swap_dims(2, 3)); // [B, H, N, N + M]
    if let Some(bias) = bias {
        let places = offsets(grid, axes);
        let index = Tensor::<1, Int>::from_data(TensorData::new(places, [n * n]), &device);
        let none = Tensor::zeros([1, h, n, m], (&device, scores.dtype()));
        scores = scores + Tensor::cat(vec![bias.select(1, index).reshape([1, h, n, n]), none], 3);
    }
    let hidden = hidden(grid, axes);
    let hidden = hidden.chunks(n.max(1)).flat_map(|row| row.iter().copied().chain(std::iter::repeat_n(false, m))).collect::<Vec<_>>();
    let hidden = Tensor::<4, Bool>::from_data(TensorData::new(hidden, [1, 1, n, n + m]), &device);
    let dims = scores.dims();
    let scores = scores.mask_fill(hidden.expand(dims), f64::NEG_INFINITY);
    let highest = scores.clone().max_dim(3).detach();
    let powers = (scores - highest.clone()).exp();
    let sum = powers.clone().sum_dim(3);
    let back = |x: Tensor<4>| {
        let mut shape = shape;
        shape[N - 1] = x.dims()[3];
        x.swap_dims(1, 2).reshape(shape)
    };
    (back((powers / sum.clone()).matmul(v)), back(sum.log() + highest))
}

/// Which tokens of a grid are hidden from which, by the rule of [`WindowAxis`]: N rows of queries, N keys each, both row-major.
pub fn hidden(grid: &[usize], axes: &[WindowAxis]) -> Vec<bool> {
    let hidden = |axis: &WindowAxis, length: usize, query: usize, key: usize| {
        let (d, group) = (axis.dilation, query % axis.dilation);
        key % d != group || !axis.seen(query / d, (length - group).div_ceil(d)).contains(&(key / d))
    };
    let tokens = tokens(grid);
    let pair = |query: &[usize], key: &[usize]| (0..grid.len()).any(|i| hidden(&axes[i], grid[i], query[i], key[i]));
    tokens.iter().flat_map(|query| tokens.iter().map(|key| pair(query, key))).collect()
}

/// Where in the table of biases the number of each pair stands; anywhere for pairs that are hidden from one another.
fn offsets(grid: &[usize], axes: &[WindowAxis]) -> Vec<i64> {
    let tokens = tokens(grid);
    let place = |query: &[usize], key: &[usize]| {
        (0..grid.len()).fold(0, |place, i| {
            let WindowAxis { window, dilation, .. } = axes[i];
            let offset = (key[i] / dilation + window - 1).saturating_sub(query[i] / dilation);
            place * (2 * window - 1) as i64 + offset.min(2 * window - 2) as i64
        })
    };
    tokens.iter().flat_map(|query| tokens.iter().map(|key| place(query, key))).collect()
}

/// All tokens of a grid, row-major.
fn tokens(grid: &[usize]) -> Vec<Vec<usize>> {
    grid.iter().fold(vec![Vec::new()], |rows, &length| {
        rows.into_iter().flat_map(|row| (0..length).map(move |x| [&row[..], &[x]].concat())).collect()
    })
}
