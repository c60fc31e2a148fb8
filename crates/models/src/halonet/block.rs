use burn::{
    module::Module,
    nn::{BatchNorm, BatchNormConfig, Initializer},
    tensor::{Device, Tensor},
};
use regard::{
    Error, Result, SpatialMixer,
    blocks::{DropPath, batch_norm},
    halo_attention::{HaloAttention, HaloAttentionConfig, HaloWidths},
};

use super::{
    config::{HaloMixer, HaloNetConfig, HaloStageConfig, OP},
    gate::ChannelGate,
};
use crate::vision::{Activation, ConvNorm, ConvNormConfig};

/// What a block is made of.
pub(super) struct BottleneckConfig<'a> {
    pub(super) network: &'a HaloNetConfig,
    pub(super) stage: &'a HaloStageConfig,
    pub(super) mixer: HaloMixer,
    /// Width of the input.
    pub(super) from: usize,
    pub(super) stride: usize,
    pub(super) drop_path: f64,
}

impl BottleneckConfig<'_> {
    pub(super) fn init(&self, device: &Device) -> Result<Bottleneck> {
        let Self { network, stage, from, stride, .. } = *self;
        let (epsilon, inner) = (network.norm_epsilon, stage.inner);
        let norm = |from, to, kernel, stride| ConvNormConfig { epsilon, ..ConvNormConfig::new(from, to, kernel, stride) };
        let conv1_1x1 = norm(from, inner, 1, 1).init(device)?;
        let (mixer, mixed) = match self.mixer {
            HaloMixer::Conv => {
                let conv = ConvNormConfig { groups: stage.groups, ..norm(inner, inner, 3, stride) };
                (BottleneckMixer::Conv(MixedConv { conv2_kxk: conv.init(device)?, attn: network.gate.init(inner, device) }), inner)
            }
            HaloMixer::Attention => {
                let attention = self.attention(device)?;
                let mixed = stage.values.unwrap_or(inner);
                let post_attn = BatchNormConfig::new(mixed).with_epsilon(epsilon).init(device);
                (BottleneckMixer::Attention(MixedAttention { self_attn: attention, post_attn }), mixed)
            }
        };
        let mut conv3_1x1 = norm(mixed, stage.width, 1, 1).init(device)?;
        if network.zero_init_residual {
            conv3_1x1.bn.gamma = Initializer::Zeros.init([stage.width], device);
        }
        let changes = from != stage.width || stride != 1;
        let shortcut = changes.then(|| norm(from, stage.width, 1, stride).init(device)).transpose()?;
        let drop_path = DropPath::new(self.drop_path)?;
        Ok(Bottleneck { conv1_1x1, mixer, conv3_1x1, shortcut, drop_path, activation: network.activation })
    }

    fn attention(&self, device: &Device) -> Result<HaloAttention> {
        let HaloStageConfig { inner, values, key, attention, .. } = self.stage;
        let heads = attention.heads;
        let values = values.unwrap_or(*inner);
        for (arg, width, wanted) in [("inner", *inner, key.is_none()), ("values", values, true)] {
            if wanted && (heads == 0 || !width.is_multiple_of(heads)) {
                return Err(Error::argument(OP, "heads", format!("a divisor of `{arg}` = {width}"), heads));
            }
        }
        let widths = HaloWidths { input: *inner, key: key.unwrap_or(inner / heads.max(1)), value: values / heads.max(1) };
        HaloAttentionConfig { stride: self.stride, ..attention.clone() }.init_widths(widths, device)
    }
}

/// What mixes the tokens of a block.
#[derive(Module, Debug)]
#[allow(clippy::large_enum_variant, reason = "one per block, next to its weights")]
pub enum BottleneckMixer {
    /// A convolution.
    Conv(MixedConv),
    /// Halo attention.
    Attention(MixedAttention),
}

/// `gate(act(norm(conv(x))))`
#[derive(Module, Debug)]
pub struct MixedConv {
    /// The convolution of 3 × 3 tokens and its norm.
    pub conv2_kxk: ConvNorm,
    /// What weighs the channels, if anything does.
    pub attn: Option<ChannelGate>,
}

/// `act(norm(attention(x)))`
#[derive(Module, Debug)]
pub struct MixedAttention {
    /// The attention.
    pub self_attn: HaloAttention,
    /// The norm behind it.
    pub post_attn: BatchNorm,
}

/// A residual block: to an inner width, a mixer of tokens, to the width of the output.
#[derive(Module, Debug)]
pub struct Bottleneck {
    /// To the inner width.
    pub conv1_1x1: ConvNorm,
    /// The mixer.
    pub mixer: BottleneckMixer,
    /// To the width of the output.
    pub conv3_1x1: ConvNorm,
    /// What makes the input fit the output, if it does not.
    pub shortcut: Option<ConvNorm>,
    drop_path: DropPath,
    #[module(skip)]
    activation: Activation,
}

impl Bottleneck {
    /// Transforms maps.
    ///
    /// # Shapes
    /// - `x`: `[B, Y, X, D]`; output: `[B, ⌈Y/s⌉, ⌈X/s⌉, D']`
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let act = |x| self.activation.apply(x);
        let y = act(self.conv1_1x1.forward(x.clone()));
        let y = match &self.mixer {
            BottleneckMixer::Conv(mixer) => {
                let y = act(mixer.conv2_kxk.forward(y));
                mixer.attn.as_ref().map_or(y.clone(), |gate| gate.forward(y))
            }
            BottleneckMixer::Attention(mixer) => act(batch_norm(&mixer.post_attn, mixer.self_attn.attend(y))),
        };
        let y = self.drop_path.forward(self.conv3_1x1.forward(y));
        let x = match &self.shortcut {
            Some(shortcut) => shortcut.forward(x),
            None => x,
        };
        act(x + y)
    }

    /// Multiply-adds for one image: of all rows of `input` for the first convolution, of those of `output` for what follows.
    pub(super) fn multiply_adds(&self, input: [usize; 2], output: [usize; 2]) -> f64 {
        let mixed = match &self.mixer {
            BottleneckMixer::Conv(MixedConv { conv2_kxk, attn }) => {
                let [channels, _, _, _] = conv2_kxk.conv.weight.lazy_shape().dims();
                conv2_kxk.multiply_adds(output) + attn.as_ref().map_or(0.0, |gate| gate.multiply_adds(channels))
            }
            BottleneckMixer::Attention(mixer) => mixer.self_attn.flops(input) / 2.0,
        };
        let shortcut = self.shortcut.as_ref().map_or(0.0, |shortcut| shortcut.multiply_adds(output));
        self.conv1_1x1.multiply_adds(input) + mixed + self.conv3_1x1.multiply_adds(output) + shortcut
    }
}
