use burn::tensor::{Bool, DType, Tensor};

use super::product::{Grid, NprfAlgorithm};
use crate::{Error, Result};

/// How [`nprf`](super::nprf()) computes.
#[derive(Clone, Debug)]
pub struct NprfOptions {
    /// Whether query i sees the keys j ≤ i only.
    pub causal: bool,
    /// Whether queries and keys are divided by their norms; if not, both are multiplied by `K^(-1/4)` (PRF).
    pub normalised: bool,
    /// Keys to leave out, `[B, S]`, `true` = hidden.
    pub key_mask: Option<Tensor<2, Bool>>,
    /// Largest magnitude of a finite bias: larger ones count as this, with a warning and without a gradient. `None` = no bound.
    pub clamp: Option<f64>,
    /// How the product with the bias is computed. Changes speed; results only by rounding.
    pub algorithm: NprfAlgorithm,
}

impl Default for NprfOptions {
    /// Bidirectional, normalised, all keys, biases within ±12.
    fn default() -> Self {
        Self { causal: false, normalised: true, key_mask: None, clamp: Some(12.0), algorithm: NprfAlgorithm::Auto }
    }
}

/// The operation's checks of what all its forms take. `heads` and `width` are of the queries.
pub(super) fn check_shapes(op: &'static str, q: &Tensor<4>, k: &Tensor<4>, v: &Tensor<4>, projection: &Tensor<3>) -> Result<()> {
    let ([b, h, _, d], [b_k, h_k, _, d_k]) = (q.dims(), k.dims());
    if [b, h, d] != [b_k, h_k, d_k] {
        return Err(Error::shape(op, ("q", &q.dims()), ("k", &k.dims()), "batch, heads and key width"));
    }
    if k.dims()[..3] != v.dims()[..3] {
        return Err(Error::shape(op, ("k", &k.dims()), ("v", &v.dims()), "batch, heads and tokens"));
    }
    if d == 0 {
        return Err(Error::argument(op, "q", "of at least one channel per head", d));
    }
    let [h_w, m, d_w] = projection.dims();
    if m == 0 || d_w != d || (h_w != h && h_w != 1) {
        let want = format!("of shape [H or 1, M, K] = [{h} or 1, at least 1, {d}]");
        return Err(Error::argument(op, "projection", want, format!("{:?}", projection.dims())));
    }
    Ok(())
}

/// Checks the shape of a mask of keys.
pub(super) fn check_mask(op: &'static str, mask: Option<&Tensor<2, Bool>>, keys: [usize; 2]) -> Result<()> {
    match mask {
        Some(mask) if mask.dims() != keys => {
            Err(Error::argument(op, "key_mask", format!("of shape [B, S] = {keys:?}"), format!("{:?}", mask.dims())))
        }
        _ => Ok(()),
    }
}

/// A mask of keys over all heads and channels. `[B, 1, S, 1]`
pub(super) fn column(mask: &Tensor<2, Bool>) -> Tensor<4, Bool> {
    let [b, s] = mask.dims();
    mask.clone().reshape([b, 1, s, 1])
}

/// Checks the biases of `names`, and the bound on them, by their values.
pub(super) fn check_bias(op: &'static str, bias: &[(&'static str, Tensor<2>)], clamp: Option<f64>) -> Result<()> {
    if let Some(bound) = clamp
        && !(bound > 0.0)
    {
        return Err(Error::argument(op, "clamp", "a positive number", bound));
    }
    let mut largest = 0.0_f64;
    for (name, bias) in bias {
        for x in bias.to_data().iter::<f64>() {
            if x.is_nan() || x == f64::INFINITY {
                return Err(Error::argument(op, name, "of numbers below infinity", x));
            }
            if x.is_finite() {
                largest = largest.max(x.abs());
            }
        }
    }
    if let Some(bound) = clamp
        && largest > bound
    {
        static ONCE: std::sync::Once = std::sync::Once::new();
        ONCE.call_once(|| log::warn!("nprf: a bias of magnitude {largest} counts as {bound}, the bound of `clamp`"));
    }
    Ok(())
}

/// The table of biases for the tokens at hand, a row of [`Grid::taps`] per head: the middle of a longer one.
pub(super) fn central(op: &'static str, bias: Tensor<2>, heads: usize, grid: Grid) -> Result<Tensor<2>> {
    let ([h, entries], taps) = (bias.dims(), grid.taps());
    if h != heads || entries < taps || !(entries - taps).is_multiple_of(2) {
        let want = format!("of shape [H, 2N − 1] = [{heads}, {taps}] or longer by an even number");
        return Err(Error::argument(op, "bias", want, format!("{:?}", bias.dims())));
    }
    Ok(bias.narrow(1, (entries - taps) / 2, taps))
}

/// Features, sums and reciprocals are never computed in less than f32.
pub(super) fn wide(dtype: DType) -> DType {
    if dtype == DType::F64 { dtype } else { DType::F32 }
}
