use burn::tensor::{DType, Tensor};

use super::{
    axis::WindowAxis,
    halo::HaloAxis,
    kernel::{self, Inputs, Relative},
    plan::Plan,
    routes::Routes,
};
use crate::{Error, Result};

const OP: &str = "neighborhood_attention";

/// How neighbourhoods are computed. Changes speed and memory; results only by rounding.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NeighborhoodAlgorithm {
    /// The fused kernel where there is one, else as `Tiles`.
    #[default]
    Auto,
    /// Tensor operations over tiles of queries and the boxes of keys that they see.
    Tiles,
}

/// What [`neighborhood_attention`] does besides the windows.
#[derive(Clone, Debug, Default)]
pub struct NeighborhoodOptions {
    /// Factor on `q · k`; `None` = 1/√K.
    pub scale: Option<f64>,
    /// Biases by relative position, added to the scaled scores: `[H, (2k_1 − 1) ⋯ (2k_r − 1)]`, row-major over the offsets of the key from
    /// the query, in positions of the dilation group, from −(k − 1) to k − 1 along each axis. Its gradient is computed. Not with causal
    /// axes.
    pub bias: Option<Tensor<2>>,
    /// Keys `[B, M, G, K]` and values `[B, M, G, V]` outside of the grid that every query sees, in the same softmax, without biases.
    pub extra: Option<[Tensor<4>; 2]>,
    /// How it is computed.
    pub algorithm: NeighborhoodAlgorithm,
}

/// Softmax attention of each token of a grid of one, two or three axes to its neighbourhood: see [`WindowAxis`].
///
/// `o_i = Σ_j p_ij v_j`, `p_ij = exp(x_ij − lse_i)`, `lse_i = ln Σ_j exp(x_ij)`, `x_ij = scale · q_i · k_j + bias_(j−i)`, sums over the
/// neighbourhood of i and the extra keys. Query head h reads key/value head `h / (H/G)`. Both outputs are differentiable.
///
/// O(N·Πk·(K+V)) time for N tokens; memory beside inputs and outputs does not grow with the windows. On the CPU in f32 by fused kernels that
/// read keys and values where they lie and whose results are the same bits in every run; elsewhere by tensor operations over tiles of
/// queries, which compute the scores again in the backward pass. f16 and bf16 are computed in f32.
///
/// # Shapes
/// - `axes`: r of them, N = r + 3
/// - `q`: `[B, X1…Xr, H, K]`; `k`: `[B, X1…Xr, G, K]`; `v`: `[B, X1…Xr, G, V]`, H a multiple of G
/// - output: `o` `[B, X1…Xr, H, V]` and the log-sum-exp of the scores `[B, X1…Xr, H, 1]`, which is f32 for f16 and bf16 inputs
///
/// # Errors
/// If the shapes or float types disagree, r is not 1, 2 or 3, a window times its dilation exceeds its axis, a stride its window, a number of
/// an axis is 0, or there is a bias with a causal axis.
pub fn neighborhood_attention<const N: usize>(
    q: Tensor<N>,
    k: Tensor<N>,
    v: Tensor<N>,
    axes: &[WindowAxis],
    options: NeighborhoodOptions,
) -> Result<(Tensor<N>, Tensor<N>)> {
    check([&q, &k, &v], axes, &options)?;
    let dtype = q.dtype();
    let wide = if dtype == DType::F64 { dtype } else { DType::F32 };
    let dims = q.dims();
    let plan = Plan::new(axes, &dims[1..N - 2], options.scale.unwrap_or_else(|| 1.0 / (dims[N - 1] as f64).sqrt()));
    let inputs = Inputs {
        grids: [q, k, v].map(|x| x.cast(wide)),
        bias: options.bias.map(|x| x.cast(wide)),
        extra: options.extra.map(|x| x.map(|x| x.cast(wide))),
        relative: None,
    };
    let [o, lse] = kernel::attend(inputs, plan, options.algorithm == NeighborhoodAlgorithm::Auto);
    Ok((o.cast(dtype), lse))
}

/// As [`neighborhood_attention`], for the map of an image each of whose regions sees the regions that it is sent to: for tensors of f32 on the
/// CPU that have been checked.
///
/// # Shapes
/// - `q`, `k`: `[B, Y, X, H, K]`; `v`: `[B, Y, X, H, V]`; output: `[B, Y, X, H, V]`
pub(crate) fn routed(q: Tensor<5>, k: Tensor<5>, v: Tensor<5>, routes: Routes, scale: f64) -> Tensor<5> {
    let [_, y, x, ..] = q.dims();
    let [o, _] =
        kernel::attend(Inputs { bias: None, extra: None, relative: None, grids: [q, k, v] }, Plan::routed(routes, [y, x], scale), true);
    o
}

/// As [`neighborhood_attention`], for a map of Y × X tokens in blocks with a halo, with vectors by relative row and column whose products with
/// `factor` times the query are added to the scores: for tensors of f32 on the CPU that have been checked.
///
/// # Shapes
/// - `q`: `[B, Y/s, X/s, H, K]`, rounded up; `k`: `[B, Y', X', H, K]`; `v`: `[B, Y', X', H, V]`, Y' and X' without or with the keys outside
/// - `relative`: `[2w − 1, K]` each, w the window; output: `[B, Y/s, X/s, H, V]`
pub(crate) fn haloed(
    [q, k, v]: [Tensor<5>; 3],
    relative: [Tensor<2>; 2],
    axis: HaloAxis,
    map: [usize; 2],
    [scale, factor]: [f64; 2],
) -> Tensor<5> {
    let relative = Some(Relative { vectors: relative, factor });
    let [o, _] = kernel::attend(Inputs { bias: None, extra: None, relative, grids: [q, k, v] }, Plan::halo(axis, map, scale), true);
    o
}

fn check<const N: usize>([q, k, v]: [&Tensor<N>; 3], axes: &[WindowAxis], options: &NeighborhoodOptions) -> Result<()> {
    if !(1..=3).contains(&axes.len()) {
        return Err(Error::argument(OP, "axes", "one, two or three", axes.len()));
    }
    let r = axes.len();
    if N != r + 3 {
        return Err(Error::argument(OP, "q", format!("[B, {r} axes, H, K]"), format!("{:?}", q.dims())));
    }
    let [dims, of_keys, of_values] = [q, k, v].map(Tensor::dims);
    if dims[..=r] != of_keys[..=r] || dims[N - 1] != of_keys[N - 1] {
        return Err(Error::shape(OP, ("q", &dims), ("k", &of_keys), "batch, grid and key width"));
    }
    if of_keys[..N - 1] != of_values[..N - 1] {
        return Err(Error::shape(OP, ("k", &of_keys), ("v", &of_values), "batch, grid and heads"));
    }
    let (b, h, g) = (dims[0], dims[N - 2], of_keys[N - 2]);
    if dims[N - 1] == 0 {
        return Err(Error::argument(OP, "q", "of a key width of at least 1", format!("{dims:?}")));
    }
    if g == 0 || h % g != 0 {
        return Err(Error::argument(OP, "k", format!("of a number of heads that divides H = {h}"), g));
    }
    for (i, (axis, &length)) in axes.iter().zip(&dims[1..]).enumerate() {
        axis.check(OP, i, length)?;
    }
    if let Some(scale) = options.scale.filter(|scale| !scale.is_finite()) {
        return Err(Error::argument(OP, "scale", "finite", scale));
    }
    if let Some(bias) = &options.bias {
        if let Some(i) = axes.iter().position(|axis| axis.causal) {
            return Err(Error::argument(OP, "bias", "absent where an axis is causal", format!("one, and axis {i} is causal")));
        }
        let want = [h, axes.iter().map(|axis| 2 * axis.window - 1).product()];
        if bias.dims() != want {
            return Err(Error::argument(OP, "bias", format!("of shape {want:?}"), format!("{:?}", bias.dims())));
        }
    }
    if let Some([extra_k, extra_v]) = &options.extra {
        let ([b_k, m, g_k, width], of_values_) = (extra_k.dims(), extra_v.dims());
        if [b_k, g_k, width] != [b, g, dims[N - 1]] {
            let want = format!("of shape [{b}, M, {g}, {}]", dims[N - 1]);
            return Err(Error::argument(OP, "extra keys", want, format!("{:?}", extra_k.dims())));
        }
        let want = [b, m, g, of_values[N - 1]];
        if of_values_ != want {
            return Err(Error::argument(OP, "extra values", format!("of shape {want:?}"), format!("{of_values_:?}")));
        }
    }
    let extra = options.extra.iter().flatten().map(|x| ("extra", x.dtype()));
    let bias = options.bias.iter().map(|x| ("bias", x.dtype()));
    for (arg, dtype) in [("k", k.dtype()), ("v", v.dtype())].into_iter().chain(bias).chain(extra) {
        if dtype != q.dtype() {
            return Err(Error::argument(OP, arg, format!("of the float type of `q`, {:?}", q.dtype()), format!("{dtype:?}")));
        }
    }
    Ok(())
}
