use burn::{
    module::Module,
    tensor::{Device, Tensor, activation},
};
use regard::{
    Result, SpatialMixer,
    polarized_attention::{PolarizedAttention, PolarizedAttentionConfig},
};

use crate::vision::{ConvNorm, ConvNormConfig};

/// Which of the two blocks of residual networks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResidualKind {
    /// Two convolutions of 3 × 3 tokens.
    Basic,
    /// One of them between two of single tokens, of which the last makes the width four times as large.
    Bottleneck,
}

impl ResidualKind {
    /// The width of the output of a block of inner width 1.
    pub fn expansion(self) -> usize {
        match self {
            Self::Basic => 1,
            Self::Bottleneck => 4,
        }
    }
}

/// What a [`ResidualBlock`] is made of.
#[derive(Clone, Debug)]
pub(super) struct ResidualConfig {
    pub(super) kind: ResidualKind,
    pub(super) epsilon: f64,
    pub(super) psa: Option<PolarizedAttentionConfig>,
}

impl ResidualConfig {
    pub(super) fn init(&self, from: usize, inner: usize, stride: usize, device: &Device) -> Result<ResidualBlock> {
        let to = inner * self.kind.expansion();
        let norm = |from, to, kernel, stride| {
            ConvNormConfig { epsilon: self.epsilon, ..ConvNormConfig::new(from, to, kernel, stride) }.init(device)
        };
        let (first, second, third) = match self.kind {
            ResidualKind::Basic => (norm(from, inner, 3, stride)?, norm(inner, to, 3, 1)?, None),
            ResidualKind::Bottleneck => (norm(from, inner, 1, 1)?, norm(inner, inner, 3, stride)?, Some(norm(inner, to, 1, 1)?)),
        };
        let deattn = self.psa.map(|psa| psa.init(inner, device)).transpose()?;
        let downsample = (from != to || stride != 1).then(|| norm(from, to, 1, stride)).transpose()?;
        Ok(ResidualBlock { first, second, third, deattn, downsample })
    }

    /// Blocks one behind the other, the first of which has the stride.
    pub(super) fn stage(&self, from: usize, inner: usize, stride: usize, depth: usize, device: &Device) -> Result<Vec<ResidualBlock>> {
        let to = inner * self.kind.expansion();
        (0..depth).map(|i| self.init(if i == 0 { from } else { to }, inner, if i == 0 { stride } else { 1 }, device)).collect()
    }
}

/// A block of a residual network with polarized self-attention, or without.
///
/// ```text
/// basic:       relu(x + BN(conv_3(psa(relu(BN(conv_3(x)))))))
/// bottleneck:  relu(x + BN(conv_1(psa(relu(BN(conv_3(relu(BN(conv_1(x)))))))))))
/// ```
#[derive(Module, Debug)]
pub struct ResidualBlock {
    /// The first convolution and its norm.
    pub first: ConvNorm,
    /// The second.
    pub second: ConvNorm,
    /// The last of a bottleneck.
    pub third: Option<ConvNorm>,
    /// The attention, if there is one: behind the first convolution of 3 × 3 tokens.
    pub deattn: Option<PolarizedAttention>,
    /// What makes the input fit the output, if it does not.
    pub downsample: Option<ConvNorm>,
}

impl ResidualBlock {
    /// Transforms maps.
    ///
    /// # Shapes
    /// - `x`: `[B, Y, X, D]`; output: `[B, ⌈Y/s⌉, ⌈X/s⌉, D']`
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let attend = |y: Tensor<4>| match &self.deattn {
            Some(layer) => layer.forward(y),
            None => y,
        };
        let y = activation::relu(self.first.forward(x.clone()));
        let y = match &self.third {
            None => self.second.forward(attend(y)),
            Some(third) => third.forward(attend(activation::relu(self.second.forward(y)))),
        };
        let x = match &self.downsample {
            Some(downsample) => downsample.forward(x),
            None => x,
        };
        activation::relu(x + y)
    }

    /// Multiply-adds for one image, from a map of `input` sides to one of `output` sides.
    pub(super) fn multiply_adds(&self, input: [usize; 2], output: [usize; 2]) -> f64 {
        let first = if self.third.is_some() { input } else { output };
        let rest = [Some(&self.second), self.third.as_ref(), self.downsample.as_ref()];
        let convs: f64 = rest.into_iter().flatten().map(|conv| conv.multiply_adds(output)).sum();
        self.first.multiply_adds(first) + convs + self.deattn.as_ref().map_or(0.0, |layer| layer.flops(output) / 2.0)
    }
}

/// The output of blocks one behind the other.
pub(super) fn through(blocks: &[ResidualBlock], x: Tensor<4>) -> Tensor<4> {
    blocks.iter().fold(x, |x, block| block.forward(x))
}
