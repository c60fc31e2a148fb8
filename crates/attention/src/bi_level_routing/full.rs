use burn::{
    module::Module,
    nn::{Linear, LinearConfig},
    tensor::{Device, Tensor},
};

use crate::{
    Error, Result, SpatialMixer,
    blocks::{
        DepthwiseConv, DepthwiseConvConfig, project,
        softmax::{SoftmaxOptions, softmax_attention},
        split,
    },
};

/// Configuration of [`FullAttention`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FullAttentionConfig {
    /// Number of heads H, 8 in BiFormer whatever the width; must divide it.
    pub heads: usize,
    /// Side of the depthwise convolution, odd, or 0 for none.
    pub local: usize,
    /// Whether queries, keys and values have biases.
    pub qkv_bias: bool,
}

impl FullAttentionConfig {
    /// BiFormer's.
    pub const BIFORMER: Self = Self { heads: 8, local: 5, qkv_bias: false };

    /// The layer for width `d_model`.
    ///
    /// # Errors
    /// If the heads do not divide the width, or the side is neither odd nor 0.
    pub fn init(&self, d_model: usize, device: &Device) -> Result<FullAttention> {
        const OP: &str = "full_attention";
        if self.heads == 0 || d_model == 0 || !d_model.is_multiple_of(self.heads) {
            return Err(Error::argument(OP, "heads", format!("a divisor of d_model = {d_model}"), self.heads));
        }
        if self.local > 0 && self.local.is_multiple_of(2) {
            return Err(Error::argument(OP, "local", "odd, or 0", self.local));
        }
        Ok(FullAttention {
            qkv: LinearConfig::new(d_model, 3 * d_model).with_bias(self.qkv_bias).init(device),
            lepe: (self.local > 0).then(|| DepthwiseConvConfig::same(d_model, self.local).init(device)).transpose()?,
            proj: LinearConfig::new(d_model, d_model).init(device),
            heads: self.heads,
        })
    }
}

/// What BiFormer's last stage has in the place of routing: attention of all tokens to all, plus a depthwise convolution of its input (not of the
/// values), projected together.
#[derive(Module, Debug)]
pub struct FullAttention {
    /// Queries, keys and values in one projection, in that order, heads head-major.
    pub qkv: Linear,
    /// The convolution of the input, if there is one.
    pub lepe: Option<DepthwiseConv>,
    /// Back to the width of the model.
    pub proj: Linear,
    heads: usize,
}

impl SpatialMixer for FullAttention {
    fn check_map(&self, _: [usize; 2]) -> Result<()> {
        Ok(())
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let ([b, y, columns, d], h) = (x.dims(), self.heads);
        let qkv = project(&self.qkv, x.clone()).reshape([b, y * columns, 3 * h, d / h]);
        let [q, k, v] = split(qkv, 2, [h; 3]).map(|x| x.swap_dims(1, 2));
        let (o, _) = softmax_attention(q, k, v, SoftmaxOptions::default()).expect("the projections give matching shapes");
        let o = o.swap_dims(1, 2).reshape([b, y, columns, d]);
        project(
            &self.proj,
            match &self.lepe {
                Some(lepe) => o + lepe.forward(x),
                None => o,
            },
        )
    }

    fn flops(&self, [y, x]: [usize; 2]) -> f64 {
        let [d, _] = self.proj.weight.lazy_shape().dims();
        let n = (y * x) as f64;
        let d = d as f64;
        n * (8.0 * d * d + 4.0 * d * n + self.lepe.as_ref().map_or(0, DepthwiseConv::flops_per_output) as f64)
    }
}
