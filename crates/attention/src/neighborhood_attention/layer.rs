use burn::{
    module::{Initializer, Module, Param},
    nn::{Linear, LinearConfig},
    tensor::{Device, Tensor},
};
use serde::{Deserialize, Serialize};

use crate::{
    Error, Result, SpatialMixer,
    blocks::{
        neighborhood::{NeighborhoodOptions, WindowAxis, neighborhood_attention},
        project, split,
    },
};

/// Configuration of [`NeighborhoodAttention`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NeighborhoodAttentionConfig {
    /// Number of heads H; must divide the width.
    pub heads: usize,
    /// Rows and columns of a neighbourhood, at least 1; times the dilation at most the rows and the columns of a map.
    #[serde(default = "seven")]
    pub window: usize,
    /// Rows and columns that share a neighbourhood: from 1 to `window`, which gives blocks.
    #[serde(default = "one")]
    pub stride: usize,
    /// Distance of neighbours, at least 1; more in every other layer of DiNAT.
    #[serde(default = "one")]
    pub dilation: usize,
    /// Whether scores have a learned bias by relative position.
    #[serde(default = "yes")]
    pub relative_bias: bool,
    /// Whether queries, keys and values have biases.
    #[serde(default = "yes")]
    pub qkv_bias: bool,
}

fn seven() -> usize {
    7
}

fn one() -> usize {
    1
}

fn yes() -> bool {
    true
}

impl NeighborhoodAttentionConfig {
    /// As in NAT: 7 × 7 neighbours and all biases.
    pub fn new(heads: usize) -> Self {
        Self { heads, window: seven(), stride: one(), dilation: one(), relative_bias: true, qkv_bias: true }
    }

    /// The layer for width `d_model`.
    ///
    /// # Errors
    /// If the heads do not divide the width, a number is 0 or the stride exceeds the window.
    pub fn init(&self, d_model: usize, device: &Device) -> Result<NeighborhoodAttention> {
        if d_model == 0 {
            return Err(Error::argument(OP, "d_model", "at least 1", d_model));
        }
        if self.heads == 0 || !d_model.is_multiple_of(self.heads) {
            return Err(Error::argument(OP, "heads", format!("a divisor of d_model = {d_model}"), self.heads));
        }
        let axis = self.axis();
        axis.check(OP, 0, usize::MAX)?;
        let offsets = 2 * self.window - 1;
        let biases = || Initializer::Normal { mean: 0.0, std: 0.02 }.init([self.heads, offsets, offsets], device);
        Ok(NeighborhoodAttention {
            qkv: LinearConfig::new(d_model, 3 * d_model).with_bias(self.qkv_bias).init(device),
            rpb: self.relative_bias.then(biases),
            proj: LinearConfig::new(d_model, d_model).init(device),
            heads: self.heads,
            axis,
        })
    }

    fn axis(&self) -> WindowAxis {
        WindowAxis { window: self.window, stride: self.stride, dilation: self.dilation, causal: false }
    }
}

const OP: &str = "neighborhood";

/// Multi-head attention of each token of a map to its neighbourhood, with the projections.
#[derive(Module, Debug)]
pub struct NeighborhoodAttention {
    /// Queries, keys and values in one projection, in that order, heads head-major.
    pub qkv: Linear,
    /// Biases by relative position, if there are any: of a key so many rows and columns behind its query. `[H, 2k − 1, 2k − 1]`
    pub rpb: Option<Param<Tensor<3>>>,
    /// Back to the width of the model.
    pub proj: Linear,
    heads: usize,
    #[module(skip)]
    axis: WindowAxis,
}

impl SpatialMixer for NeighborhoodAttention {
    fn check_map(&self, map: [usize; 2]) -> Result<()> {
        map.into_iter().enumerate().try_for_each(|(i, length)| self.axis.check(OP, i, length))
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let ([b, y, columns, d], h) = (x.dims(), self.heads);
        let qkv = project(&self.qkv, x).reshape([b, y, columns, 3 * h, d / h]);
        let [q, k, v] = split(qkv, 3, [h; 3]);
        let bias = self.rpb.as_ref().map(|rpb| rpb.val().flatten(1, 2));
        let options = NeighborhoodOptions { bias, ..Default::default() };
        let (o, _) = neighborhood_attention(q, k, v, &[self.axis; 2], options).expect("a map that `check_map` accepts");
        project(&self.proj, o.reshape([b, y, columns, d]))
    }

    fn flops(&self, [y, x]: [usize; 2]) -> f64 {
        let [d, _] = self.proj.weight.lazy_shape().dims();
        let per_token = 2 * 4 * d * d + 2 * 2 * d * self.axis.window * self.axis.window;
        (y * x) as f64 * per_token as f64
    }
}
