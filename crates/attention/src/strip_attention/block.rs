use burn::{
    module::Module,
    nn::{BatchNorm, BatchNormConfig},
    tensor::{Device, Tensor},
};

use super::layer::{StripAttention, StripAttentionConfig};
use crate::{
    Result, SpatialMixer,
    blocks::{DepthwiseConv, DepthwiseConvConfig, DropPath, Mlp, MlpConfig, MlpKind, Norm, NormKind, batch_norm, gelu},
};

/// Configuration of a [`LocalInteraction`] module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LocalInteractionConfig {
    /// Channels.
    pub channels: usize,
}

impl LocalInteractionConfig {
    /// The module.
    ///
    /// # Errors
    /// If there are no channels.
    pub fn init(&self, device: &Device) -> Result<LocalInteraction> {
        let conv = || DepthwiseConvConfig::same(self.channels, 3).init(device);
        Ok(LocalInteraction { conv1: conv()?, bn: BatchNormConfig::new(self.channels).init(device), conv2: conv()? })
    }
}

/// `conv2(bn(GELU(conv1(x))))`, depthwise convolutions of 3 × 3 tokens: what attention to a smaller map loses of details is put back.
#[derive(Module, Debug)]
pub struct LocalInteraction {
    /// The first convolution.
    pub conv1: DepthwiseConv,
    /// Between the convolutions; see [`StripAttention`] for when it uses which statistics.
    pub bn: BatchNorm,
    /// The second convolution.
    pub conv2: DepthwiseConv,
}

impl LocalInteraction {
    /// Transforms maps.
    ///
    /// # Shapes
    /// - `x`: `[B, Y, X, D]`; output: the same
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        self.conv2.forward(batch_norm(&self.bn, gelu(self.conv1.forward(x))))
    }

    /// As [`SpatialMixer::flops`].
    pub fn flops(&self, [y, x]: [usize; 2]) -> f64 {
        (y * x * (self.conv1.flops_per_output() + self.conv2.flops_per_output())) as f64
    }
}

/// Configuration of a [`HybridPerception`] block.
#[derive(Clone, Debug, PartialEq)]
pub struct HybridPerceptionConfig {
    /// Its attention.
    pub attention: StripAttentionConfig,
    /// Inner width of the channel mixer.
    pub d_ff: usize,
    /// ε of the norms.
    pub norm_epsilon: f64,
}

impl HybridPerceptionConfig {
    /// With a channel mixer of 4·D and ε = 1e-6.
    pub fn new(attention: StripAttentionConfig, d_model: usize) -> Self {
        Self { attention, d_ff: 4 * d_model, norm_epsilon: 1e-6 }
    }

    /// The block for width `d_model`.
    ///
    /// # Errors
    /// If a configuration is invalid.
    pub fn init(&self, d_model: usize, device: &Device) -> Result<HybridPerception> {
        let norm = || NormKind::Layer.init(d_model, self.norm_epsilon, device);
        Ok(HybridPerception {
            dwconv: DepthwiseConvConfig::same(d_model, 3).init(device)?,
            norm1: norm(),
            ssa: self.attention.init(d_model, device)?,
            norm2: norm(),
            lim: LocalInteractionConfig { channels: d_model }.init(device)?,
            norm3: norm(),
            mlp: MlpConfig { kind: MlpKind::Gelu, d_model, d_ff: self.d_ff, bias: true }.init(device)?,
            drop_path: DropPath::none(),
        })
    }
}

/// The block of S2AFormer: `x ← x + conv(x)`, then `x ← x + f(norm(x))` for strip attention, local interaction and channel mixer.
#[derive(Module, Debug)]
pub struct HybridPerception {
    /// The depthwise convolution of 3 × 3 tokens.
    pub dwconv: DepthwiseConv,
    /// Before the attention.
    pub norm1: Norm,
    /// The attention.
    pub ssa: StripAttention,
    /// Before the local interaction.
    pub norm2: Norm,
    /// The local interaction.
    pub lim: LocalInteraction,
    /// Before the channel mixer.
    pub norm3: Norm,
    /// The channel mixer.
    pub mlp: Mlp,
    drop_path: DropPath,
}

impl HybridPerception {
    /// [Stochastic depth](DropPath) of the branches of attention, local interaction and channel mixer.
    ///
    /// # Errors
    /// If the rate is not in [0, 1).
    pub fn with_drop_path(self, rate: f64) -> Result<Self> {
        Ok(Self { drop_path: DropPath::new(rate)?, ..self })
    }

    /// Transforms maps.
    ///
    /// # Shapes
    /// - `x`: `[B, Y, X, D]`; output: the same
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let x = x.clone() + self.dwconv.forward(x);
        let kept = |branch| self.drop_path.forward(branch);
        let x = x.clone() + kept(self.ssa.forward(self.norm1.forward(x)));
        let x = x.clone() + kept(self.lim.forward(self.norm2.forward(x)));
        x.clone() + kept(self.mlp.forward(self.norm3.forward(x)))
    }

    /// As [`SpatialMixer::flops`], of the whole block.
    pub fn flops(&self, map: [usize; 2]) -> f64 {
        let tokens = map.iter().product::<usize>() as f64;
        let mlp = [&self.mlp.up, &self.mlp.down].map(|layer| 2 * layer.weight.lazy_shape().num_elements()).iter().sum::<usize>();
        self.ssa.flops(map) + self.lim.flops(map) + tokens * (self.dwconv.flops_per_output() + mlp) as f64
    }
}
