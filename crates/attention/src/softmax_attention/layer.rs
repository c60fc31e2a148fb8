use burn::{
    module::{Initializer, Module, Param},
    nn::{Linear, LinearConfig},
    tensor::{Bool, Device, Tensor},
};
use serde::{Deserialize, Serialize};

use super::state::SoftmaxState;
use crate::{
    Error, LayerPlace, Result, SequenceMixer,
    blocks::{
        project, project_split, rotary,
        softmax::{SoftmaxOptions, softmax_attention},
    },
};

/// Configuration of [`SoftmaxAttention`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SoftmaxAttentionConfig {
    /// Number of query heads H; must divide the width D.
    pub heads: usize,
    /// Number of key/value heads G; must divide `heads`. `None` = `heads`.
    #[serde(default)]
    pub kv_heads: Option<usize>,
    /// Base of the rotary position encoding of queries and keys; `None` = no encoding.
    #[serde(default)]
    pub rotary_base: Option<f64>,
    /// Largest distance of a query from a key that has a learned number of its own, per head, added to the scores; farther keys share the
    /// last. `None` = no such bias.
    #[serde(default)]
    pub relative_bias: Option<usize>,
    /// Whether the projections have biases.
    #[serde(default)]
    pub bias: bool,
}

impl SoftmaxAttentionConfig {
    /// As many key/value heads as query heads, rotary positions of base 10000 and no others, no biases.
    pub fn new(heads: usize) -> Self {
        Self { heads, kv_heads: None, rotary_base: Some(10_000.0), relative_bias: None, bias: false }
    }

    /// The layer for width `d_model`.
    ///
    /// # Errors
    /// If the width is 0, the heads do not divide it, the key/value heads do not divide the heads, or a rotated head has an odd width.
    pub fn init(&self, d_model: usize, _place: LayerPlace, device: &Device) -> Result<SoftmaxAttention> {
        const OP: &str = "softmax";
        if d_model == 0 {
            return Err(Error::argument(OP, "d_model", "at least 1", 0));
        }
        if self.heads == 0 || !d_model.is_multiple_of(self.heads) {
            return Err(Error::argument(OP, "heads", format!("a divisor of d_model = {d_model}"), self.heads));
        }
        let kv_heads = self.kv_heads.unwrap_or(self.heads);
        if kv_heads == 0 || !self.heads.is_multiple_of(kv_heads) {
            return Err(Error::argument(OP, "kv_heads", format!("a divisor of heads = {}", self.heads), kv_heads));
        }
        let width = d_model / self.heads;
        if self.rotary_base.is_some() && !width.is_multiple_of(2) {
            return Err(Error::argument(OP, "heads", "such that d_model / heads is even for rotary positions", self.heads));
        }
        let linear = |from, to| LinearConfig::new(from, to).with_bias(self.bias).init(device);
        Ok(SoftmaxAttention {
            qkv_proj: linear(d_model, (self.heads + 2 * kv_heads) * width),
            out_proj: linear(d_model, d_model),
            relative_bias: self.relative_bias.map(|farthest| Initializer::Zeros.init([self.heads, farthest + 1], device)),
            heads: self.heads,
            kv_heads,
            rotary_base: self.rotary_base,
        })
    }
}

/// Multi-head softmax attention with its projections: causal as a [`SequenceMixer`], bidirectional by [`attend`](Self::attend). The
/// weights are the same for both.
#[derive(Module, Debug)]
pub struct SoftmaxAttention {
    /// Queries, keys and values in one projection, in that order, heads head-major.
    pub qkv_proj: Linear,
    /// Back to the width of the model.
    pub out_proj: Linear,
    /// What is added to the scores by distance, zeros at first. `[H, farthest + 1]`
    pub relative_bias: Option<Param<Tensor<2>>>,
    heads: usize,
    kv_heads: usize,
    rotary_base: Option<f64>,
}

impl SoftmaxAttention {
    /// Queries, keys and values of the tokens from `position` on. `[B, heads, T, K]` each.
    fn project(&self, x: Tensor<3>, position: usize) -> [Tensor<4>; 3] {
        let [b, t, d] = x.dims();
        let width = d / self.heads;
        let heads = [self.heads, self.kv_heads, self.kv_heads];
        // Views, which the operation reads where they lie.
        let [q, k, v] = project_split(&self.qkv_proj, x, heads.map(|heads| heads * width)).map(|x| {
            let heads = x.dims()[2] / width;
            x.reshape([b, t, heads, width]).swap_dims(1, 2)
        });
        match self.rotary_base {
            Some(base) => [rotary(q, position, base), rotary(k, position, base), v],
            None => [q, k, v],
        }
    }

    /// Bidirectional attention of a sequence to itself, with the same weights.
    ///
    /// # Shapes
    /// - `x`: `[B, T, D]`; `padding`: `[B, T]`, `true` = not a token: it has no influence on the outputs of tokens
    /// - output: `[B, T, D]`
    ///
    /// # Errors
    /// If the mask has another shape.
    ///
    /// # Panics
    /// If the width of `x` is not D.
    pub fn attend(&self, x: Tensor<3>, padding: Option<Tensor<2, Bool>>) -> Result<Tensor<3>> {
        let [q, k, v] = self.project(x, 0);
        self.mix([q, k, v], padding, false)
    }

    fn mix(&self, [q, k, v]: [Tensor<4>; 3], padding: Option<Tensor<2, Bool>>, causal: bool) -> Result<Tensor<3>> {
        let [b, h, t, width] = q.dims();
        let options = SoftmaxOptions {
            causal,
            key_padding: padding,
            distance_bias: self.relative_bias.as_ref().map(Param::val),
            ..Default::default()
        };
        let (o, _) = softmax_attention(q, k, v, options)?;
        Ok(project(&self.out_proj, o.swap_dims(1, 2).reshape([b, t, h * width])))
    }

    fn mix_causally(&self, qkv: [Tensor<4>; 3], padding: Option<Tensor<2, Bool>>) -> Tensor<3> {
        self.mix(qkv, padding, true).expect("the projections give matching shapes")
    }
}

impl SequenceMixer for SoftmaxAttention {
    type State = SoftmaxState;

    fn forward(&self, x: Tensor<3>, padding: Option<Tensor<2, Bool>>) -> Tensor<3> {
        self.mix_causally(self.project(x, 0), padding)
    }

    fn state(&self, batch: usize) -> SoftmaxState {
        let weight = self.out_proj.weight.val();
        SoftmaxState::new([batch, self.kv_heads, weight.dims()[0] / self.heads], &weight)
    }

    fn prefill(&self, x: Tensor<3>, state: &mut SoftmaxState) -> Tensor<3> {
        let [q, k, v] = self.project(x, state.len());
        let [k, v] = state.append(k, v);
        self.mix_causally([q, k, v], None)
    }

    fn step(&self, x: Tensor<2>, state: &mut SoftmaxState) -> Tensor<2> {
        self.prefill(x.unsqueeze_dim(1), state).squeeze_dim(1)
    }

    fn flops_per_token(&self, context: usize) -> f64 {
        let [d, projected] = self.qkv_proj.weight.lazy_shape().dims();
        let projections = 2 * d * projected + 2 * d * d;
        // Half of the pairs of a causal matrix, q·k and p·v.
        projections as f64 + 2.0 * (context + 1) as f64 * d as f64
    }
}
