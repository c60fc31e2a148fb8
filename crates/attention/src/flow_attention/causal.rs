use burn::tensor::{Bool, DType, Device, Int, Tensor, activation};

use super::{
    kernel,
    options::{FlowOptions, check_shapes, column, wide, without},
    runs::{StateGradient, advance_by_runs, run_length},
};
use crate::{
    Error, MixerMemory, Result, StateLayout,
    blocks::{LOG_ZERO, Terms, decayed_product, prefix_sum, running_log_sum_exp},
};

const OP: &str = "flow_attention_causal";

/// Tokens per block of the causal product. Results depend on it by rounding alone.
pub(super) const BLOCK: usize = 64;

/// Flow attention, causal: output i depends on the tokens 0..=i alone.
///
/// The incoming flow of sink i is counted over the sources up to i and, as an approximation that needs no future, the outgoing flow of
/// source j over the sinks up to j; n_i is the number of tokens up to i:
///
/// ```text
/// I_i = (q_i + ε) · (Σ_{j≤i} k_j + ε)                   O_j = (k_j + ε) · (Σ_{i≤j} q_i + ε)
/// Î_i = (q_i + ε) · (Σ_{j≤i} k_j n_j/O_j + ε) / n_i     Ô_j = clamp((k_j + ε) · (Σ_{i≤j} q_i n_i/I_i + ε) / n_j)
/// c_j = n_j exp(Ô_j) / Σ_{l≤j} exp(Ô_l)
/// o_i = sigmoid(Î_i) · (q_i / I_i) Σ_{j≤i} k_jᵀ c_j v_j
/// ```
///
/// with q, k after the feature map. Sums run in blocks, and the last one is the tiled product of linear attention:
/// O(T·(C·(D + E) + D·E)) time with blocks of C tokens; no T×T matrix and no sum of outer products per token. In f32 on the CPU (f16 and
/// bf16 too) by a fused kernel, which keeps nothing for the backward pass but its arguments. Elsewhere long sequences go in runs, and
/// training keeps the state before each of them alone.
///
/// # Shapes
/// - `q`, `k`: `[B, H, T, D]`; `v`: `[B, H, T, E]`
/// - output: `[B, H, T, E]`; zeros for a hidden token
///
/// # Errors
/// If the shapes disagree, queries and keys differ in number, an option is out of its range, or `query_mask` is given.
pub fn flow_attention_causal(q: Tensor<4>, k: Tensor<4>, v: Tensor<4>, options: &FlowOptions) -> Result<Tensor<4>> {
    let ([b, h, _, d], e) = (k.dims(), v.dims()[3]);
    let mut state = FlowState::zeros([b, h, d, e], &q.device(), wide(q.dtype()));
    state.attend([q, k, v], options, StateGradient::Left)
}

/// What causal Flow attention keeps of the tokens so far: sums, whose size does not depend on their number. In f32.
///
/// They are kept per sequence of the batch, so that prompts of different lengths, padded and masked, can be prefilled together.
#[derive(Clone, Debug)]
pub struct FlowState {
    /// Σ k_j: `[B, H, 1, D]`
    pub sum_k: Tensor<4>,
    /// Σ q_i: `[B, H, 1, D]`
    pub sum_q: Tensor<4>,
    /// Σ k_j n_j / O_j: `[B, H, 1, D]`
    pub sum_k_outgoing: Tensor<4>,
    /// Σ q_i n_i / I_i: `[B, H, 1, D]`
    pub sum_q_incoming: Tensor<4>,
    /// ln Σ exp(Ô_j), −10³⁰ before the first token: `[B, H, 1, 1]`
    pub log_sum_exp: Tensor<4>,
    /// Σ k_jᵀ c_j v_j: `[B, H, D, E]`
    pub kv: Tensor<4>,
    /// n, the number of tokens so far: `[B, 1, 1, 1]`
    pub tokens: Tensor<4>,
}

impl FlowState {
    /// The state before the first token, for keys of width `key_width` (D) and values of width `value_width` (E).
    pub fn new(batch: usize, heads: usize, key_width: usize, value_width: usize, device: &Device) -> Self {
        Self::zeros([batch, heads, key_width, value_width], device, DType::F32)
    }

    fn zeros([b, h, d, e]: [usize; 4], device: &Device, dtype: DType) -> Self {
        let sum = Tensor::zeros([b, h, 1, d], (device, dtype));
        Self {
            sum_k: sum.clone(),
            sum_q: sum.clone(),
            sum_k_outgoing: sum.clone(),
            sum_q_incoming: sum,
            log_sum_exp: Tensor::full([b, h, 1, 1], LOG_ZERO, (device, dtype)),
            kv: Tensor::zeros([b, h, d, e], (device, dtype)),
            tokens: Tensor::zeros([b, 1, 1, 1], (device, dtype)),
        }
    }

    /// The outputs of the next tokens of the sequences behind this state, which moves behind them: [`flow_attention_causal`] from where
    /// the state stands.
    ///
    /// # Shapes
    /// - `q`, `k`: `[B, H, T, D]`; `v`: `[B, H, T, E]`; output: `[B, H, T, E]`
    ///
    /// # Errors
    /// As [`flow_attention_causal`], and if the shapes are not those of the state.
    pub fn prefill(&mut self, q: Tensor<4>, k: Tensor<4>, v: Tensor<4>, options: &FlowOptions) -> Result<Tensor<4>> {
        self.attend([q, k, v], options, StateGradient::Computed)
    }

    /// The output of the next token of each sequence, O(D·E) whatever came before: [`Self::prefill`] of one token. On the CPU in f32 and
    /// without autodiff, a state that nobody else holds changes where it lies.
    ///
    /// # Shapes
    /// - `q`, `k`: `[B, H, D]`; `v`: `[B, H, E]`; output: `[B, H, E]`
    ///
    /// # Errors
    /// As [`Self::prefill`].
    pub fn step(&mut self, q: Tensor<3>, k: Tensor<3>, v: Tensor<3>, options: &FlowOptions) -> Result<Tensor<3>> {
        let o = self.prefill(q.unsqueeze_dim(2), k.unsqueeze_dim(2), v.unsqueeze_dim(2), options)?;
        Ok(o.squeeze_dim(2))
    }

    fn attend(&mut self, qkv: [Tensor<4>; 3], options: &FlowOptions, state_gradient: StateGradient) -> Result<Tensor<4>> {
        let [q, k, v] = qkv;
        options.check(OP)?;
        check_shapes(OP, &q, &k, &v)?;
        let ([b, h, t, d], e) = (q.dims(), v.dims()[3]);
        if k.dims()[2] != t {
            return Err(Error::shape(OP, ("q", &q.dims()), ("k", &k.dims()), "tokens, as each is query and key in one"));
        }
        if self.kv.dims() != [b, h, d, e] {
            return Err(Error::shape(OP, ("state", &self.kv.dims()), ("v", &[b, h, d, e]), "batch, heads, key width and value width"));
        }
        if let Some(mask) = &options.query_mask {
            let got = format!("a mask of shape {:?}", mask.dims());
            return Err(Error::argument(OP, "query_mask", "None, as `key_mask` hides a token as query and as key", got));
        }
        let hidden = column(OP, "key_mask", options.key_mask.as_ref(), [b, t])?;
        let dtype = q.dtype();
        if b * h * t * e == 0 {
            return Ok(Tensor::zeros([b, h, t, e], (&q.device(), dtype)));
        }
        let qkv = [q, k, v].map(|x| x.cast(self.kv.dtype()));
        let run = run_length(b * h);
        let o = if kernel::takes(&qkv[0]) {
            kernel::advance(self, qkv, hidden.as_ref(), options, state_gradient)
        } else if t <= run {
            self.advance(qkv, hidden.as_ref(), options)
        } else {
            advance_by_runs(self, qkv, hidden, options, run, state_gradient)
        };
        Ok(o.cast(dtype))
    }

    /// The outputs of the next tokens, all at once and in tensor operations: arguments checked, T ≥ 1, in the float type of the state.
    pub(super) fn advance(&mut self, qkv: [Tensor<4>; 3], hidden: Option<&Tensor<4, Bool>>, options: &FlowOptions) -> Tensor<4> {
        let [q, k, v] = qkv;
        let FlowOptions { eps, .. } = *options;
        let [b, h, t, _] = q.dims();
        let q = options.capacity(q, hidden);
        let k = options.capacity(k, hidden);
        let v = without(v, hidden);
        let (q_eps, k_eps) = (q.clone() + eps, k.clone() + eps);
        let present = match hidden {
            Some(hidden) => hidden.clone().bool_not().float().cast(self.tokens.dtype()),
            None => Tensor::ones([b, 1, t, 1], (&self.tokens.device(), self.tokens.dtype())),
        };
        let (n, present) = prefix_sum(present, self.tokens.clone());
        let n = n.clamp_min(1.0); // [B, 1, T, 1]; 0 before the first token that is not hidden

        let (sums, total_k) = prefix_sum(k.clone(), self.sum_k.clone() + eps);
        let incoming = options.flow(q_eps.clone(), sums); // [B, H, T, 1]
        let (sums, total_q) = prefix_sum(q.clone(), self.sum_q.clone() + eps);
        let outgoing = options.flow(k_eps.clone(), sums);

        let (sums, total_k_outgoing) = prefix_sum(k.clone() * (n.clone() / outgoing), self.sum_k_outgoing.clone() + eps);
        let conserved_incoming = options.flow(q_eps, sums) / n.clone();
        let (sums, total_q_incoming) = prefix_sum(q.clone() * (n.clone() / incoming.clone()), self.sum_q_incoming.clone() + eps);
        let conserved_outgoing = options.bounded(options.flow(k_eps, sums) / n.clone());
        let conserved_outgoing = match hidden {
            Some(hidden) => conserved_outgoing.mask_fill(hidden.clone().expand([b, h, t, 1]), LOG_ZERO),
            None => conserved_outgoing,
        };

        let log_sums = running_log_sum_exp(conserved_outgoing.clone().squeeze_dim(3), self.log_sum_exp.clone().squeeze_dim(3));
        let log_sums = log_sums.unsqueeze_dim::<4>(3);
        let v = if options.competition { v * ((conserved_outgoing - log_sums.clone()).exp() * n) } else { v };
        let (o, kv) =
            decayed_product([q, k, v], Some(self.kv.clone()), Terms { slopes: None, scale: 1.0, block: BLOCK.min(t), bounds: None });
        let allocation = if options.allocation { activation::sigmoid(conserved_incoming) / incoming } else { incoming.recip() };

        *self = Self {
            sum_k: self.sum_k.clone() + total_k,
            sum_q: self.sum_q.clone() + total_q,
            sum_k_outgoing: self.sum_k_outgoing.clone() + total_k_outgoing,
            sum_q_incoming: self.sum_q_incoming.clone() + total_q_incoming,
            log_sum_exp: log_sums.narrow(2, t - 1, 1),
            kv,
            tokens: self.tokens.clone() + present,
        };
        o * allocation
    }
}

impl FlowState {
    /// The state of these [`sums`](Self::sums) over so many tokens.
    pub(super) fn of([sum_k, sum_q, sum_k_outgoing, sum_q_incoming, log_sum_exp, kv]: [Tensor<4>; 6], tokens: Tensor<4>) -> Self {
        Self { sum_k, sum_q, sum_k_outgoing, sum_q_incoming, log_sum_exp, kv, tokens }
    }

    /// The sums that gradients flow through: all but the number of tokens.
    pub(super) fn sums(&self) -> [&Tensor<4>; 6] {
        [&self.sum_k, &self.sum_q, &self.sum_k_outgoing, &self.sum_q_incoming, &self.log_sum_exp, &self.kv]
    }

    /// This state with other [`sums`](Self::sums).
    pub(super) fn with_sums(&self, sums: [Tensor<4>; 6]) -> Self {
        Self::of(sums, self.tokens.clone())
    }

    pub(super) fn map(&self, f: impl Fn(Tensor<4>) -> Tensor<4>) -> Self {
        let state = self.with_sums(self.sums().map(|x| f(x.clone())));
        Self { tokens: f(state.tokens), ..state }
    }
}

impl FlowState {
    pub(crate) fn layout(&self) -> StateLayout {
        self.sums().into_iter().chain([&self.tokens]).fold(StateLayout::new(), StateLayout::any)
    }
}

impl MixerMemory for FlowState {
    fn bytes(&self) -> usize {
        let tensors = self.sums().into_iter().chain([&self.tokens]);
        tensors.map(|x| x.dims().iter().product::<usize>() * x.dtype().size()).sum()
    }

    fn select(&self, indices: &Tensor<1, Int>) -> Self {
        self.map(|x| x.select(0, indices.clone()))
    }
}
