use burn::{
    nn::{Initializer, LinearConfig},
    tensor::Device,
};
use regard::{Error, Result, halo_attention::HaloAttentionConfig};
use serde::{Deserialize, Serialize};

use super::{
    block::{Bottleneck, BottleneckConfig},
    gate::GateKind,
    model::HaloNet,
};
use crate::vision::{Activation, ConvNormConfig, drop_rates};

pub(super) const OP: &str = "halonet";

/// What mixes the tokens of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HaloMixer {
    /// Halo attention.
    Attention,
    /// A convolution of 3 × 3 tokens.
    Conv,
}

/// A stage of a [`HaloNet`]: blocks of one width.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HaloStageConfig {
    /// Width of the blocks' outputs.
    pub width: usize,
    /// Width inside of a block, of what its mixer reads.
    pub inner: usize,
    /// Width of the values of attention, of all heads; `None` = `inner`.
    #[serde(default)]
    pub values: Option<usize>,
    /// Numbers of a query and of a key, per head; `None` = `inner` by the number of heads.
    #[serde(default)]
    pub key: Option<usize>,
    /// 1, or 2 for a first block that halves the sides of the map.
    #[serde(default = "two")]
    pub stride: usize,
    /// The mixers of the blocks.
    pub blocks: Vec<HaloMixer>,
    /// Groups of the channels of the mixers that are convolutions.
    #[serde(default = "one")]
    pub groups: usize,
    /// The mixers that are attention. Their `stride` is 1 here: the stage says which block has one.
    pub attention: HaloAttentionConfig,
}

fn one() -> usize {
    1
}

fn two() -> usize {
    2
}

impl HaloStageConfig {
    /// `depth` blocks of attention with values as wide as the queries and blocks of 8 × 8 tokens with a halo of 3; a stride of 2.
    pub fn new(width: usize, inner: usize, depth: usize, heads: usize) -> Self {
        Self {
            width,
            inner,
            values: None,
            key: None,
            stride: two(),
            blocks: vec![HaloMixer::Attention; depth],
            groups: one(),
            attention: HaloAttentionConfig::new(heads),
        }
    }
}

/// Configuration of a [`HaloNet`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HaloNetConfig {
    /// Channels of an image.
    #[serde(default = "three")]
    pub channels: usize,
    /// Widths of the stem's convolutions, the first of which has a stride of 2; without pooling so has the last of several.
    pub stem: Vec<usize>,
    /// Rows and columns of their filters, odd.
    #[serde(default = "seven")]
    pub stem_kernel: usize,
    /// Whether a maximum over 3 × 3 tokens halves the sides of the map behind them.
    #[serde(default = "yes")]
    pub stem_pool: bool,
    /// The stages.
    pub stages: Vec<HaloStageConfig>,
    /// Width of a last convolution of single tokens before the head; 0 = there is none.
    #[serde(default)]
    pub features: usize,
    /// Number of classes. A file may leave it out: training takes it from the images.
    #[serde(default)]
    pub classes: usize,
    /// What stands behind the norms.
    #[serde(default)]
    pub activation: Activation,
    /// What weighs the channels behind convolutions of the blocks.
    #[serde(default)]
    pub gate: GateKind,
    /// Whether maps must be multiples of the blocks of attention, as the networks with public weights demand; else they are filled up with tokens
    /// that nobody sees.
    #[serde(default)]
    pub strict: bool,
    /// The probability with which training leaves out the branch of the last block; it rises linearly to that.
    #[serde(default)]
    pub drop_path: f64,
    /// ε of the batch norms.
    #[serde(default = "epsilon")]
    pub norm_epsilon: f64,
    /// Whether γ of the last norm of each block starts from 0, so that a new network hands maps on as they are.
    #[serde(default = "yes")]
    pub zero_init_residual: bool,
}

fn three() -> usize {
    3
}

fn seven() -> usize {
    7
}

fn yes() -> bool {
    true
}

fn epsilon() -> f64 {
    1e-5
}

impl HaloNetConfig {
    /// A stem of one convolution of 7 × 7 pixels and a maximum, these stages, no further convolution, ReLU.
    pub fn new(stem: usize, stages: Vec<HaloStageConfig>, classes: usize) -> Self {
        Self {
            channels: three(),
            stem: vec![stem],
            stem_kernel: seven(),
            stem_pool: true,
            stages,
            features: 0,
            classes,
            activation: Activation::Relu,
            gate: GateKind::None,
            strict: false,
            drop_path: 0.0,
            norm_epsilon: epsilon(),
            zero_init_residual: true,
        }
    }

    /// The network; its weights are drawn when they are first used.
    ///
    /// # Errors
    /// If a size is 0, there is no stage, a stride is neither 1 nor 2, the heads do not divide a width, or a layer's own configuration is
    /// invalid.
    pub fn init(&self, device: &Device) -> Result<HaloNet> {
        let sizes = [("channels", self.channels), ("stem", self.stem.len()), ("stages", self.stages.len()), ("classes", self.classes)];
        for (arg, size) in sizes {
            if size == 0 {
                return Err(Error::argument(OP, arg, "at least 1", size));
            }
        }
        let mut rates = drop_rates(OP, self.drop_path, self.stages.iter().map(|stage| stage.blocks.len()).sum())?.into_iter();
        let norm =
            |from, to, kernel, stride| ConvNormConfig { epsilon: self.norm_epsilon, ..ConvNormConfig::new(from, to, kernel, stride) };
        let mut width = self.channels;
        let mut stem = Vec::new();
        for (i, &to) in self.stem.iter().enumerate() {
            let stride = if i == 0 || !self.stem_pool && i + 1 == self.stem.len() { 2 } else { 1 };
            stem.push(norm(width, to, self.stem_kernel, stride).init(device)?);
            width = to;
        }
        let mut stages = Vec::new();
        for stage in &self.stages {
            stages.push(self.stage(stage, width, &mut rates, device)?);
            width = stage.width;
        }
        let final_conv = (self.features > 0).then(|| norm(width, self.features, 1, 1).init(device)).transpose()?;
        let width = if self.features > 0 { self.features } else { width };
        let head = LinearConfig::new(width, self.classes).with_initializer(Initializer::Normal { mean: 0.0, std: 0.01 }).init(device);
        Ok(HaloNet { stem, stages, final_conv, head, config: self.clone() })
    }

    fn stage(
        &self,
        stage: &HaloStageConfig,
        mut width: usize,
        rates: &mut impl Iterator<Item = f64>,
        device: &Device,
    ) -> Result<Vec<Bottleneck>> {
        if !(1..=2).contains(&stage.stride) {
            return Err(Error::argument(OP, "stride", "1 or 2", stage.stride));
        }
        if stage.attention.stride != 1 {
            return Err(Error::argument(OP, "attention.stride", "1: a stage has a stride of its own", stage.attention.stride));
        }
        if stage.attention.out_proj {
            return Err(Error::argument(OP, "attention.out_proj", "false: a block ends in a projection", "true"));
        }
        let mut blocks = Vec::new();
        for (i, (&mixer, drop_path)) in stage.blocks.iter().zip(rates).enumerate() {
            let stride = if i == 0 { stage.stride } else { 1 };
            let block = BottleneckConfig { network: self, stage, mixer, from: width, stride, drop_path };
            blocks.push(block.init(device)?);
            width = stage.width;
        }
        if blocks.is_empty() {
            return Err(Error::argument(OP, "blocks", "at least one in each stage", 0));
        }
        Ok(blocks)
    }
}
