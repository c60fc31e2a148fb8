use burn::{
    module::{Initializer, Module},
    nn::{Linear, LinearConfig},
    tensor::{Bool, Device, Int, Tensor},
};
use serde::{Deserialize, Serialize};

use crate::{
    Error, LayerPlace, MixerMemory, Result, SequenceMixer, StateLayout,
    blocks::{
        Norm, NormKind, TokenCache, matmul, project, rotary,
        softmax::{SoftmaxOptions, softmax_attention},
    },
};

const OP: &str = "latent";

/// Configuration of [`LatentAttention`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LatentAttentionConfig {
    /// Number of heads H.
    pub heads: usize,
    /// Width n of a head's own part of queries and keys. `None` = D / `heads`, which then must divide D.
    #[serde(default)]
    pub head_dim: Option<usize>,
    /// Width v of a head's values. `None` = that of `head_dim`.
    #[serde(default)]
    pub value_dim: Option<usize>,
    /// Width r of the part of keys that all heads share; may be 0. `None` = half of that of `head_dim`.
    #[serde(default)]
    pub shared_dim: Option<usize>,
    /// Width of the latent vector of a token. `None` = four times that of `head_dim`.
    #[serde(default)]
    pub rank: Option<usize>,
    /// Base of the rotary position encoding of the shared part; `None` = no encoding (NoPE).
    #[serde(default)]
    pub rotary_base: Option<f64>,
    /// ε of the norm of the latent vector.
    #[serde(default = "default_norm_epsilon")]
    pub norm_epsilon: f64,
}

fn default_norm_epsilon() -> f64 {
    1e-6
}

impl LatentAttentionConfig {
    /// Heads of width D / `heads`, a latent vector four heads wide, half a head shared (the proportions of DeepSeek-V2), no positions.
    pub fn new(heads: usize) -> Self {
        Self {
            heads,
            head_dim: None,
            value_dim: None,
            shared_dim: None,
            rank: None,
            rotary_base: None,
            norm_epsilon: default_norm_epsilon(),
        }
    }

    /// The layer for width `d_model`.
    ///
    /// # Errors
    /// If the heads do not divide the width and no `head_dim` is given, a width is 0, or the shared part is rotated and odd.
    pub fn init(&self, d_model: usize, _place: LayerPlace, device: &Device) -> Result<LatentAttention> {
        if self.heads == 0 || d_model == 0 {
            return Err(Error::argument(OP, if d_model == 0 { "d_model" } else { "heads" }, "at least 1", 0));
        }
        let own = match self.head_dim {
            Some(width) => width,
            None if d_model.is_multiple_of(self.heads) => d_model / self.heads,
            None => return Err(Error::argument(OP, "heads", format!("a divisor of d_model = {d_model}, or `head_dim` given"), self.heads)),
        };
        let value = self.value_dim.unwrap_or(own);
        let rank = self.rank.unwrap_or(4 * own);
        for (arg, width) in [("head_dim", own), ("value_dim", value), ("rank", rank)] {
            if width == 0 {
                return Err(Error::argument(OP, arg, "at least 1", width));
            }
        }
        let shared = self.shared_dim.unwrap_or(own / 2);
        if self.rotary_base.is_some() && (shared == 0 || !shared.is_multiple_of(2)) {
            return Err(Error::argument(OP, "shared_dim", "even and at least 2 for rotary positions", shared));
        }
        if !(self.norm_epsilon > 0.0 && self.norm_epsilon.is_finite()) {
            return Err(Error::argument(OP, "norm_epsilon", "above 0", self.norm_epsilon));
        }
        let linear = |from, to| {
            let initializer = Initializer::Normal { mean: 0.0, std: 0.02 };
            LinearConfig::new(from, to).with_bias(false).with_initializer(initializer).init(device)
        };
        let h = self.heads;
        Ok(LatentAttention {
            q_proj: linear(d_model, h * (own + shared)),
            kv_a_proj_with_mqa: linear(d_model, rank + shared),
            kv_a_layernorm: NormKind::Rms.init(rank, self.norm_epsilon, device),
            kv_b_proj: linear(rank, h * (own + value)),
            out_proj: linear(h * value, d_model),
            heads: h,
            widths: Widths { own, shared, value, rank },
            rotary_base: self.rotary_base,
        })
    }
}

/// The widths of a layer: of a head's own part of queries and keys, of the shared part, of a head's values, of the latent vector.
#[derive(Clone, Copy, Debug)]
struct Widths {
    own: usize,
    shared: usize,
    value: usize,
    rank: usize,
}

/// Causal multi-head latent attention: see the [module's page](super).
#[derive(Module, Debug)]
pub struct LatentAttention {
    /// Queries: per head its own part, then the one for the shared keys.
    pub q_proj: Linear,
    /// The latent vector, then the shared part of the keys.
    pub kv_a_proj_with_mqa: Linear,
    /// Norm of the latent vector.
    pub kv_a_layernorm: Norm,
    /// From the latent vector to a head's own part of the keys, then its values.
    pub kv_b_proj: Linear,
    /// Back to the width of the model.
    pub out_proj: Linear,
    heads: usize,
    #[module(skip)]
    widths: Widths,
    rotary_base: Option<f64>,
}

/// What a [`LatentAttention`] keeps of the tokens so far: per token the latent vector, after its norm, and the shared part of its key.
#[derive(Clone, Debug)]
pub struct LatentState {
    /// `[B, 1, tokens, rank + r]`
    cache: TokenCache,
}

impl LatentState {
    /// Number of tokens so far.
    pub fn len(&self) -> usize {
        self.cache.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(crate) fn layout(&self) -> StateLayout {
        StateLayout::new().growing(self.cache.dims(), self.cache.dtype())
    }

    /// Adds tokens by what is kept of them, `[B, 1, T, rank + r]`: their latent vectors, after the norm, and beside them the shared
    /// parts of their keys. For a cache that was filled elsewhere.
    ///
    /// # Errors
    /// If the tokens are of another shape or float type than those of this state.
    pub fn extend(&mut self, kept: Tensor<4>) -> Result<()> {
        let ([b, g, _, width], [batch, heads, _, own]) = (kept.dims(), self.cache.dims());
        if [b, g, width] != [batch, heads, own] || kept.dtype() != self.cache.dtype() {
            let want = format!("of shape [{batch}, {heads}, T, {own}] in {:?}", self.cache.dtype());
            return Err(Error::argument(OP, "kept", want, format!("{:?} in {:?}", kept.dims(), kept.dtype())));
        }
        if kept.dims()[2] > 0 {
            self.cache.append(kept);
        }
        Ok(())
    }
}

impl LatentAttention {
    /// What is kept of the tokens from `position` on: latent vector and shared key side by side. `[B, 1, T, rank + r]`
    pub(super) fn compress(&self, x: Tensor<3>, position: usize) -> Tensor<4> {
        let Widths { rank, shared, .. } = self.widths;
        let both = project(&self.kv_a_proj_with_mqa, x).unsqueeze_dim::<4>(1);
        let latent = self.kv_a_layernorm.forward(both.clone().narrow(3, 0, rank));
        if shared == 0 {
            return latent;
        }
        Tensor::cat(vec![latent, self.rotate(both.narrow(3, rank, shared), position)], 3)
    }

    /// Queries of the tokens from `position` on: a head's own part and the one for the shared keys. `[B, H, T, n]`, `[B, H, T, r]`
    fn queries(&self, x: Tensor<3>, position: usize) -> (Tensor<4>, Option<Tensor<4>>) {
        let ([b, t, _], Widths { own, shared, .. }) = (x.dims(), self.widths);
        let q = project(&self.q_proj, x).reshape([b, t, self.heads, own + shared]).swap_dims(1, 2);
        let shared = (shared > 0).then(|| self.rotate(q.clone().narrow(3, own, shared), position));
        (q.narrow(3, 0, own), shared)
    }

    fn rotate(&self, x: Tensor<4>, position: usize) -> Tensor<4> {
        match self.rotary_base {
            Some(base) => rotary(x, position, base),
            None => x,
        }
    }

    /// Keys and values of every head are made from what is kept: for many queries.
    fn expanded(&self, x: Tensor<3>, kept: Tensor<4>, padding: Option<Tensor<2, Bool>>) -> Tensor<3> {
        let ([b, t, _], [_, _, s, _]) = (x.dims(), kept.dims());
        let Widths { own, shared, value, rank } = self.widths;
        let latent = kept.clone().narrow(3, 0, rank).squeeze_dim::<3>(1);
        let both = project(&self.kv_b_proj, latent).reshape([b, s, self.heads, own + value]).swap_dims(1, 2);
        let (k, v) = (both.clone().narrow(3, 0, own), both.narrow(3, own, value));
        let (q, k) = match self.queries(x, s - t) {
            (q, Some(q_shared)) => {
                let k_shared = kept.narrow(3, rank, shared).expand([b, self.heads, s, shared]);
                (Tensor::cat(vec![q, q_shared], 3), Tensor::cat(vec![k, k_shared], 3))
            }
            (q, None) => (q, k),
        };
        self.merge(self.attend(q, k, v, padding))
    }

    /// Queries and outputs go through the latent space instead: for few queries. What is kept serves as the one key and value head.
    pub(super) fn absorbed(&self, x: Tensor<3>, kept: Tensor<4>) -> Tensor<3> {
        let ([_, t, _], [_, _, s, _]) = (x.dims(), kept.dims());
        let Widths { own, value, rank, .. } = self.widths;
        // [1, H, rank, n + v]
        let up = self.kv_b_proj.weight.val().reshape([1, rank, self.heads, own + value]).swap_dims(1, 2);
        let (q, q_shared) = self.queries(x, s - t);
        let q = matmul(q, up.clone().narrow(3, 0, own).transpose()); // [B, H, T, rank]
        let q = match q_shared {
            Some(shared) => Tensor::cat(vec![q, shared], 3),
            None => q,
        };
        let o = self.attend(q, kept.clone(), kept.narrow(3, 0, rank), None);
        self.merge(matmul(o, up.narrow(3, own, value)))
    }

    /// The last query sees all keys, and the scale is that of the width of expanded queries.
    fn attend(&self, q: Tensor<4>, k: Tensor<4>, v: Tensor<4>, key_padding: Option<Tensor<2, Bool>>) -> Tensor<4> {
        let scale = ((self.widths.own + self.widths.shared) as f64).sqrt().recip();
        let options = SoftmaxOptions { causal: true, scale: Some(scale), key_padding, ..Default::default() };
        softmax_attention(q, k, v, options).expect("the projections give matching shapes").0
    }

    fn merge(&self, o: Tensor<4>) -> Tensor<3> {
        let [b, h, t, width] = o.dims();
        project(&self.out_proj, o.swap_dims(1, 2).reshape([b, t, h * width]))
    }

    /// Whether `queries` new tokens cost less in the latent space: wider scores and outputs there, against making every key and value.
    pub(super) fn absorbing_is_cheaper(&self, queries: usize) -> bool {
        let Widths { own, shared, value, rank } = self.widths;
        queries * (2 * rank + shared) < queries * (own + shared + value) + rank * (own + value)
    }
}

impl SequenceMixer for LatentAttention {
    type State = LatentState;

    fn forward(&self, x: Tensor<3>, padding: Option<Tensor<2, Bool>>) -> Tensor<3> {
        if x.dims()[1] == 0 {
            return x;
        }
        let kept = self.compress(x.clone(), 0);
        self.expanded(x, kept, padding)
    }

    fn state(&self, batch: usize) -> LatentState {
        let shape = [batch, 1, self.widths.rank + self.widths.shared];
        LatentState { cache: TokenCache::new(shape, &self.out_proj.weight.val()) }
    }

    fn prefill(&self, x: Tensor<3>, state: &mut LatentState) -> Tensor<3> {
        let [_, t, _] = x.dims();
        if t == 0 {
            return x;
        }
        let kept = state.cache.append(self.compress(x.clone(), state.len()));
        if self.absorbing_is_cheaper(t) { self.absorbed(x, kept) } else { self.expanded(x, kept, None) }
    }

    fn step(&self, x: Tensor<2>, state: &mut LatentState) -> Tensor<2> {
        self.prefill(x.unsqueeze_dim(1), state).squeeze_dim(1)
    }

    fn flops_per_token(&self, context: usize) -> f64 {
        let linears = [&self.q_proj, &self.kv_a_proj_with_mqa, &self.kv_b_proj, &self.out_proj];
        let weights = linears.iter().map(|l| l.num_params()).sum::<usize>();
        let Widths { own, shared, value, .. } = self.widths;
        // Half of the pairs of a causal matrix, q·k and p·v.
        2.0 * weights as f64 + (context + 1) as f64 * (self.heads * (own + shared + value)) as f64
    }
}

impl MixerMemory for LatentState {
    fn bytes(&self) -> usize {
        self.cache.bytes()
    }

    fn select(&self, indices: &Tensor<1, Int>) -> Self {
        Self { cache: self.cache.select(indices) }
    }
}
