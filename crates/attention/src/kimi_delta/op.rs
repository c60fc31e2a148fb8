use burn::{
    backend::Dispatch,
    tensor::{DType, Tensor},
};

use super::kernel::{Inputs, KimiDeltaKernel, Options, takes_half};
use crate::{Error, Result, blocks::check_cu_seqlens};

const OP: &str = "kimi_delta";

/// The largest chunk that [`kimi_delta`] takes.
pub(super) const MAX_CHUNK: usize = 256;

/// What [`kimi_delta`] does besides its recurrence.
#[derive(Clone, Debug)]
pub struct KimiDeltaOptions {
    /// Factor on the queries; `None` = 1/√K.
    pub scale: Option<f64>,
    /// Tokens C per chunk, a power of two up to 256. Changes speed; results only by rounding.
    pub chunk: usize,
    /// The state before the first token, in f32 (f64 for inputs in f64): `[B, W, K, V]`, or `[N, W, K, V]` for N packed sequences.
    /// `None` = zeros.
    pub initial_state: Option<Tensor<4>>,
    /// Boundaries of sequences packed into one row (B = 1): sequence n holds the tokens `cu_seqlens[n]..cu_seqlens[n + 1]` and
    /// starts from its own state. Sequences may be empty.
    pub cu_seqlens: Option<Vec<usize>>,
    /// Whether to look for log decays above 0, which is one pass over `g` and, on a GPU, a wait for it.
    pub check_decay: bool,
}

impl Default for KimiDeltaOptions {
    fn default() -> Self {
        Self { scale: None, chunk: 64, initial_state: None, cu_seqlens: None, check_decay: true }
    }
}

/// Kimi Delta Attention: linear attention that corrects what the state remembers for a key, with one decay per key channel.
///
/// `S' = Diag(exp(g_t)) S_{t-1}`, `S_t = S' + β_t k_t (v_t − S'ᵀ k_t)ᵀ`, `o_t = S_tᵀ (scale · q_t)`, by chunks of C tokens:
/// O(T·(K·V + C·(K+V) + C²)) time. For the backward pass it keeps its inputs and the K×V states between the chunks.
///
/// On the CPU in f32 and on a GPU for heads of up to 128 columns by fused kernels, whose results are the same bits in every run;
/// elsewhere and in f64 by tensor operations. States, decays, sums and corrections are f32 for inputs of
/// 16 bits: in 16 bits the correction cancels to 0 once the state predicts v. Kernels multiply bf16 by bf16.
///
/// # Shapes
/// - `q`, `k`: `[B, T, H, K]`; `v`: `[B, T, W, V]`, W a multiple of H: value head w reads query/key head `w / (W/H)`
/// - `g`, the log decay: `[B, T, W, K]`, ≤ 0, or `[B, T, W, 1]` for one decay per head (Gated DeltaNet; all 0: DeltaNet)
/// - `beta`: `[B, T, W]`, the strength of the correction, in [0, 1], or [0, 2] to let states flip sign
/// - output: `o` `[B, T, W, V]` in the type of `v`, and the state after the last token, shaped as `initial_state`
///
/// # Errors
/// If the shapes or types disagree, W is no multiple of H, a log decay is positive, `chunk` is no power of two up to 256, or the
/// boundaries do not fit the tokens.
pub fn kimi_delta(
    q: Tensor<4>,
    k: Tensor<4>,
    v: Tensor<4>,
    g: Tensor<4>,
    beta: Tensor<3>,
    options: KimiDeltaOptions,
) -> Result<(Tensor<4>, Tensor<4>)> {
    check(&q, &k, &v, &g, &beta, &options)?;
    let [b, _, _, d_k] = q.dims();
    let [_, _, w, d_v] = v.dims();
    let dtype = v.dtype();
    let wide = state_type(dtype);
    let sequences = options.cu_seqlens.as_ref().map_or(b, |c| c.len() - 1);
    let state = options.initial_state.unwrap_or_else(|| Tensor::zeros([sequences, w, d_k, d_v], (&v.device(), wide)));
    if v.dims().contains(&0) || d_k == 0 {
        // Nothing to read or nothing to write.
        return Ok((v.zeros_like(), state));
    }
    let scale = options.scale.unwrap_or_else(|| 1.0 / (d_k as f64).sqrt());
    // Kernels that read 16 bits save a pass over everything.
    let half = q.dtype() == dtype && k.dtype() == dtype && takes_half(&v, d_k);
    let inside = |x: Tensor<4>| x.cast(if half { dtype } else { wide }).into_dispatch();
    let inputs = Inputs {
        q: inside(q),
        k: inside(k),
        v: inside(v),
        g: g.cast(wide).into_dispatch(),
        beta: beta.cast(state.dtype()).into_dispatch(),
        state: state.into_dispatch(),
    };
    let options = Options { scale, chunk: options.chunk, boundaries: options.cu_seqlens };
    let outputs = <Dispatch as KimiDeltaKernel>::kimi_delta_forward(inputs, options, false);
    Ok((Tensor::<4>::from_dispatch(outputs.o).cast(dtype), Tensor::from_dispatch(outputs.state)))
}

/// The type of states and of the arithmetic.
pub(super) fn state_type(dtype: DType) -> DType {
    if dtype == DType::F64 { DType::F64 } else { DType::F32 }
}

fn check(q: &Tensor<4>, k: &Tensor<4>, v: &Tensor<4>, g: &Tensor<4>, beta: &Tensor<3>, options: &KimiDeltaOptions) -> Result<()> {
    let [b, t, h, d_k] = q.dims();
    let [_, _, w, d_v] = v.dims();
    if q.dims() != k.dims() {
        return Err(Error::shape(OP, ("q", &q.dims()), ("k", &k.dims()), "all axes"));
    }
    if v.dims()[..2] != [b, t] {
        return Err(Error::shape(OP, ("q", &q.dims()), ("v", &v.dims()), "batch and tokens"));
    }
    if h == 0 || w == 0 || !w.is_multiple_of(h) {
        return Err(Error::argument(OP, "v", format!("of a number of heads that is a multiple of H = {h}"), w));
    }
    if g.dims()[..3] != [b, t, w] {
        return Err(Error::shape(OP, ("v", &v.dims()), ("g", &g.dims()), "batch, tokens and heads"));
    }
    if ![1, d_k].contains(&g.dims()[3]) {
        return Err(Error::argument(OP, "g", format!("of width K = {d_k} or 1"), g.dims()[3]));
    }
    if beta.dims() != [b, t, w] {
        return Err(Error::shape(OP, ("v", &v.dims()), ("beta", &beta.dims()), "batch, tokens and heads"));
    }
    for (arg, dtype) in [("q", q.dtype()), ("k", k.dtype()), ("g", g.dtype()), ("beta", beta.dtype())] {
        if state_type(dtype) != state_type(v.dtype()) {
            return Err(Error::argument(OP, arg, format!("as precise as v, which is {:?}", v.dtype()), format!("{dtype:?}")));
        }
    }
    if !options.chunk.is_power_of_two() || options.chunk > MAX_CHUNK {
        return Err(Error::argument(OP, "chunk", format!("a power of two up to {MAX_CHUNK}"), options.chunk));
    }
    if let Some(boundaries) = &options.cu_seqlens {
        check_cu_seqlens(OP, boundaries, b, t)?;
    }
    if let Some(state) = &options.initial_state {
        let sequences = options.cu_seqlens.as_ref().map_or(b, |c| c.len() - 1);
        let want = [sequences, w, d_k, d_v];
        if state.dims() != want {
            return Err(Error::argument(OP, "initial_state", format!("of shape {want:?}"), format!("{:?}", state.dims())));
        }
        if state.dtype() != state_type(v.dtype()) {
            let want = format!("in {:?}", state_type(v.dtype()));
            return Err(Error::argument(OP, "initial_state", want, format!("{:?}", state.dtype())));
        }
    }
    if options.check_decay && g.dims().iter().all(|&n| n > 0) {
        let highest = g.clone().inner().max().into_scalar::<f64>();
        if highest > 0.0 {
            return Err(Error::argument(OP, "g", "≤ 0, the logarithm of a decay", highest));
        }
    }
    Ok(())
}
