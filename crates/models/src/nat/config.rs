use burn::{nn::LinearConfig, tensor::Device};
use regard::{
    Error, Result,
    blocks::{NormKind, VisionBlock, VisionBlockConfig},
    neighborhood_attention::{NeighborhoodAttention, NeighborhoodAttentionConfig},
};
use serde::{Deserialize, Serialize};

use super::{
    downsample::{NatDownsample, NatStem},
    model::{Nat, NatLevel},
};
use crate::{decoder::initialise, vision::drop_rates};

pub(super) const OP: &str = "nat";

/// How images become tokens, and the tokens of a level those of the next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NatLayout {
    /// By convolutions that overlap: NAT and DiNAT.
    #[default]
    Overlapping,
    /// By patches of so many pixels, and then of 2 × 2 tokens, side by side: DiNAT_s, and the isotropic networks of a single level.
    Patches(usize),
}

/// Configuration of a [`Nat`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NatConfig {
    /// Channels of an image.
    #[serde(default = "three")]
    pub channels: usize,
    /// How images become tokens.
    #[serde(default)]
    pub layout: NatLayout,
    /// Width of the first level; each further one is twice as wide.
    pub d_model: usize,
    /// Number of blocks of each level.
    pub depths: Vec<usize>,
    /// Number of heads of each level.
    pub heads: Vec<usize>,
    /// Rows and columns of a neighbourhood.
    #[serde(default = "seven")]
    pub window: usize,
    /// Distance of neighbours, of every block of every level; empty = 1 everywhere, as in NAT.
    #[serde(default)]
    pub dilations: Vec<Vec<usize>>,
    /// Inner width of the channel mixers as a multiple of the level's.
    #[serde(default = "four")]
    pub mlp_ratio: f64,
    /// Whether queries, keys and values have biases.
    #[serde(default = "yes")]
    pub qkv_bias: bool,
    /// Whether scores have a learned bias by relative position.
    #[serde(default = "yes")]
    pub relative_bias: bool,
    /// Initial value of the factors γ on the outputs of both mixers; `None` = there are none.
    #[serde(default)]
    pub layer_scale: Option<f64>,
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

fn seven() -> usize {
    7
}

fn four() -> f64 {
    4.0
}

fn yes() -> bool {
    true
}

fn epsilon() -> f64 {
    1e-5
}

impl NatConfig {
    /// Levels of these depths and heads, the first of width `d_model`, with the published choices otherwise.
    pub fn new(d_model: usize, depths: impl Into<Vec<usize>>, heads: impl Into<Vec<usize>>, classes: usize) -> Self {
        Self {
            channels: three(),
            layout: NatLayout::default(),
            d_model,
            depths: depths.into(),
            heads: heads.into(),
            window: seven(),
            dilations: Vec::new(),
            mlp_ratio: four(),
            qkv_bias: yes(),
            relative_bias: yes(),
            layer_scale: None,
            norm_epsilon: epsilon(),
            drop_path: 0.0,
            classes,
        }
    }

    /// The network with the authors' initial values: linear layers and biases by position from N(0, 0.02), biases 0, convolutions as
    /// PyTorch draws them.
    ///
    /// # Errors
    /// If a size is 0, the lists are not of one length, the heads do not divide a width, or a rate is not in [0, 1).
    pub fn init(&self, device: &Device) -> Result<Nat> {
        Ok(initialise(self.skeleton(device)?, 0.02, 0.02))
    }

    /// The network without memory for its weights: for their number, and to be filled from a checkpoint.
    ///
    /// # Errors
    /// As [`init`](Self::init).
    pub fn skeleton(&self, device: &Device) -> Result<Nat> {
        self.check()?;
        let count = self.depths.len();
        let mut rates = drop_rates(OP, self.drop_path, self.depths.iter().sum())?.into_iter();
        let (mut width, mut levels) = (self.d_model, Vec::with_capacity(count));
        for level in 0..count {
            let blocks = (0..self.depths[level]).map(|i| self.block(level, i, width, rates.next().unwrap_or_default(), device));
            let blocks = blocks.collect::<Result<Vec<_>>>()?;
            let last = level + 1 == count;
            let downsample = (!last).then(|| NatDownsample::new(self.layout, width, self.norm_epsilon, device)).transpose()?;
            levels.push(NatLevel { blocks, downsample });
            if !last {
                width = width.checked_mul(2).ok_or_else(|| Error::argument(OP, "depths", "of fewer levels", count))?;
            }
        }
        Ok(Nat {
            patch_embed: NatStem::new(self.layout, [self.channels, self.d_model], self.norm_epsilon, device)?,
            levels,
            norm: NormKind::Layer.init(width, self.norm_epsilon, device),
            head: (self.classes > 0).then(|| LinearConfig::new(width, self.classes).init(device)),
            config: self.clone(),
        })
    }

    fn block(&self, level: usize, index: usize, width: usize, rate: f64, device: &Device) -> Result<VisionBlock<NeighborhoodAttention>> {
        let mixer = NeighborhoodAttentionConfig {
            window: self.window,
            dilation: self.dilations.get(level).map_or(1, |dilations| dilations[index]),
            relative_bias: self.relative_bias,
            qkv_bias: self.qkv_bias,
            ..NeighborhoodAttentionConfig::new(self.heads[level])
        };
        let block = VisionBlockConfig {
            d_ff: (self.mlp_ratio * width as f64) as usize,
            norm_epsilon: self.norm_epsilon,
            conv: None,
            channel_conv: None,
            layer_scale: self.layer_scale,
        };
        block.init(width, mixer.init(width, device)?, device)?.with_drop_path(rate)
    }

    fn check(&self) -> Result<()> {
        for (arg, size) in [("channels", self.channels), ("d_model", self.d_model), ("depths", self.depths.iter().sum())] {
            if size == 0 {
                return Err(Error::argument(OP, arg, "at least 1", size));
            }
        }
        if self.heads.len() != self.depths.len() {
            return Err(Error::argument(OP, "heads", format!("one for each of {} levels", self.depths.len()), self.heads.len()));
        }
        let given: Vec<usize> = self.dilations.iter().map(Vec::len).collect();
        if !given.is_empty() && given != self.depths {
            return Err(Error::argument(OP, "dilations", format!("one for each block of {:?}", self.depths), format!("{given:?}")));
        }
        if !(self.mlp_ratio > 0.0 && self.mlp_ratio.is_finite()) {
            return Err(Error::argument(OP, "mlp_ratio", "positive and finite", self.mlp_ratio));
        }
        Ok(())
    }
}
