use burn::{
    backend::{Dispatch, DispatchDevice},
    tensor::{Bool, DType, Tensor},
};

use super::kernel::{Inputs, Maybe, MaybeBool, Options, SoftmaxKernel};
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
    /// Added to the scaled scores by distance: `[H, N]`, for query t and key s the number `|t + S − T − s|` of its head, the last for
    /// distances of N − 1 and more. Its gradient is computed. Unlike a `bias` it needs no T×S matrix.
    pub distance_bias: Option<Tensor<2>>,
}

/// Multi-head softmax attention with grouped key/value heads: query head h reads key/value head `h / (H/G)`.
///
/// `o_t = Σ_s p_ts v_s`, `p_ts = exp(x_ts − lse_t)`, `lse_t = ln Σ_s exp(x_ts)`, `x_ts = scale · q_t · k_s + biases`, sums over the keys
/// that are not hidden. A query that sees no key gives zeros, the log-sum-exp −∞ and gradients of zeros. Both outputs are differentiable.
///
/// O(T·S·(K+V)) time; O(T + S) memory per head beside inputs and outputs, in training too: no T×S matrix is stored. On the CPU in f32 by
/// fused kernels, whose results are the same bits in every run; f16 and bf16 are computed by them in f32. On NVIDIA GPUs by fused kernels
/// too, for widths up to 256, and for all gradients but that of `distance_bias`. In f64, and elsewhere, by tensor operations over blocks of
/// queries, which compute the scores again in the backward pass.
///
/// # Shapes
/// - `q`: `[B, H, T, K]`; `k`: `[B, G, S, K]`; `v`: `[B, G, S, V]`, H a multiple of G
/// - output: `o` `[B, H, T, V]` and the log-sum-exp of the scores `[B, H, T]`, which is f32 for f16 and bf16 inputs
///
/// # Errors
/// If the shapes or float types disagree.
pub fn softmax_attention(q: Tensor<4>, k: Tensor<4>, v: Tensor<4>, options: SoftmaxOptions) -> Result<(Tensor<4>, Tensor<3>)> {
    check(&q, &k, &v, &options)?;
    let dtype = q.dtype();
    let SoftmaxOptions { causal, scale, key_padding, bias, distance_bias } = options;
    let scale = scale.unwrap_or_else(|| 1.0 / (q.dims()[3] as f64).sqrt());
    // The CPU has no arithmetic in half precision.
    let cast = matches!(dtype, DType::F16 | DType::BF16) && matches!(q.device().inner().as_dispatch(), DispatchDevice::Flex(_));
    let place = |x: Tensor<4>| if cast { x.cast(DType::F32) } else { x }.into_dispatch();
    let distance_bias = distance_bias.map(|x| if cast { x.cast(DType::F32) } else { x }.into_dispatch());
    let inputs = Inputs {
        q: place(q),
        k: place(k),
        v: place(v),
        bias: Maybe::new(bias.map(place)),
        distances: Maybe::new(distance_bias),
        padding: key_padding.map_or(MaybeBool::None, |padding| MaybeBool::Some(padding.into_dispatch())),
    };
    let (o, lse) = <Dispatch as SoftmaxKernel>::softmax_forward(inputs, Options { causal, scale });
    let o: Tensor<4> = Tensor::from_dispatch(o);
    Ok((if cast { o.cast(dtype) } else { o }, Tensor::from_dispatch(lse)))
}

fn check(q: &Tensor<4>, k: &Tensor<4>, v: &Tensor<4>, options: &SoftmaxOptions) -> Result<()> {
    let ([b, h, t, d_k], [_, g, s, _]) = (q.dims(), k.dims());
    if [b, d_k] != [k.dims()[0], k.dims()[3]] {
        return Err(Error::shape(OP, ("q", &q.dims()), ("k", &k.dims()), "batch and key width"));
    }
    if k.dims()[..3] != v.dims()[..3] {
        return Err(Error::shape(OP, ("k", &k.dims()), ("v", &v.dims()), "batch, heads and tokens"));
    }
    if d_k == 0 {
        return Err(Error::argument(OP, "q", "of a key width of at least 1", format!("{:?}", q.dims())));
    }
    if g == 0 || h % g != 0 {
        return Err(Error::argument(OP, "k", format!("of a number of heads that divides H = {h}"), g));
    }
    if options.scale.is_some_and(|scale| !scale.is_finite()) {
        return Err(Error::argument(OP, "scale", "finite", options.scale.unwrap_or_default()));
    }
    if let Some(padding) = &options.key_padding
        && padding.dims() != [b, s]
    {
        return Err(Error::argument(OP, "key_padding", format!("of shape {:?}", [b, s]), format!("{:?}", padding.dims())));
    }
    if let Some(bias) = &options.bias {
        let fits = bias.dims().into_iter().zip([b, h, t]).all(|(got, all)| got == all || got == 1) && bias.dims()[3] == s;
        if !fits {
            let want = format!("broadcastable along batch, heads and queries to {:?}", [b, h, t, s]);
            return Err(Error::argument(OP, "bias", want, format!("{:?}", bias.dims())));
        }
    }
    if let Some(biases) = &options.distance_bias
        && (biases.dims()[0] != h || biases.dims()[1] == 0)
    {
        return Err(Error::argument(OP, "distance_bias", format!("of shape [{h}, at least 1]"), format!("{:?}", biases.dims())));
    }
    let bias = options.bias.as_ref().map(Tensor::dtype);
    let distance_bias = options.distance_bias.as_ref().map(Tensor::dtype);
    for (arg, dtype) in [("k", Some(k.dtype())), ("v", Some(v.dtype())), ("bias", bias), ("distance_bias", distance_bias)] {
        if let Some(dtype) = dtype
            && dtype != q.dtype()
        {
            return Err(Error::argument(OP, arg, format!("of the float type of `q`, {:?}", q.dtype()), format!("{dtype:?}")));
        }
    }
    Ok(())
}
