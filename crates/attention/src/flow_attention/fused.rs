use burn::{
    module::Module,
    nn::{Linear, LinearConfig},
    tensor::{Device, Tensor},
};

use super::{layer::FlowAttentionConfig, op::flow_attention};
use crate::{Error, Result, blocks::project};

impl FlowAttentionConfig {
    /// The layer of the vision models for width `d_model`: bidirectional, with queries, keys and values in one projection.
    ///
    /// # Errors
    /// If the heads do not divide the width or an option is out of its range.
    pub fn init_fused(&self, d_model: usize, device: &Device) -> Result<FusedFlowAttention> {
        if d_model == 0 {
            return Err(Error::argument(Self::OP, "d_model", "at least 1", d_model));
        }
        self.check(d_model)?;
        let linear = |to| LinearConfig::new(d_model, to).with_bias(self.bias).init(device);
        Ok(FusedFlowAttention { qkv: linear(3 * d_model), out_proj: linear(d_model), config: self.clone() })
    }
}

/// Bidirectional multi-head Flow attention of a sequence to itself, with one projection for queries, keys and values.
#[derive(Module, Debug)]
pub struct FusedFlowAttention {
    /// W_q, W_k and W_v, in that order, heads head-major.
    pub qkv: Linear,
    /// W_o
    pub out_proj: Linear,
    #[module(skip)]
    config: FlowAttentionConfig,
}

impl FusedFlowAttention {
    /// Mixes whole sequences.
    ///
    /// # Shapes
    /// - `x`: `[B, T, D]`, T ≥ 1; output: the same
    ///
    /// # Errors
    /// If there is no token.
    ///
    /// # Panics
    /// If the width of `x` is not D.
    pub fn forward(&self, x: Tensor<3>) -> Result<Tensor<3>> {
        let ([b, t, d], h) = (x.dims(), self.config.heads);
        let qkv = project(&self.qkv, x).reshape([b, t, 3 * h, d / h]);
        let part = |i: usize| qkv.clone().narrow(2, i * h, h).swap_dims(1, 2);
        let o = flow_attention(part(0), part(1), part(2), &self.config.options())?;
        Ok(project(&self.out_proj, o.swap_dims(1, 2).reshape([b, t, d])))
    }
}
