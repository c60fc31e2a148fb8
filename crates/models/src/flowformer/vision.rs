use burn::{
    module::{Initializer, Module, Param},
    nn::{
        Linear, LinearConfig,
        conv::{Conv2d, Conv2dConfig},
    },
    tensor::{Device, Tensor},
};
use regard::{
    Error, LayerPlace, Result,
    blocks::{Mlp, MlpConfig, MlpKind, Norm, NormKind},
    flow_attention::{FlowAttentionConfig, FusedFlowAttention},
    softmax_attention::{SoftmaxAttention, SoftmaxAttentionConfig},
};
use serde::{Deserialize, Serialize};

const OP: &str = "flowformer_vision";

/// Configuration of [`FlowformerVision`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FlowformerVisionConfig {
    /// Height and width of an image, a multiple of `patch` times 2 to the number of stages less one. A file may leave it out: training takes
    /// it from the images.
    #[serde(default)]
    pub image: usize,
    /// Channels of an image.
    #[serde(default = "three")]
    pub channels: usize,
    /// Height and width of a patch.
    #[serde(default = "four")]
    pub patch: usize,
    /// Width of each stage.
    pub widths: Vec<usize>,
    /// Number of blocks of each stage.
    pub depths: Vec<usize>,
    /// The token mixer of all blocks.
    pub attention: FlowAttentionConfig,
    /// Softmax attention of as many heads in the place of Flow attention: the paper's comparison.
    #[serde(default)]
    pub full_attention: bool,
    /// Inner width of the channel mixers as a multiple of the stage's.
    #[serde(default = "four")]
    pub mlp_ratio: usize,
    /// Number of classes. A file may leave it out: training takes it from the images.
    #[serde(default)]
    pub classes: usize,
    /// ε of the norms.
    #[serde(default = "epsilon")]
    pub norm_epsilon: f64,
    /// Initial value of the factors on the channel mixers' outputs.
    #[serde(default = "layer_scale")]
    pub layer_scale: f64,
}

fn three() -> usize {
    3
}

fn four() -> usize {
    4
}

fn epsilon() -> f64 {
    1e-6
}

fn layer_scale() -> f64 {
    1e-5
}

impl FlowformerVisionConfig {
    /// Four stages of these widths and depths with the published choices otherwise.
    pub fn new(image: usize, widths: [usize; 4], depths: [usize; 4], heads: usize, classes: usize) -> Self {
        Self {
            image,
            channels: three(),
            patch: four(),
            widths: widths.to_vec(),
            depths: depths.to_vec(),
            attention: FlowAttentionConfig::vision(heads),
            full_attention: false,
            mlp_ratio: four(),
            classes,
            norm_epsilon: epsilon(),
            layer_scale: layer_scale(),
        }
    }

    /// The network of the ImageNet experiment.
    pub fn imagenet() -> Self {
        Self::new(224, [96, 192, 384, 768], [3, 3, 10, 3], 12, 1000)
    }

    /// The network with Burn's initial values, position vectors drawn from N(0, 0.02).
    ///
    /// # Errors
    /// If a size is 0, widths and depths differ in number, the stages do not divide the image into whole patches, or the heads do not divide
    /// a width.
    pub fn init(&self, device: &Device) -> Result<FlowformerVision> {
        let sizes = [("image", self.image), ("channels", self.channels), ("patch", self.patch), ("classes", self.classes)];
        for (arg, size) in sizes.into_iter().chain([("widths", self.widths.len())]) {
            if size == 0 {
                return Err(Error::argument(OP, arg, "at least 1", size));
            }
        }
        if self.widths.len() != self.depths.len() {
            return Err(Error::argument(OP, "depths", format!("one for each of {} stages", self.widths.len()), self.depths.len()));
        }
        let step = u32::try_from(self.widths.len() - 1).ok().and_then(|n| 2_usize.checked_pow(n)).and_then(|n| n.checked_mul(self.patch));
        let step = step.ok_or_else(|| Error::argument(OP, "widths", "few enough to halve an image", self.widths.len()))?;
        if !self.image.is_multiple_of(step) {
            return Err(Error::argument(OP, "image", format!("a multiple of {step} for {} stages", self.widths.len()), self.image));
        }
        let tokens = (self.image / self.patch).pow(2);
        let mut from = self.channels;
        let (mut patch_embed, mut blocks) = (Vec::new(), Vec::new());
        for (stage, (&width, &depth)) in self.widths.iter().zip(&self.depths).enumerate() {
            let size = if stage == 0 { self.patch } else { 2 };
            blocks.push((0..depth).map(|_| self.block(width, device)).collect::<Result<Vec<_>>>()?);
            patch_embed.push(PatchEmbedding { proj: Conv2dConfig::new([from, width], [size; 2]).with_stride([size; 2]).init(device) });
            from = width;
        }
        Ok(FlowformerVision {
            pos_embed: Initializer::Normal { mean: 0.0, std: 0.02 }.init([tokens, self.widths[0]], device),
            patch_embed,
            blocks,
            norm: NormKind::Layer.init(from, self.norm_epsilon, device),
            head: LinearConfig::new(from, self.classes).init(device),
        })
    }

    fn block(&self, width: usize, device: &Device) -> Result<VisionBlock> {
        let mlp = MlpConfig { kind: MlpKind::Gelu, d_model: width, d_ff: self.mlp_ratio * width, bias: true };
        let norm = || NormKind::Layer.init(width, self.norm_epsilon, device);
        Ok(VisionBlock {
            norm1: norm(),
            attn: if self.full_attention {
                let FlowAttentionConfig { heads, bias, .. } = self.attention;
                let softmax = SoftmaxAttentionConfig { rotary_base: None, bias, ..SoftmaxAttentionConfig::new(heads) };
                VisionAttention::Softmax(softmax.init(width, LayerPlace::ONLY, device)?)
            } else {
                VisionAttention::Flow(self.attention.init_fused(width, device)?)
            },
            norm2: norm(),
            mlp: mlp.init(device)?,
            gamma: Initializer::Constant { value: self.layer_scale }.init([width], device),
        })
    }
}

/// A convolution whose steps are as wide as its window.
#[derive(Module, Debug)]
pub struct PatchEmbedding {
    /// The convolution.
    pub proj: Conv2d,
}

/// The token mixer of a block.
#[derive(Module, Debug)]
#[allow(clippy::large_enum_variant, reason = "one per block, next to its weights")]
pub enum VisionAttention {
    /// Flow attention.
    Flow(FusedFlowAttention),
    /// Softmax attention.
    Softmax(SoftmaxAttention),
}

/// `x ← x + Flow(LN(x))`, then `x ← x + γ ⊙ Mlp(LN(x))`.
#[derive(Module, Debug)]
pub struct VisionBlock {
    /// Norm before the token mixer.
    pub norm1: Norm,
    /// Token mixer.
    pub attn: VisionAttention,
    /// Norm before the channel mixer.
    pub norm2: Norm,
    /// Channel mixer.
    pub mlp: Mlp,
    /// γ
    pub gamma: Param<Tensor<1>>,
}

impl VisionBlock {
    /// `x`: `[B, T, D]`; output: the same
    fn forward(&self, x: Tensor<3>) -> Result<Tensor<3>> {
        let normed = self.norm1.forward(x.clone());
        let x = x + match &self.attn {
            VisionAttention::Flow(layer) => layer.forward(normed)?,
            VisionAttention::Softmax(layer) => layer.attend(normed, None)?,
        };
        Ok(x.clone() + self.mlp.forward(self.norm2.forward(x)) * self.gamma.val().unsqueeze())
    }
}

/// An image classifier in stages of fewer and wider tokens: see the [module's page](super).
#[derive(Module, Debug)]
pub struct FlowformerVision {
    /// Position vectors of the first stage. `[tokens, D]`
    pub pos_embed: Param<Tensor<2>>,
    /// What makes the tokens of each stage of those before.
    pub patch_embed: Vec<PatchEmbedding>,
    /// The blocks of each stage.
    pub blocks: Vec<Vec<VisionBlock>>,
    /// Norm before the head.
    pub norm: Norm,
    /// From the mean of all tokens to the classes.
    pub head: Linear,
}

impl FlowformerVision {
    /// Logits of the classes.
    ///
    /// # Shapes
    /// - `images`: `[B, channels, image, image]`
    /// - output: `[B, classes]`
    ///
    /// # Errors
    /// If the images have another size.
    pub fn forward(&self, images: Tensor<4>) -> Result<Tensor<2>> {
        let [b, channels, height, width] = images.dims();
        let [_, expected, patch, _] = self.patch_embed[0].proj.weight.lazy_shape().dims();
        let [tokens, _] = self.pos_embed.lazy_shape().dims();
        let side = tokens.isqrt() * patch;
        if [channels, height, width] != [expected, side, side] {
            let want = format!("of shape [B, {expected}, {side}, {side}]");
            return Err(Error::argument(OP, "images", want, format!("{:?}", [b, channels, height, width])));
        }
        let mut grid = images;
        for (stage, (embed, blocks)) in self.patch_embed.iter().zip(&self.blocks).enumerate() {
            grid = embed.proj.forward(grid);
            let [_, d, y, x] = grid.dims();
            let mut tokens = grid.reshape([b, d, y * x]).swap_dims(1, 2);
            if stage == 0 {
                tokens = tokens + self.pos_embed.val().unsqueeze();
            }
            for block in blocks {
                tokens = block.forward(tokens)?;
            }
            grid = tokens.swap_dims(1, 2).reshape([b, d, y, x]);
        }
        let [_, d, y, x] = grid.dims();
        let tokens = self.norm.forward(grid.reshape([b, d, y * x]).swap_dims(1, 2));
        Ok(self.head.forward(tokens.mean_dim(1).squeeze_dim::<2>(1)))
    }
}
