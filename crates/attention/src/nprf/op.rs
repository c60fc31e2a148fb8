use burn::tensor::{Bool, Tensor};

use super::{
    features::{Features, Sums},
    options::{NprfOptions, central, check_bias, check_mask, check_shapes, wide},
    product::{Grid, Plan},
};
use crate::{Error, Result, blocks::split};

const OP: &str = "nprf";

/// Kernelised attention with positive random features and, optionally, a relative positional bias.
///
/// ```text
/// o_i = Σ_j exp(b[j − i]) (φ(q_i) · φ(k_j)) v_j / Σ_j exp(b[j − i]) φ(q_i) · φ(k_j),   φ(x) = exp(W x − |x|²/2) / √M
/// ```
///
/// with queries and keys divided by their norms: an estimate of the softmax attention with the scores `q_i·k_j / (|q_i| |k_j|) +
/// b[j − i]`. With a bias O(min(T² (M + V), M V T log T)) time and O(T (M + V)) memory; without, O(T M V).
///
/// # Shapes
/// - `q`: `[B, H, T, K]`; `k`: `[B, H, S, K]`; `v`: `[B, H, S, V]`; T = S with a bias and in the causal form
/// - `projection` W: `[H, M, K]`, or `[1, M, K]` for all heads
/// - `bias` b: `[H, 2T − 1]`, entry `j − i + T − 1` for query i and key j, −∞ = never seen; of a longer table the middle counts
/// - output: `[B, H, T, V]`, and the logarithm of the denominator `[B, H, T]`; zeros and −∞ for a query that sees no key
///
/// # Errors
/// If the shapes disagree, a bias is NaN or +∞, or an option is out of its range.
pub fn nprf(
    q: Tensor<4>,
    k: Tensor<4>,
    v: Tensor<4>,
    projection: Tensor<3>,
    bias: Option<Tensor<2>>,
    options: &NprfOptions,
) -> Result<(Tensor<4>, Tensor<3>)> {
    check_shapes(OP, &q, &k, &v, &projection)?;
    let [b, h, t, _] = q.dims();
    let [_, _, s, d_v] = v.dims();
    if t != s && bias.is_some() {
        return Err(Error::argument(OP, "bias", "absent unless queries and keys are equal in number", format!("{t} queries, {s} keys")));
    }
    if t != s && options.causal {
        return Err(Error::argument(OP, "causal", "false unless queries and keys are equal in number", format!("{t} queries, {s} keys")));
    }
    check_mask(OP, options.key_mask.as_ref(), [b, s])?;
    let grid = Grid::line(t);
    let bias = match bias {
        Some(bias) => Some(central(OP, bias, h, grid)?),
        None => None,
    };
    check_bias(OP, &bias.iter().map(|x| ("bias", x.clone())).collect::<Vec<_>>(), options.clamp)?;
    let dtype = q.dtype();
    if b * h * t * s == 0 {
        let lse = Tensor::full([b, h, t], f64::NEG_INFINITY, (&q.device(), dtype));
        return Ok((Tensor::zeros([b, h, t, d_v], (&q.device(), dtype)), lse));
    }
    let x = Features::positive([q, k, v], projection, options.key_mask.clone(), options.normalised);
    let (o, log) = match bias {
        Some(bias) => {
            let (c, c_shift) = coefficients(bias.cast(wide(dtype)), options);
            let shift = x.q_shift.clone() + x.k_shift.clone() + c_shift.reshape([1, h, 1, 1]);
            let y = x.biased(c, Plan { grid, causal: options.causal, algorithm: options.algorithm, ratio: true });
            let [o, log] = split(y, 3, [d_v, 1]);
            (o, (log + shift).squeeze_dim(3))
        }
        None => x.unbiased(options.causal).ratio(),
    };
    Ok((o.cast(dtype), log.cast(dtype)))
}

/// [`nprf`] for the tokens of an image, with a bias by the difference of rows and columns.
///
/// # Shapes
/// - `q`, `k`: `[B, H, N, K]`; `v`: `[B, H, N, V]`; tokens row-major, N = Y X, or 1 + Y X with a class token in front
/// - `projection`: `[H or 1, M, K]`
/// - `bias`: `[H, 2Y − 1, 2X − 1]`, entry `[y_j − y_i + Y − 1, x_j − x_i + X − 1]` for query i and key j
/// - `class`: `[H, 3]`, the biases class → class, class → patch and patch → class (query → key); `None` = no class token
/// - output: `[B, H, N, V]` and `[B, H, N]`, as of [`nprf`]
///
/// # Errors
/// As [`nprf`]; also if `causal` is asked for, or the table is not that of a grid with N tokens.
pub fn nprf_grid(
    q: Tensor<4>,
    k: Tensor<4>,
    v: Tensor<4>,
    projection: Tensor<3>,
    bias: Tensor<3>,
    class: Option<Tensor<2>>,
    options: &NprfOptions,
) -> Result<(Tensor<4>, Tensor<3>)> {
    const OP: &str = "nprf_grid";
    check_shapes(OP, &q, &k, &v, &projection)?;
    let [b, h, n, _] = q.dims();
    if k.dims()[2] != n {
        return Err(Error::shape(OP, ("q", &q.dims()), ("k", &k.dims()), "tokens"));
    }
    if options.causal {
        return Err(Error::argument(OP, "causal", "false", true));
    }
    let [h_b, rows, columns] = bias.dims();
    let grid = Grid { rows: rows.div_ceil(2), columns: columns.div_ceil(2) };
    let first = usize::from(class.is_some());
    if h_b != h || rows % 2 == 0 || columns % 2 == 0 || grid.tokens() + first != n {
        let want = format!("of shape [H, 2Y − 1, 2X − 1] with H = {h} and Y X = {}", n.saturating_sub(first));
        return Err(Error::argument(OP, "bias", want, format!("{:?}", bias.dims())));
    }
    if let Some(class) = &class
        && class.dims() != [h, 3]
    {
        return Err(Error::argument(OP, "class", format!("of shape [H, 3] = [{h}, 3]"), format!("{:?}", class.dims())));
    }
    check_mask(OP, options.key_mask.as_ref(), [b, n])?;
    let bias = bias.reshape([h, rows * columns]);
    let given: Vec<_> = [("bias", Some(&bias)), ("class", class.as_ref())].into_iter().filter_map(|(n, x)| Some((n, x?.clone()))).collect();
    check_bias(OP, &given, options.clamp)?;
    let (dtype, d_v) = (q.dtype(), v.dims()[3]);
    if b * h == 0 {
        let lse = Tensor::full([b, h, n], f64::NEG_INFINITY, (&q.device(), dtype));
        return Ok((Tensor::zeros([b, h, n, d_v], (&q.device(), dtype)), lse));
    }
    let all = match class {
        Some(class) => Tensor::cat(vec![bias, class], 1),
        None => bias,
    };
    let (c, c_shift) = coefficients(all.cast(wide(dtype)), options);
    let x = Features::positive([q, k, v], projection, options.key_mask.clone(), options.normalised);
    let shift = x.q_shift.clone() + x.k_shift.clone() + c_shift.reshape([1, h, 1, 1]);
    let plan = Plan { grid, causal: false, algorithm: options.algorithm, ratio: first == 0 };
    if first == 0 {
        let [o, log] = split(x.biased(c, plan), 3, [d_v, 1]);
        return Ok((o.cast(dtype), (log + shift).squeeze_dim(3).cast(dtype)));
    }
    let taps = grid.taps();
    let entry = |i: usize| c.clone().narrow(1, taps + i, 1).reshape([1, h, 1, 1]);
    let patches = |x: &Features| x.part(1, n - 1);
    let class = |x: &Features| x.part(0, 1);
    let of_class = class(&x).sums_over(class(&x)) * entry(0) + class(&x).sums_over(patches(&x)) * entry(1);
    let from_class = patches(&x).sums_over(class(&x)) * entry(2);
    let of_patches = patches(&x).biased(c.clone().narrow(1, 0, taps), plan) + from_class;
    let (o, log) = Sums { y: Tensor::cat(vec![of_class, of_patches], 2), shift }.ratio();
    Ok((o.cast(dtype), log.cast(dtype)))
}

/// `exp(b − shift)`, 0 where b is −∞ or, in the causal form, of a later key; and the shift of each head, a constant `[H, 1]`, by which
/// the largest of them is 1.
pub(super) fn coefficients(bias: Tensor<2>, options: &NprfOptions) -> (Tensor<2>, Tensor<2>) {
    let [h, taps] = bias.dims();
    let mut never = bias.clone().equal_elem(f64::NEG_INFINITY);
    if options.causal {
        let later: Vec<bool> = (0..taps).map(|i| i > taps / 2).collect();
        let later = Tensor::<1, Bool>::from_data(later.as_slice(), &bias.device()).unsqueeze_dim::<2>(0).expand([h, taps]);
        never = never.bool_or(later);
    }
    let bias = bias.mask_fill(never.clone(), 0.0);
    let bias = match options.clamp {
        Some(bound) => bias.clamp(-bound, bound),
        None => bias,
    };
    let shift = bias.clone().detach().mask_fill(never.clone(), -1e30).max_dim(1).clamp_min(-1e4);
    ((bias - shift.clone()).exp().mask_fill(never, 0.0), shift)
}
