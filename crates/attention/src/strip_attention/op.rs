use burn::tensor::{DType, Tensor};

use super::rank_one;
use crate::{
    Error, Result,
    blocks::softmax::{SoftmaxOptions, softmax_attention},
};

const OP: &str = "strip_attention";

/// What [`strip_attention`] does besides the plain sum.
#[derive(Clone, Copy, Debug, Default)]
pub struct StripOptions {
    /// Factor on `q · k`; `None` = 1/√E.
    pub scale: Option<f64>,
    /// With queries and keys of one number, the error, relative to the largest value, up to which outputs may be interpolated from
    /// outputs at a few queries: O((N + N')·m·V) time, m growing with the spread of queries times that of keys. `None`, and wherever m
    /// would not be less than both N and N': exactly, O(N·N'·V).
    pub interpolate: Option<f64>,
}

/// Attention with very narrow queries and keys to the keys of a map that was made smaller: `O = softmax(scale · Q Kᵀ) V`.
///
/// Memory beside inputs and output is O(N + N'), in training too; differentiable on both paths.
///
/// # Shapes
/// - `q`: `[B, H, N, E]`; `k`: `[B, H, N', E]`; `v`: `[B, H, N', V]`; output: `[B, H, N, V]`
///
/// # Errors
/// If the shapes or float types disagree, there is no key, or an option is out of its range.
pub fn strip_attention(q: Tensor<4>, k: Tensor<4>, v: Tensor<4>, options: StripOptions) -> Result<Tensor<4>> {
    let ([b, h, n, e], [_, _, keys, _]) = (q.dims(), k.dims());
    if [b, h, e] != [k.dims()[0], k.dims()[1], k.dims()[3]] {
        return Err(Error::shape(OP, ("q", &q.dims()), ("k", &k.dims()), "batch, heads and key width"));
    }
    if k.dims()[..3] != v.dims()[..3] {
        return Err(Error::shape(OP, ("k", &k.dims()), ("v", &v.dims()), "batch, heads and tokens"));
    }
    for (arg, size) in [("q", e), ("k", keys)] {
        if size == 0 {
            return Err(Error::argument(OP, arg, "of at least one number and one token", format!("{:?}", k.dims())));
        }
    }
    for (arg, dtype) in [("k", k.dtype()), ("v", v.dtype())] {
        if dtype != q.dtype() {
            return Err(Error::argument(OP, arg, format!("of the float type of `q`, {:?}", q.dtype()), format!("{dtype:?}")));
        }
    }
    let scale = options.scale.unwrap_or_else(|| 1.0 / (e as f64).sqrt());
    if !scale.is_finite() {
        return Err(Error::argument(OP, "scale", "finite", scale));
    }
    if let Some(error) = options.interpolate {
        if !(error > 0.0 && error < 1.0) {
            return Err(Error::argument(OP, "interpolate", "between 0 and 1", error));
        }
        if e == 1 && b * h * n > 0 {
            let dtype = q.dtype();
            // The products are unnormalised: f16 would overflow.
            let wide = if dtype == DType::F64 { dtype } else { DType::F32 };
            let inputs = [q.clone(), k.clone(), v.clone()].map(|x| x.cast(wide));
            if let Some(o) = rank_one::interpolated(inputs, scale, error)? {
                return Ok(o.cast(dtype));
            }
        }
    }
    let (o, _) = softmax_attention(q, k, v, SoftmaxOptions { scale: Some(scale), ..Default::default() })?;
    Ok(o)
}
