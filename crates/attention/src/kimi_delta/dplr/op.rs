use burn::{backend::Flex, tensor::Tensor};

use super::super::{
    kernel::{self, Transition},
    op::{MAX_CHUNK, state_type},
};
use crate::{
    Error, Result,
    blocks::{kernel::on_cpu, of_backend, primitive},
};

const OP: &str = "dplr";

/// What [`dplr`] does besides its recurrence.
#[derive(Clone, Debug)]
pub struct DplrOptions {
    /// Factor on the queries; `None` = 1/√K.
    pub scale: Option<f64>,
    /// Tokens C per chunk, a power of two up to 256. Changes speed; results only by rounding.
    pub chunk: usize,
    /// The state before the first token, `[B, H, K, V]` in f32 (f64 for inputs in f64). `None` = zeros.
    pub initial_state: Option<Tensor<4>>,
    /// Whether to look for log decays above 0, which is one pass over `g` and, on a GPU, a wait for it.
    pub check_decay: bool,
}

impl Default for DplrOptions {
    fn default() -> Self {
        Self { scale: None, chunk: 64, initial_state: None, check_decay: true }
    }
}

/// Linear attention with a general diagonal-plus-low-rank transition,
/// `S_t = (Diag(exp(g_t)) − a_t b_tᵀ) S_{t-1} + k_t v_tᵀ`, `o_t = S_tᵀ (scale · q_t)`, by chunks of C tokens: see the [page](super).
///
/// On the CPU in f32 and without automatic differentiation by fused kernels; else by tensor operations, which can be differentiated.
/// The states are bounded if the transitions are contractions, which nobody checks.
///
/// # Shapes
/// - `q`, `k`, `a`, `b`: `[B, T, H, K]`; `g`, the log decay: `[B, T, H, K]`, ≤ 0; `v`: `[B, T, H, V]`
/// - output: `o` `[B, T, H, V]` in the type of `v`, and the state after the last token, `[B, H, K, V]`
///
/// # Errors
/// If the shapes or types disagree, a log decay is positive, or `chunk` is no power of two up to 256.
pub fn dplr([q, k, g, a, b]: [Tensor<4>; 5], v: Tensor<4>, options: DplrOptions) -> Result<(Tensor<4>, Tensor<4>)> {
    let ([batch, t, h, d_k], [_, _, _, d_v], dtype) = (q.dims(), v.dims(), v.dtype());
    let named = [("k", &k), ("g", &g), ("a", &a), ("b", &b)];
    check(&q, named, &v, &options)?;
    let wide = state_type(dtype);
    let state = options.initial_state.unwrap_or_else(|| Tensor::zeros([batch, h, d_k, d_v], (&v.device(), wide)));
    if [batch, t, h, d_k, d_v].contains(&0) {
        return Ok((v.zeros_like(), state));
    }
    let scale = options.scale.unwrap_or_else(|| 1.0 / (d_k as f64).sqrt());
    let inputs = Transition { q, k, v, g, a, b, state }.map(|x| x.cast(wide));
    let (o, state) = if on_cpu(&inputs.v.device(), wide) && !inputs.any(Tensor::is_autodiff) {
        let [o, state] = kernel::dplr_fused(inputs.map(|x| primitive::<Flex>(x.into_dispatch())), scale, options.chunk);
        (Tensor::from_dispatch(of_backend::<Flex>(o)), Tensor::from_dispatch(of_backend::<Flex>(state)))
    } else {
        kernel::dplr_tensors(inputs, scale, options.chunk)
    };
    Ok((o.cast(dtype), state))
}

fn check(q: &Tensor<4>, others: [(&'static str, &Tensor<4>); 4], v: &Tensor<4>, options: &DplrOptions) -> Result<()> {
    let [batch, t, h, d_k] = q.dims();
    for (name, x) in others {
        if x.dims() != q.dims() {
            return Err(Error::shape(OP, ("q", &q.dims()), (name, &x.dims()), "all axes"));
        }
    }
    if v.dims()[..3] != [batch, t, h] {
        return Err(Error::shape(OP, ("q", &q.dims()), ("v", &v.dims()), "batch, tokens and heads"));
    }
    let wide = state_type(v.dtype());
    for (name, x) in others.into_iter().chain([("q", q)]) {
        if state_type(x.dtype()) != wide {
            return Err(Error::argument(OP, name, format!("as precise as v, which is {:?}", v.dtype()), format!("{:?}", x.dtype())));
        }
    }
    if !options.chunk.is_power_of_two() || options.chunk > MAX_CHUNK {
        return Err(Error::argument(OP, "chunk", format!("a power of two up to {MAX_CHUNK}"), options.chunk));
    }
    if let Some(state) = &options.initial_state {
        let want = [batch, h, d_k, v.dims()[3]];
        if state.dims() != want || state.dtype() != wide {
            let got = format!("{:?} in {:?}", state.dims(), state.dtype());
            return Err(Error::argument(OP, "initial_state", format!("of shape {want:?} in {wide:?}"), got));
        }
    }
    let [_, (_, g), _, _] = others;
    if options.check_decay && g.dims().iter().all(|&n| n > 0) {
        let highest = g.clone().inner().max().into_scalar::<f64>();
        if highest > 0.0 {
            return Err(Error::argument(OP, "g", "≤ 0, the logarithm of a decay", highest));
        }
    }
    Ok(())
}
