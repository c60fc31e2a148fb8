use burn::{
    module::Module,
    nn::{BatchNorm, BatchNormConfig, Linear, LinearConfig},
    tensor::{Device, Tensor},
};
use serde::{Deserialize, Serialize};

use super::op::{StripOptions, strip_attention};
use crate::{
    Error, Result, SpatialMixer,
    blocks::{DepthwiseConv, DepthwiseConvConfig, batch_norm, pad_map, project},
};

const OP: &str = "strip";

/// Configuration of [`StripAttention`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StripAttentionConfig {
    /// Number of heads H; must divide the width.
    pub heads: usize,
    /// Numbers E of a query and of a key per head.
    #[serde(default = "one")]
    pub strip: usize,
    /// Rows and columns of tokens that make one key and value; 1 keeps all.
    #[serde(default = "two")]
    pub reduction: usize,
    /// See [`StripOptions::interpolate`].
    #[serde(default)]
    pub interpolate: Option<f64>,
}

fn one() -> usize {
    1
}

fn two() -> usize {
    2
}

impl StripAttentionConfig {
    /// Strips of one number and keys of 2 × 2 tokens, exactly.
    pub fn new(heads: usize) -> Self {
        Self { heads, strip: one(), reduction: two(), interpolate: None }
    }

    /// The layer for width `d_model`.
    ///
    /// # Errors
    /// If the heads do not divide the width, or a number is out of its range.
    pub fn init(&self, d_model: usize, device: &Device) -> Result<StripAttention> {
        for (arg, size) in [("d_model", d_model), ("strip", self.strip), ("reduction", self.reduction)] {
            if size == 0 {
                return Err(Error::argument(OP, arg, "at least 1", size));
            }
        }
        if self.heads == 0 || !d_model.is_multiple_of(self.heads) {
            return Err(Error::argument(OP, "heads", format!("a divisor of d_model = {d_model}"), self.heads));
        }
        if let Some(error) = self.interpolate.filter(|error| !(*error > 0.0 && *error < 1.0)) {
            return Err(Error::argument(OP, "interpolate", "between 0 and 1", error));
        }
        let linear = |to| LinearConfig::new(d_model, to).init(device);
        let r = self.reduction;
        let reduce = DepthwiseConvConfig { channels: d_model, kernel: r, stride: r, padding: 0, bias: true };
        let strips = self.heads * self.strip;
        Ok(StripAttention {
            q: linear(strips),
            k: linear(strips),
            v: linear(d_model),
            proj: linear(d_model),
            reduce: (r > 1).then(|| reduce.init(device)).transpose()?,
            reduce_norm: (r > 1).then(|| BatchNormConfig::new(d_model).init(device)),
            config: self.clone(),
        })
    }
}

/// Multi-head attention of all tokens of a map to the keys of a smaller one, with queries and keys of very few numbers.
///
/// Its batch norm uses the statistics of the batch, and updates its own, on a device with automatic differentiation, unless it is frozen.
#[derive(Module, Debug)]
pub struct StripAttention {
    /// Queries, heads head-major. D → H·E
    pub q: Linear,
    /// Keys. D → H·E
    pub k: Linear,
    /// Values. D → D
    pub v: Linear,
    /// Back to the width of the model.
    pub proj: Linear,
    /// The convolution that makes the map smaller, if it does.
    pub reduce: Option<DepthwiseConv>,
    /// The norm behind it, unless it was made part of the convolution.
    pub reduce_norm: Option<BatchNorm>,
    #[module(skip)]
    config: StripAttentionConfig,
}

impl SpatialMixer for StripAttention {
    fn check_map(&self, _: [usize; 2]) -> Result<()> {
        Ok(())
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let ([b, y, columns, d], h) = (x.dims(), self.config.heads);
        if x.dims().contains(&0) {
            return x;
        }
        let heads = |x: Tensor<4>, width: usize| {
            let [b, y, columns, _] = x.dims();
            x.reshape([b, y * columns, h, width]).swap_dims(1, 2) // [B, H, N, width]
        };
        let q = heads(project(&self.q, x.clone()), self.config.strip);
        let reduced = match &self.reduce {
            Some(reduce) => reduce.forward(pad_map(x, [self.config.reduction; 2])),
            None => x,
        };
        let reduced = match &self.reduce_norm {
            Some(norm) => batch_norm(norm, reduced),
            None => reduced,
        };
        let k = heads(project(&self.k, reduced.clone()), self.config.strip);
        let v = heads(project(&self.v, reduced), d / h);
        let options = StripOptions { interpolate: self.config.interpolate, ..Default::default() };
        let o = strip_attention(q, k, v, options).expect("the projections give matching shapes");
        project(&self.proj, o.swap_dims(1, 2).reshape([b, y, columns, d]))
    }

    fn flops(&self, [y, x]: [usize; 2]) -> f64 {
        let [d, strips] = self.q.weight.lazy_shape().dims();
        let r = self.config.reduction;
        let (n, keys) = ((y * x) as f64, (y.div_ceil(r) * x.div_ceil(r)) as f64);
        let conv = self.reduce.as_ref().map_or(0, DepthwiseConv::flops_per_output);
        let [d, strips, conv] = [d, strips, conv].map(|x| x as f64);
        2.0 * (n * d * (strips + d) + keys * d * (strips + d) + n * keys * (strips + d)) + keys * conv
    }
}
