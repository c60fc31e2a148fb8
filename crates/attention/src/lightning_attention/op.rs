use burn::tensor::{DType, Tensor};

use super::{parallel::parallel_scan, reference};
use crate::{
    Error, Result,
    blocks::{Terms, cuts_sequences, decayed_product, takes_half},
};

const OP: &str = "lightning_attention";

/// Tokens per block unless told otherwise.
pub(super) const BLOCK: usize = 32;

/// The algorithm of [`lightning_attention`]. All give the same numbers up to rounding.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Variant {
    /// Blocks in order, the state carried between them; forward and backward by hand, working memory independent of T.
    #[default]
    Tiled,
    /// All blocks at once with a prefix scan over their states: O(log T) steps, O(T·(C + K·V/C)) memory.
    ParallelScan,
    /// The T×T matrix (the computation that Lightning Attention-1 tiles): O(T²). For comparison.
    LeftProduct,
    /// Token by token. For comparison.
    Recurrent,
}

/// What [`lightning_attention`] takes besides the tensors.
#[derive(Clone, Debug)]
pub struct LightningOpts {
    /// Factor on `q · k`. 1, not 1/√K: a norm follows the operation in its layer (flash-linear-attention has 1/√K here).
    pub scale: f64,
    /// Tokens C per block. Changes speed; results only by rounding. 32 is fastest on the CPU for heads of width 64 and 128.
    pub block: usize,
    /// Algorithm.
    pub variant: Variant,
    /// The state before the first token, `[S, H, K, V]` with S = B, or one per packed sequence; `None` = zeros.
    pub initial_state: Option<Tensor<4>>,
    /// Bounds of sequences packed one after another on the token axis: 0, ascending, T at the end. B must be 1.
    pub cu_seqlens: Option<Vec<usize>>,
}

impl Default for LightningOpts {
    fn default() -> Self {
        Self { scale: 1.0, block: BLOCK, variant: Variant::default(), initial_state: None, cu_seqlens: None }
    }
}

/// Causal linear attention with one fixed decay per head, `λ_h = exp(-slopes_h)`:
/// `S_t = λ S_{t-1} + k_tᵀ v_t`, `o_t = q_t S_t`, that is `o_t = Σ_{s≤t} λ^(t-s) (q_t · k_s) v_s` from a state of zeros.
///
/// No softmax, no denominator, no feature map: activations before and a norm after it belong to the layer. Without decay (slope 0)
/// outputs grow with T, and so do their rounding errors. Inputs of 16 bits are multiplied as they are on a GPU
/// and in f32 elsewhere; sums and states are f32 for both.
///
/// The slopes are plain numbers: they are constants of a model and have no gradient (the authors report NaN when they are learned).
/// Everything else has one, `initial_state` included; the final state carries gradients, so that a sequence can be trained in pieces.
///
/// # Shapes
/// - `q`, `k`: `[B, H, T, K]`; `v`: `[B, H, T, V]`; `slopes`: H numbers ≥ 0
/// - output: `[B, H, T, V]` in the type of `q`, and the state after the last token `[S, H, K, V]` in f32 (f64 for f64 inputs)
///
/// # Errors
/// If shapes or types disagree, a slope is negative or not finite, `block` is 0, or `cu_seqlens` does not cut the T tokens of one batch.
pub fn lightning_attention(
    q: Tensor<4>,
    k: Tensor<4>,
    v: Tensor<4>,
    slopes: &[f64],
    options: LightningOpts,
) -> Result<(Tensor<4>, Tensor<4>)> {
    check(&q, &k, &v, slopes, &options)?;
    let [b, h, t, d_k] = q.dims();
    let d_v = v.dims()[3];
    let dtype = q.dtype();
    let wide = if dtype == DType::F64 { DType::F64 } else { DType::F32 };
    let sequences = options.cu_seqlens.as_ref().map_or(b, |bounds| bounds.len() - 1);
    let state = match options.initial_state {
        Some(state) => state.cast(wide),
        None => Tensor::zeros([sequences, h, d_k, d_v], (&q.device(), wide)),
    };
    // Kernels that read 16 bits save a pass over everything.
    let tiled = options.variant == Variant::Tiled && options.cu_seqlens.is_none();
    let inside = if tiled && ![b, h, t, d_k, d_v].contains(&0) && takes_half(&q, d_v) { dtype } else { wide };
    let [q, k, v] = [q, k, v].map(|x| x.cast(inside));
    if options.variant == Variant::Tiled && ![b, h, t, d_k, d_v].contains(&0) && (options.cu_seqlens.is_none() || cuts_sequences(&q)) {
        let terms = Terms { slopes: Some(slopes), scale: options.scale, block: options.block, bounds: options.cu_seqlens.as_deref() };
        let (o, state) = decayed_product([q, k, v], Some(state), terms);
        return Ok((o.cast(dtype), state));
    }
    let q = if (options.scale - 1.0).abs() < f64::EPSILON { q } else { q * options.scale };
    let one = |q, k, v, state| one_batch(q, k, v, slopes, state, options.variant, options.block);

    let Some(bounds) = options.cu_seqlens else {
        let (o, state) = one(q, k, v, state);
        return Ok((o.cast(dtype), state));
    };
    if sequences == 0 {
        return Ok((Tensor::zeros([b, h, t, d_v], (&q.device(), dtype)), state));
    }
    let (mut outs, mut states) = (Vec::new(), Vec::new());
    for (i, bound) in bounds.windows(2).enumerate() {
        let (length, state) = (bound[1] - bound[0], state.clone().narrow(0, i, 1));
        if length == 0 {
            states.push(state);
            continue;
        }
        let [q, k, v] = [&q, &k, &v].map(|x| x.clone().narrow(2, bound[0], length));
        let (o, state) = one(q, k, v, state);
        outs.push(o);
        states.push(state);
    }
    let o = if outs.is_empty() { v } else { Tensor::cat(outs, 2) }; // without tokens, `v` has the shape of the output
    Ok((o.cast(dtype), Tensor::cat(states, 0)))
}

/// The next token of each sequence: `S ← λ S + kᵀ v`, then `o = scale · q S`, the same numbers as [`lightning_attention`] from this state.
///
/// On the CPU in f32 in one pass over the state, which changes where it lies: if nobody else holds it, nothing is allocated but the
/// output. O(K·V) time per head, whatever came before.
///
/// # Shapes
/// - `q`, `k`: `[B, H, K]`; `v`: `[B, H, V]`; `slopes`: H numbers ≥ 0; `state`: `[B, H, K, V]`
/// - output: `[B, H, V]` in the type of `q`
///
/// # Errors
/// As [`lightning_attention`]; the state then stays as it was.
pub fn lightning_step(q: Tensor<3>, k: Tensor<3>, v: Tensor<3>, slopes: &[f64], scale: f64, state: &mut Tensor<4>) -> Result<Tensor<3>> {
    let [q, k, v] = [q, k, v].map(|x| x.unsqueeze_dim::<4>(2));
    let mut options = LightningOpts { scale, initial_state: Some(state.clone()), ..Default::default() };
    check(&q, &k, &v, slopes, &options)?;
    // Out of the caller's hands, so that nobody else holds it.
    options.initial_state = None;
    options.initial_state = Some(std::mem::replace(state, Tensor::empty([0; 4], &q.device())));
    let (o, next) = lightning_attention(q, k, v, slopes, options)?;
    *state = next;
    Ok(o.squeeze_dim(2))
}

/// Sequences of equal length, in f32 or f64.
fn one_batch(
    q: Tensor<4>,
    k: Tensor<4>,
    v: Tensor<4>,
    slopes: &[f64],
    state: Tensor<4>,
    variant: Variant,
    block: usize,
) -> (Tensor<4>, Tensor<4>) {
    let [b, h, t, d_k] = q.dims();
    let d_v = v.dims()[3];
    if [b, h, t, d_k, d_v].contains(&0) {
        return (Tensor::zeros([b, h, t, d_v], (&q.device(), q.dtype())), state);
    }
    match variant {
        Variant::Tiled => decayed_product([q, k, v], Some(state), Terms { slopes: Some(slopes), scale: 1.0, block, bounds: None }),
        Variant::LeftProduct => reference::left_product(q, k, v, slopes, state),
        Variant::Recurrent => reference::recurrent(q, k, v, slopes, state),
        Variant::ParallelScan => {
            let whole = t / block * block;
            if whole == 0 || whole == t {
                return parallel_scan(q, k, v, slopes, state, block.min(t));
            }
            let part = |start, length| [&q, &k, &v].map(|x| x.clone().narrow(2, start, length));
            let [head_q, head_k, head_v] = part(0, whole);
            let (head, state) = parallel_scan(head_q, head_k, head_v, slopes, state, block);
            let [tail_q, tail_k, tail_v] = part(whole, t - whole);
            let (tail, state) = parallel_scan(tail_q, tail_k, tail_v, slopes, state, t - whole);
            (Tensor::cat(vec![head, tail], 2), state)
        }
    }
}

fn check(q: &Tensor<4>, k: &Tensor<4>, v: &Tensor<4>, slopes: &[f64], options: &LightningOpts) -> Result<()> {
    let [b, h, t, d_k] = q.dims();
    let d_v = v.dims()[3];
    if q.dims() != k.dims() {
        return Err(Error::shape(OP, ("q", &q.dims()), ("k", &k.dims()), "every axis"));
    }
    if k.dims()[..3] != v.dims()[..3] {
        return Err(Error::shape(OP, ("k", &k.dims()), ("v", &v.dims()), "batch, heads and tokens"));
    }
    for (arg, x) in [("k", k), ("v", v)] {
        if x.dtype() != q.dtype() {
            return Err(Error::argument(OP, arg, format!("of the float type of `q`, {:?}", q.dtype()), format!("{:?}", x.dtype())));
        }
    }
    if slopes.len() != h {
        return Err(Error::argument(OP, "slopes", format!("H = {h} numbers"), slopes.len()));
    }
    if let Some(slope) = slopes.iter().find(|s| !(s.is_finite() && **s >= 0.0)) {
        return Err(Error::argument(OP, "slopes", "finite and at least 0", slope));
    }
    if options.block == 0 {
        return Err(Error::argument(OP, "block", "at least 1", 0));
    }
    if !options.scale.is_finite() {
        return Err(Error::argument(OP, "scale", "finite", options.scale));
    }
    let mut sequences = b;
    if let Some(bounds) = &options.cu_seqlens {
        let cuts = bounds.first() == Some(&0) && bounds.last() == Some(&t) && bounds.is_sorted();
        if !cuts {
            return Err(Error::argument(OP, "cu_seqlens", format!("0 first, ascending, T = {t} last"), format!("{bounds:?}")));
        }
        if b != 1 {
            return Err(Error::argument(OP, "q", "of batch size 1 with `cu_seqlens`", b));
        }
        sequences = bounds.len() - 1;
    }
    if let Some(state) = &options.initial_state
        && state.dims() != [sequences, h, d_k, d_v]
    {
        return Err(Error::argument(
            OP,
            "initial_state",
            format!("of shape {:?}", [sequences, h, d_k, d_v]),
            format!("{:?}", state.dims()),
        ));
    }
    Ok(())
}
