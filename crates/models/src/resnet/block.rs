use burn::{
    module::Module,
    tensor::{Device, Tensor, ops::PadMode, s},
};
use regard::{
    Result, SpatialMixer,
    blocks::relu,
    polarized_attention::{PolarizedAttention, PolarizedAttentionConfig},
};

use super::config::{ResNetBlockKind, Shortcut};
use crate::vision::{ConvNorm, ConvNormConfig};

/// What a [`ResNetBlock`] is made of.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ResNetBlockConfig {
    pub(crate) kind: ResNetBlockKind,
    pub(crate) shortcut: Shortcut,
    /// The attention behind the first convolution of 3 × 3 tokens, if there is one.
    pub(crate) psa: Option<PolarizedAttentionConfig>,
    /// ε of the norms.
    pub(crate) epsilon: f64,
}

impl ResNetBlockConfig {
    /// Blocks with projections and the usual ε.
    pub(crate) fn new(kind: ResNetBlockKind) -> Self {
        Self { kind, shortcut: Shortcut::Projection, psa: None, epsilon: 1e-5 }
    }

    pub(crate) fn init(&self, from: usize, inner: usize, stride: usize, device: &Device) -> Result<ResNetBlock> {
        let to = inner * self.kind.expansion();
        let conv = |from, to, kernel, stride| {
            ConvNormConfig { epsilon: self.epsilon, ..ConvNormConfig::new(from, to, kernel, stride) }.init(device)
        };
        let convs: Result<Vec<ConvNorm>> = match self.kind {
            ResNetBlockKind::Basic => [conv(from, inner, 3, stride), conv(inner, to, 3, 1)].into_iter().collect(),
            ResNetBlockKind::Bottleneck => {
                [conv(from, inner, 1, 1), conv(inner, inner, 3, stride), conv(inner, to, 1, 1)].into_iter().collect()
            }
        };
        let projected = self.shortcut == Shortcut::Projection && (stride > 1 || from != to);
        Ok(ResNetBlock {
            convs: convs?,
            attention: self.psa.map(|psa| psa.init(inner, device)).transpose()?,
            downsample: projected.then(|| conv(from, to, 1, stride)).transpose()?,
            stride,
        })
    }

    /// Blocks one behind the other, the first of which has the stride.
    pub(crate) fn stage(&self, from: usize, inner: usize, stride: usize, depth: usize, device: &Device) -> Result<Vec<ResNetBlock>> {
        let to = inner * self.kind.expansion();
        (0..depth).map(|i| self.init(if i == 0 { from } else { to }, inner, if i == 0 { stride } else { 1 }, device)).collect()
    }
}

/// `relu(shortcut(x) + norm(conv(… relu(norm(conv(x))))))`, with attention before the last convolution, if there is one.
#[derive(Module, Debug)]
pub struct ResNetBlock {
    /// The convolutions, each with its norm.
    pub convs: Vec<ConvNorm>,
    /// Gates of channels and tokens, if there are any.
    pub attention: Option<PolarizedAttention>,
    /// What makes the input fit the output, if that is learned.
    pub downsample: Option<ConvNorm>,
    stride: usize,
}

impl ResNetBlock {
    /// Transforms maps.
    ///
    /// # Shapes
    /// - `x`: `[B, Y, X, D]`; output: `[B, ⌈Y/s⌉, ⌈X/s⌉, D']`
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let last = self.convs.len() - 1;
        let branch = self.convs.iter().enumerate().fold(x.clone(), |y, (i, conv)| {
            let y = match &self.attention {
                Some(attention) if i == last => attention.forward(y),
                _ => y,
            };
            let y = conv.forward(y);
            if i < last { relu(y) } else { y }
        });
        let [_, _, _, width] = branch.dims();
        let shortcut = match &self.downsample {
            Some(downsample) => downsample.forward(x),
            None => thinned(x, self.stride, width),
        };
        relu(shortcut + branch)
    }

    /// The sides of the map that it makes, and multiply-adds for it.
    pub(crate) fn cost(&self, map: [usize; 2]) -> ([usize; 2], f64) {
        let smaller = map.map(|length| length.div_ceil(self.stride));
        let mut at = map;
        let mut sum = self.downsample.as_ref().map_or(0.0, |conv| conv.multiply_adds(smaller));
        for conv in &self.convs {
            if conv.conv.stride[0] == self.stride {
                at = at.map(|length| length.div_ceil(self.stride));
            }
            sum += conv.multiply_adds(at);
        }
        (smaller, sum + self.attention.as_ref().map_or(0.0, |attention| attention.flops(smaller) / 2.0))
    }
}

/// Every `stride`-th token, with zeros on both sides of its channels to make them `width`.
fn thinned(x: Tensor<4>, stride: usize, width: usize) -> Tensor<4> {
    let [.., d] = x.dims();
    let x = if stride == 1 { x } else { x.slice(s![.., ..;stride as isize, ..;stride as isize]) };
    let (before, more) = ((width - d) / 2, width - d);
    if more == 0 { x } else { x.pad([(0, 0), (0, 0), (0, 0), (before, more - before)], PadMode::Constant(0.0)) }
}
