use burn::{
    module::Module,
    nn::{Linear, LinearConfig},
    tensor::{Device, Tensor},
};
use serde::{Deserialize, Serialize};

use super::op::channel_attention;
use crate::{
    Error, Result, SpatialMixer,
    blocks::{project, split},
};

const OP: &str = "channel";

/// Which of the three projections the weights are made of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ChannelOrder {
    /// `softmax(Kᵀ V / √(D/H))`, applied to Q: the authors' code and weights.
    #[default]
    KeysValues,
    /// `softmax(Qᵀ K / √N)`, applied to V: a later variant.
    QueriesKeys,
}

/// Configuration of [`ChannelAttention`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChannelAttentionConfig {
    /// Number of groups of channels H; must divide the width.
    pub heads: usize,
    /// Which projections make the weights.
    #[serde(default)]
    pub order: ChannelOrder,
    /// Whether queries, keys and values have biases.
    #[serde(default = "yes")]
    pub qkv_bias: bool,
}

fn yes() -> bool {
    true
}

impl ChannelAttentionConfig {
    /// As in DaViT.
    pub fn new(heads: usize) -> Self {
        Self { heads, order: ChannelOrder::default(), qkv_bias: true }
    }

    /// The layer for width `d_model`.
    ///
    /// # Errors
    /// If the heads do not divide the width or it is 0.
    pub fn init(&self, d_model: usize, device: &Device) -> Result<ChannelAttention> {
        if d_model == 0 {
            return Err(Error::argument(OP, "d_model", "at least 1", d_model));
        }
        if self.heads == 0 || !d_model.is_multiple_of(self.heads) {
            return Err(Error::argument(OP, "heads", format!("a divisor of d_model = {d_model}"), self.heads));
        }
        Ok(ChannelAttention {
            qkv: LinearConfig::new(d_model, 3 * d_model).with_bias(self.qkv_bias).init(device),
            proj: LinearConfig::new(d_model, d_model).init(device),
            heads: self.heads,
            order: self.order,
        })
    }
}

/// Attention of the channels of each group to one another, over all tokens of a map, with the projections.
#[derive(Module, Debug)]
pub struct ChannelAttention {
    /// Queries, keys and values in one projection, in that order, groups of channels one after another.
    pub qkv: Linear,
    /// Back to the width of the model.
    pub proj: Linear,
    heads: usize,
    #[module(skip)]
    order: ChannelOrder,
}

impl ChannelAttention {
    /// Mixes the channels of tokens, in whatever order these come.
    ///
    /// # Shapes
    /// - `x`: `[B, N, D]`; output: the same
    ///
    /// # Panics
    /// If the width of `x` is not D.
    pub fn attend(&self, x: Tensor<3>) -> Tensor<3> {
        let ([b, n, d], h) = (x.dims(), self.heads);
        if x.dims().contains(&0) {
            return x;
        }
        let qkv = project(&self.qkv, x).reshape([b, n, 3 * h, d / h]);
        let [q, k, v] = split(qkv, 2, [h; 3]).map(|x| x.swap_dims(1, 2)); // [B, H, N, D/H]
        let o = match self.order {
            ChannelOrder::KeysValues => channel_attention(k, v, q, (h as f64 / d as f64).sqrt()),
            ChannelOrder::QueriesKeys => channel_attention(q, k, v, 1.0 / (n as f64).sqrt()),
        };
        let o = o.expect("the projections give matching shapes");
        project(&self.proj, o.swap_dims(1, 2).reshape([b, n, d]))
    }
}

impl SpatialMixer for ChannelAttention {
    fn check_map(&self, _: [usize; 2]) -> Result<()> {
        Ok(())
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let [b, y, columns, d] = x.dims();
        self.attend(x.reshape([b, y * columns, d])).reshape([b, y, columns, d])
    }

    fn flops(&self, [y, x]: [usize; 2]) -> f64 {
        let [d, _] = self.proj.weight.lazy_shape().dims();
        let per_token = 2 * 4 * d * d + 2 * 2 * d * (d / self.heads);
        (y * x) as f64 * per_token as f64
    }
}
