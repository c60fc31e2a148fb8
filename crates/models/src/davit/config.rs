use burn::{nn::LinearConfig, tensor::Device};
use regard::{
    Error, ImageMixerConfig, Result,
    blocks::{ConvConfig, NormKind, VisionBlock, VisionBlockConfig},
    channel_attention::{ChannelAttentionConfig, ChannelOrder},
    window_attention::WindowAttentionConfig,
};
use serde::{Deserialize, Serialize};

use super::model::{Davit, DavitDownsample, DavitHead, DavitStage, DavitStem};
use crate::{decoder::initialise, vision::drop_rates};

pub(super) const OP: &str = "davit";

/// What mixes the tokens of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DavitAttention {
    /// Attention of the tokens of a window.
    Spatial,
    /// Attention of the channels of a group.
    Channel,
}

/// Configuration of a [`Davit`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DavitConfig {
    /// Channels of an image.
    #[serde(default = "three")]
    pub channels: usize,
    /// Distance of the patches of 7 × 7 pixels that become tokens.
    #[serde(default = "four")]
    pub patch: usize,
    /// Width of each stage.
    pub widths: Vec<usize>,
    /// Number of dual blocks of each stage.
    pub depths: Vec<usize>,
    /// Number of heads of each stage, which is that of the groups of channels.
    pub heads: Vec<usize>,
    /// The blocks that a dual block is made of.
    #[serde(default = "dual")]
    pub attention: Vec<DavitAttention>,
    /// Rows and columns of a window.
    #[serde(default = "seven")]
    pub window: usize,
    /// Inner width of the channel mixers as a multiple of the stage's.
    #[serde(default = "ratio")]
    pub mlp_ratio: f64,
    /// Whether queries, keys and values have biases.
    #[serde(default = "yes")]
    pub qkv_bias: bool,
    /// Which projections make the weights of channel attention.
    #[serde(default)]
    pub channel_order: ChannelOrder,
    /// Whether 3 × 3 tokens become one between stages, which overlap; else 2 × 2 side by side.
    #[serde(default)]
    pub overlapped: bool,
    /// Whether the exact GELU stands behind the convolutions of the blocks.
    #[serde(default)]
    pub conv_gelu: bool,
    /// ε of the norms.
    #[serde(default = "epsilon")]
    pub norm_epsilon: f64,
    /// Probability of leaving out a mixer of the last block in training, in [0, 1); that of the first is 0, and it rises linearly.
    #[serde(default)]
    pub drop_path: f64,
    /// Number of classes; 0 = no classifier. A file may leave it out: training takes it from the images.
    #[serde(default)]
    pub classes: usize,
}

fn three() -> usize {
    3
}

fn four() -> usize {
    4
}

fn seven() -> usize {
    7
}

fn dual() -> Vec<DavitAttention> {
    vec![DavitAttention::Spatial, DavitAttention::Channel]
}

fn ratio() -> f64 {
    4.0
}

fn yes() -> bool {
    true
}

fn epsilon() -> f64 {
    1e-5
}

impl DavitConfig {
    /// Stages of these widths, depths and heads with the published choices otherwise.
    pub fn new(widths: impl Into<Vec<usize>>, depths: impl Into<Vec<usize>>, heads: impl Into<Vec<usize>>, classes: usize) -> Self {
        Self {
            channels: three(),
            patch: four(),
            widths: widths.into(),
            depths: depths.into(),
            heads: heads.into(),
            attention: dual(),
            window: seven(),
            mlp_ratio: ratio(),
            qkv_bias: yes(),
            channel_order: ChannelOrder::default(),
            overlapped: false,
            conv_gelu: false,
            norm_epsilon: epsilon(),
            drop_path: 0.0,
            classes,
        }
    }

    /// The network with the authors' initial values: linear layers from N(0, 0.02) with biases 0, convolutions as PyTorch draws them.
    ///
    /// # Errors
    /// If a size is 0, the lists are not of one length, the heads do not divide a width, or a rate is not in [0, 1).
    pub fn init(&self, device: &Device) -> Result<Davit> {
        Ok(initialise(self.skeleton(device)?, 0.02, 0.02))
    }

    /// The network without memory for its weights: for their number, and to be filled from a checkpoint.
    ///
    /// # Errors
    /// As [`init`](Self::init).
    pub fn skeleton(&self, device: &Device) -> Result<Davit> {
        self.check()?;
        let norm = |width| NormKind::Layer.init(width, self.norm_epsilon, device);
        let conv = ConvConfig { kernel: 7, stride: self.patch, padding: 3, ..ConvConfig::same(self.channels, self.widths[0], 7) };
        let blocks: usize = self.depths.iter().sum::<usize>() * self.attention.len();
        let mut rates = drop_rates(OP, self.drop_path, blocks)?.into_iter();
        let mut stages = Vec::with_capacity(self.widths.len());
        for (stage, &width) in self.widths.iter().enumerate() {
            let from = stage.checked_sub(1).map(|before| self.widths[before]);
            let downsample = from.map(|from| {
                let [kernel, padding] = if self.overlapped { [3, 1] } else { [2, 0] };
                let conv = ConvConfig { kernel, padding, ..ConvConfig::halving(from, width, kernel) };
                Ok(DavitDownsample { norm: norm(from), conv: conv.init(device)? })
            });
            let downsample = downsample.transpose()?;
            let mut dual = |_| {
                let block = |&attention| self.block(attention, stage, rates.next().unwrap_or_default(), device);
                self.attention.iter().map(block).collect::<Result<Vec<_>>>()
            };
            let blocks = (0..self.depths[stage]).map(&mut dual).collect::<Result<Vec<_>>>()?;
            stages.push(DavitStage { downsample, blocks });
        }
        let width = self.widths[self.widths.len() - 1];
        let head = || DavitHead { norm: norm(width), fc: LinearConfig::new(width, self.classes).init(device) };
        Ok(Davit {
            stem: DavitStem { conv: conv.init(device)?, norm: norm(self.widths[0]), patch: self.patch },
            stages,
            head: (self.classes > 0).then(head),
            config: self.clone(),
        })
    }

    fn block(&self, attention: DavitAttention, stage: usize, rate: f64, device: &Device) -> Result<VisionBlock<regard::ImageMixer>> {
        let (width, heads) = (self.widths[stage], self.heads[stage]);
        let mixer = match attention {
            DavitAttention::Spatial => ImageMixerConfig::Window(WindowAttentionConfig {
                window: self.window,
                qkv_bias: self.qkv_bias,
                ..WindowAttentionConfig::new(heads)
            }),
            DavitAttention::Channel => ImageMixerConfig::Channel(ChannelAttentionConfig {
                order: self.channel_order,
                qkv_bias: self.qkv_bias,
                ..ChannelAttentionConfig::new(heads)
            }),
        };
        let block = VisionBlockConfig {
            d_ff: (self.mlp_ratio * width as f64) as usize,
            norm_epsilon: self.norm_epsilon,
            conv: Some(3),
            channel_conv: Some(3),
            layer_scale: None,
        };
        let block = block.init(width, mixer.init(width, device)?, device)?.with_drop_path(rate)?;
        Ok(if self.conv_gelu { block.with_conv_gelu() } else { block })
    }

    fn check(&self) -> Result<()> {
        let sizes = [
            ("channels", self.channels),
            ("patch", self.patch),
            ("widths", self.widths.len()),
            ("widths", self.widths.iter().copied().min().unwrap_or_default()),
            ("depths", self.depths.iter().sum()),
            ("attention", self.attention.len()),
        ];
        for (arg, size) in sizes {
            if size == 0 {
                return Err(Error::argument(OP, arg, "at least 1", size));
            }
        }
        for (arg, list) in [("depths", &self.depths), ("heads", &self.heads)] {
            if list.len() != self.widths.len() {
                return Err(Error::argument(OP, arg, format!("one for each of {} stages", self.widths.len()), list.len()));
            }
        }
        if !(self.mlp_ratio > 0.0 && self.mlp_ratio.is_finite()) {
            return Err(Error::argument(OP, "mlp_ratio", "positive and finite", self.mlp_ratio));
        }
        Ok(())
    }
}
