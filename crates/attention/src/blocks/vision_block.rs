use burn::{
    module::{Initializer, Module, Param},
    tensor::{Device, Tensor},
};

use super::{DepthwiseConv, DepthwiseConvConfig, DropPath, Mlp, MlpConfig, MlpKind, Norm, NormKind, gelu};
use crate::{Result, SpatialMixer};

/// Configuration of a [`VisionBlock`].
#[derive(Clone, Debug, PartialEq)]
pub struct VisionBlockConfig {
    /// Inner width of the channel mixer.
    pub d_ff: usize,
    /// ε of the norms.
    pub norm_epsilon: f64,
    /// Rows and columns of the depthwise convolution before the mixer, if there is one.
    pub conv: Option<usize>,
    /// The same before the channel mixer.
    pub channel_conv: Option<usize>,
    /// Initial value of the factors γ, if there are any.
    pub layer_scale: Option<f64>,
}

impl VisionBlockConfig {
    /// The block of width `d_model` around a mixer.
    ///
    /// # Errors
    /// If a size is 0.
    pub fn init<M: Module>(&self, d_model: usize, mixer: M, device: &Device) -> Result<VisionBlock<M>> {
        let conv = |kernel: Option<usize>| kernel.map(|kernel| DepthwiseConvConfig::same(d_model, kernel).init(device)).transpose();
        let norm = || NormKind::Layer.init(d_model, self.norm_epsilon, device);
        let gamma = || self.layer_scale.map(|value| Initializer::Constant { value }.init([d_model], device));
        Ok(VisionBlock {
            conv: conv(self.conv)?,
            norm: norm(),
            mixer,
            gamma: gamma(),
            channel_conv: conv(self.channel_conv)?,
            channel_norm: norm(),
            mlp: MlpConfig { kind: MlpKind::Gelu, d_model, d_ff: self.d_ff, bias: true }.init(device)?,
            channel_gamma: gamma(),
            drop_path: DropPath::none(),
            conv_gelu: false,
        })
    }
}

/// The block of most vision transformers over maps, around any mixer:
///
/// ```text
/// x ← x + conv(x)      x ← x + γ ⊙ mixer(norm(x))      x ← x + conv'(x)      x ← x + γ' ⊙ mlp(norm'(x))
/// ```
///
/// Convolutions and γ are left out where there are none. In training the two mixers' branches may be left out at random:
/// [`with_drop_path`](Self::with_drop_path).
#[derive(Module, Debug)]
pub struct VisionBlock<M: Module> {
    /// The positions that a convolution tells the mixer of.
    pub conv: Option<DepthwiseConv>,
    /// Before the mixer.
    pub norm: Norm,
    /// The mixer of tokens.
    pub mixer: M,
    /// γ `[D]`
    pub gamma: Option<Param<Tensor<1>>>,
    /// conv'
    pub channel_conv: Option<DepthwiseConv>,
    /// Before the channel mixer.
    pub channel_norm: Norm,
    /// The mixer of channels.
    pub mlp: Mlp,
    /// γ' `[D]`
    pub channel_gamma: Option<Param<Tensor<1>>>,
    drop_path: DropPath,
    conv_gelu: bool,
}

impl<M: Module> VisionBlock<M> {
    /// [Stochastic depth](DropPath) of both branches.
    ///
    /// # Errors
    /// If the rate is not in [0, 1).
    pub fn with_drop_path(self, rate: f64) -> Result<Self> {
        Ok(Self { drop_path: DropPath::new(rate)?, ..self })
    }

    /// The exact GELU behind both convolutions.
    #[must_use]
    pub fn with_conv_gelu(self) -> Self {
        Self { conv_gelu: true, ..self }
    }
}

impl<M: Module + SpatialMixer> VisionBlock<M> {
    /// Transforms maps.
    ///
    /// # Shapes
    /// - `x`: `[B, Y, X, D]`; output: the same
    ///
    /// # Panics
    /// As the mixer.
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let x = self.with_conv(self.conv.as_ref(), x);
        let mixed = self.mixer.forward(self.norm.forward(x.clone()));
        let x = x + self.drop_path.forward(scaled(mixed, self.gamma.as_ref()));
        let x = self.with_conv(self.channel_conv.as_ref(), x);
        let mixed = self.mlp.forward(self.channel_norm.forward(x.clone()));
        x + self.drop_path.forward(scaled(mixed, self.channel_gamma.as_ref()))
    }

    /// As [`SpatialMixer::flops`], of the whole block.
    pub fn flops(&self, map: [usize; 2]) -> f64 {
        let tokens = map.iter().product::<usize>() as f64;
        let convs: usize = [&self.conv, &self.channel_conv].into_iter().flatten().map(DepthwiseConv::flops_per_output).sum();
        let mlp = [&self.mlp.up, &self.mlp.down].map(|layer| 2 * layer.weight.lazy_shape().num_elements()).iter().sum::<usize>();
        self.mixer.flops(map) + tokens * (convs + mlp) as f64
    }

    fn with_conv(&self, conv: Option<&DepthwiseConv>, x: Tensor<4>) -> Tensor<4> {
        match conv {
            Some(conv) if self.conv_gelu => x.clone() + gelu(conv.forward(x)),
            Some(conv) => x.clone() + conv.forward(x),
            None => x,
        }
    }
}

fn scaled(x: Tensor<4>, gamma: Option<&Param<Tensor<1>>>) -> Tensor<4> {
    match gamma {
        Some(gamma) => x * gamma.val().unsqueeze(),
        None => x,
    }
}

#[cfg(test)]
mod tests {
    use regard_testkit::{Sampler, assert_close, cpu};

    use super::*;
    use crate::window_attention::{WindowAttention, WindowAttentionConfig};

    fn block() -> VisionBlock<WindowAttention> {
        let config = VisionBlockConfig { d_ff: 4, norm_epsilon: 1e-5, conv: Some(3), channel_conv: None, layer_scale: None };
        let mixer = WindowAttentionConfig { window: 2, ..WindowAttentionConfig::new(2) }.init(8, &cpu()).unwrap();
        config.init(8, mixer, &cpu()).unwrap()
    }

    #[test]
    fn a_gelu_stands_behind_the_convolution_if_asked_for() {
        let plain = block();
        let x = Sampler::new(3).tensor([2, 4, 5, 8], -1.0, 1.0).f32(&cpu());
        let behind = x.clone() + gelu(plain.conv.as_ref().unwrap().forward(x.clone()));
        let want = VisionBlock { conv: None, ..plain.clone() }.forward(behind);
        assert_close("block", &plain.with_conv_gelu().forward(x), &want, 1e-6);
    }

    #[test]
    fn operations_are_those_of_mixer_convolution_and_channel_mixer() {
        let block = block();
        let tokens = 12.0;
        let want = block.mixer.flops([3, 4]) + tokens * f64::from(2 * 9 * 8 + 2 * 2 * 8 * 4);
        assert!((block.flops([3, 4]) - want).abs() < 1e-9);
    }
}
