use burn::{module::Module, nn::Linear, tensor::Tensor};
use regard::{
    Result, SpatialMixer,
    blocks::{Norm, VisionBlock, project},
    neighborhood_attention::NeighborhoodAttention,
};

use super::{
    config::{NatConfig, OP},
    downsample::{NatDownsample, NatStem},
};
use crate::vision::{check_images, linear_multiply_adds, map_mean, to_map};

/// The blocks of one width.
#[derive(Module, Debug)]
pub struct NatLevel {
    /// The blocks.
    pub blocks: Vec<VisionBlock<NeighborhoodAttention>>,
    /// What makes the map smaller behind them; none in the last level.
    pub downsample: Option<NatDownsample>,
}

/// An image classifier, or the trunk of a network for dense tasks: see the [module's page](super).
#[derive(Module, Debug)]
pub struct Nat {
    /// From images to tokens.
    pub patch_embed: NatStem,
    /// The levels.
    pub levels: Vec<NatLevel>,
    /// The norm before the mean over all tokens.
    pub norm: Norm,
    /// From that mean to the classes, unless there are none.
    pub head: Option<Linear>,
    #[module(skip)]
    pub(super) config: NatConfig,
}

impl Nat {
    /// Logits of the classes; without classes the mean of the normed tokens.
    ///
    /// # Shapes
    /// - `images`: `[B, channels, Y, X]`
    /// - output: `[B, classes]`
    ///
    /// # Errors
    /// If the images have other channels or no pixels, or the map of a level is smaller than a neighbourhood.
    pub fn forward(&self, images: Tensor<4>) -> Result<Tensor<2>> {
        let mean = map_mean(self.norm.forward(self.each_level(images, |_| ())?));
        Ok(match &self.head {
            Some(head) => project(head, mean),
            None => mean,
        })
    }

    /// The map that each level ends with, for heads of dense tasks: with four levels of a 4th, 8th, 16th and 32nd of the image's sides,
    /// rounded up.
    ///
    /// # Shapes
    /// - `images`: `[B, channels, Y, X]`; outputs: `[B, Y', X', width]`
    ///
    /// # Errors
    /// As [`forward`](Self::forward).
    pub fn features(&self, images: Tensor<4>) -> Result<Vec<Tensor<4>>> {
        let mut maps = Vec::with_capacity(self.levels.len());
        self.each_level(images, |map| maps.push(map))?;
        Ok(maps)
    }

    /// The last map; the others on the way.
    fn each_level(&self, images: Tensor<4>, mut level_ends: impl FnMut(Tensor<4>)) -> Result<Tensor<4>> {
        check_images(OP, &images, self.config.channels)?;
        let [_, _, y, x] = images.dims();
        // Every level takes its map, or none is computed.
        self.multiply_adds([y, x])?;
        let mut x = self.patch_embed.forward(to_map(images));
        for level in &self.levels {
            x = level.blocks.iter().fold(x, |x, block| block.forward(x));
            level_ends(x.clone());
            if let Some(downsample) = &level.downsample {
                x = downsample.forward(x);
            }
        }
        Ok(x)
    }

    /// Multiply-adds of a forward pass for one image `[Y, X]`: convolutions, projections and attention, without norms, biases and
    /// activations.
    ///
    /// # Errors
    /// If the map of a level is smaller than a neighbourhood.
    pub fn multiply_adds(&self, image: [usize; 2]) -> Result<f64> {
        let (mut map, mut sum) = self.patch_embed.cost(image);
        for level in &self.levels {
            for block in &level.blocks {
                block.mixer.check_map(map)?;
                sum += block.flops(map);
            }
            if let Some(downsample) = &level.downsample {
                let cost;
                (map, cost) = downsample.cost(map);
                sum += cost;
            }
        }
        Ok(sum / 2.0 + self.head.as_ref().map_or(0.0, |head| linear_multiply_adds(head, 1)))
    }
}
