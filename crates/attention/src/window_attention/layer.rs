use burn::{
    module::Module,
    nn::{Linear, LinearConfig},
    tensor::{Device, Tensor},
};
use serde::{Deserialize, Serialize};

use crate::{
    Error, Result, SpatialMixer,
    blocks::{
        crop_map,
        neighborhood::{NeighborhoodOptions, WindowAxis, neighborhood_attention},
        pad_map, project, split,
    },
};

const OP: &str = "window";

/// Configuration of [`WindowAttention`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WindowAttentionConfig {
    /// Number of heads H; must divide the width.
    pub heads: usize,
    /// Rows and columns of a window, at least 1. Maps whose sides are not multiples of it are padded.
    #[serde(default = "seven")]
    pub window: usize,
    /// Whether queries, keys and values have biases.
    #[serde(default = "yes")]
    pub qkv_bias: bool,
}

fn seven() -> usize {
    7
}

fn yes() -> bool {
    true
}

impl WindowAttentionConfig {
    /// As in DaViT: windows of 7 × 7 tokens and all biases.
    pub fn new(heads: usize) -> Self {
        Self { heads, window: seven(), qkv_bias: true }
    }

    /// The layer for width `d_model`.
    ///
    /// # Errors
    /// If the heads do not divide the width or a size is 0.
    pub fn init(&self, d_model: usize, device: &Device) -> Result<WindowAttention> {
        for (arg, size) in [("d_model", d_model), ("window", self.window)] {
            if size == 0 {
                return Err(Error::argument(OP, arg, "at least 1", size));
            }
        }
        if self.heads == 0 || !d_model.is_multiple_of(self.heads) {
            return Err(Error::argument(OP, "heads", format!("a divisor of d_model = {d_model}"), self.heads));
        }
        Ok(WindowAttention {
            qkv: LinearConfig::new(d_model, 3 * d_model).with_bias(self.qkv_bias).init(device),
            proj: LinearConfig::new(d_model, d_model).init(device),
            heads: self.heads,
            window: self.window,
        })
    }
}

/// Multi-head attention of the tokens of each window of a map to one another, with the projections.
#[derive(Module, Debug)]
pub struct WindowAttention {
    /// Queries, keys and values in one projection, in that order, heads head-major.
    pub qkv: Linear,
    /// Back to the width of the model.
    pub proj: Linear,
    heads: usize,
    window: usize,
}

impl SpatialMixer for WindowAttention {
    fn check_map(&self, _: [usize; 2]) -> Result<()> {
        Ok(())
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let ([b, y, columns, d], h) = (x.dims(), self.heads);
        if x.dims().contains(&0) {
            return x;
        }
        // Padding comes before the projection: its tokens are biases, and take part.
        let x = pad_map(x, [self.window; 2]);
        let [_, padded_y, padded_x, _] = x.dims();
        let qkv = project(&self.qkv, x).reshape([b, padded_y, padded_x, 3 * h, d / h]);
        let [q, k, v] = split(qkv, 3, [h; 3]);
        let windows = [WindowAxis::blocks(self.window); 2];
        let (o, _) = neighborhood_attention(q, k, v, &windows, NeighborhoodOptions::default()).expect("sides that windows divide");
        project(&self.proj, crop_map(o.reshape([b, padded_y, padded_x, d]), [y, columns]))
    }

    fn flops(&self, map: [usize; 2]) -> f64 {
        let [d, _] = self.proj.weight.lazy_shape().dims();
        let [tokens, padded] = [1, self.window].map(|side| map.map(|length| length.next_multiple_of(side) as f64).iter().product::<f64>());
        let d = d as f64;
        padded * (6.0 * d * d + 4.0 * d * (self.window * self.window) as f64) + tokens * 2.0 * d * d
    }
}
