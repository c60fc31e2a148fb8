use burn::tensor::{Bool, Int, Tensor};

use super::reference;
use crate::{Error, Result};

const OP: &str = "softmax_attention";

/// What [`softmax_attention`] does besides the plain sum.
#[derive(Clone, Debug, Default)]
pub struct SoftmaxOptions {
    /// Whether query t sees only the keys 0..=t; with more keys than queries the last query sees all keys.
    pub causal: bool,
    /// Factor on `q · k`; `None` = 1/√K.
    pub scale: Option<f64>,
    /// `[B, S]`, `true` = hidden from every query.
    pub key_padding: Option<Tensor<2, Bool>>,
    /// Added to the scaled scores: `[B or 1, H or 1, T or 1, S]`. Its gradient is computed.
    pub bias: Option<Tensor<4>>,
}

/// Multi-head softmax attention with grouped key/value heads: query head h reads key/value head `h / (H/G)`.
///
/// # Shapes
/// - `q`: `[B, H, T, K]`; `k`: `[B, G, S, K]`; `v`: `[B, G, S, V]`, H a multiple of G
/// - output: `o` `[B, H, T, V]` and the log-sum-exp of the scores `[B, H, T]`
///
/// # Errors
/// If the shapes disagree.
pub fn softmax_attention(q: Tensor<4>, k: Tensor<4>, v: Tensor<4>, options: SoftmaxOptions) -> Result<(Tensor<4>, Tensor<3>)> {
    let [b, h, t, d_k] = q.dims();
    let [_, g, s, _] = k.dims();
    let d_v = v.dims()[3];
    if [b, d_k] != [k.dims()[0], k.dims()[3]] {
        return Err(Error::shape(OP, ("q", &q.dims()), ("k", &k.dims()), "batch and key width"));
    }
    if k.dims()[..3] != v.dims()[..3] {
        return Err(Error::shape(OP, ("k", &k.dims()), ("v", &v.dims()), "batch, heads and tokens"));
    }
    if g == 0 || h % g != 0 {
        return Err(Error::argument(OP, "k", format!("of a number of heads that divides H = {h}"), g));
    }
    let scale = options.scale.unwrap_or_else(|| 1.0 / (d_k as f64).sqrt());
    let grouped = |x: Tensor<4>, width: usize| -> Tensor<4> {
        if g == h { x } else { x.unsqueeze_dim::<5>(2).expand([b, g, h / g, s, width]).reshape([b, h, s, width]) }
    };
    let (k, v) = (grouped(k, d_k), grouped(v, d_v));
    let causal = options.causal.then(|| {
        let device = q.device();
        let row = Tensor::<1, Int>::arange(0..t as i64, &device).reshape([1, 1, t, 1]) + (s as i64 - t as i64);
        let column = Tensor::<1, Int>::arange(0..s as i64, &device).reshape([1, 1, 1, s]);
        column.expand([1, 1, t, s]).greater(row.expand([1, 1, t, s]))
    });
    let padding = options.key_padding.map(|p| p.reshape([b, 1, 1, s]));
    let hidden = match (causal, padding) {
        (Some(a), Some(p)) => Some(a.expand([b, 1, t, s]).bool_or(p.expand([b, 1, t, s]))),
        (a, p) => a.or(p),
    };
    Ok(reference::dense(q, k, v, scale, options.bias, hidden))
}
