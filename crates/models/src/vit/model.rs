use burn::{
    module::{Module, Param},
    nn::Linear,
    tensor::Tensor,
};
use regard::{
    Error, Result,
    bi_level_routing::FullAttention,
    blocks::{Norm, PatchMerge, VisionBlock, project},
};

use super::config::{OP, VitConfig};
use crate::vision::{linear_multiply_adds, to_map};

/// From patches to tokens.
#[derive(Module, Debug)]
pub struct PatchEmbedding {
    /// The convolution.
    pub proj: PatchMerge,
}

/// An image classifier of equal blocks: see the [module's page](super).
#[derive(Module, Debug)]
pub struct Vit {
    /// From images to tokens.
    pub patch_embed: PatchEmbedding,
    /// The token that becomes the answer. `[D]`
    pub cls_token: Param<Tensor<1>>,
    /// What is added to that token and to those of the patches. `[1 + tokens, D]`
    pub pos_embed: Param<Tensor<2>>,
    /// The blocks, over maps of a single row.
    pub blocks: Vec<VisionBlock<FullAttention>>,
    /// The norm behind them.
    pub norm: Norm,
    /// From the class token to the classes, unless there are none.
    pub head: Option<Linear>,
    #[module(skip)]
    pub(super) config: VitConfig,
}

impl Vit {
    /// Logits of the classes; without classes the normed class token.
    ///
    /// # Shapes
    /// - `images`: `[B, channels, image, image]`
    /// - output: `[B, classes]`
    ///
    /// # Errors
    /// If the images have another size.
    pub fn forward(&self, images: Tensor<4>) -> Result<Tensor<2>> {
        let x = self.tokens(images)?;
        let [b, _, _, d] = x.dims();
        let answer = self.norm.forward(x.narrow(2, 0, 1)).reshape([b, d]);
        Ok(match &self.head {
            Some(head) => project(head, answer),
            None => answer,
        })
    }

    /// The map of the normed tokens of the patches, for heads of dense tasks.
    ///
    /// # Shapes
    /// - `images`: `[B, channels, image, image]`; output, one: `[B, image/patch, image/patch, D]`
    ///
    /// # Errors
    /// As [`forward`](Self::forward).
    pub fn features(&self, images: Tensor<4>) -> Result<Vec<Tensor<4>>> {
        let x = self.tokens(images)?;
        let ([b, _, tokens, d], side) = (x.dims(), self.config.image / self.config.patch);
        Ok(vec![self.norm.forward(x.narrow(2, 1, tokens - 1)).reshape([b, side, side, d])])
    }

    /// The class token and those of the patches behind all blocks. `[B, 1, 1 + tokens, D]`
    fn tokens(&self, images: Tensor<4>) -> Result<Tensor<4>> {
        let (VitConfig { channels, image, .. }, dims) = (&self.config, images.dims());
        if dims[1..] != [*channels, *image, *image] {
            return Err(Error::argument(OP, "images", format!("of shape [B, {channels}, {image}, {image}]"), format!("{dims:?}")));
        }
        let [tokens, d] = self.pos_embed.dims();
        if dims[0] == 0 {
            return Ok(Tensor::zeros([0, 1, tokens, d], &images.device()));
        }
        let x = self.patch_embed.proj.forward(to_map(images));
        let [b, y, columns, _] = x.dims();
        let class = self.cls_token.val().reshape([1, 1, 1, d]).expand([b, 1, 1, d]);
        let x = Tensor::cat(vec![class, x.reshape([b, 1, y * columns, d])], 2) + self.pos_embed.val().unsqueeze();
        Ok(self.blocks.iter().fold(x, |x, block| block.forward(x)))
    }

    /// Multiply-adds of a forward pass for one image: embedding, projections and attention, without norms, biases and activations.
    pub fn multiply_adds(&self) -> f64 {
        let [tokens, _] = self.pos_embed.lazy_shape().dims::<2>();
        let patches = (self.patch_embed.proj.weight.lazy_shape().num_elements() * (tokens - 1)) as f64;
        let blocks: f64 = self.blocks.iter().map(|block| block.flops([1, tokens]) / 2.0).sum();
        patches + blocks + self.head.as_ref().map_or(0.0, |head| linear_multiply_adds(head, 1))
    }
}
