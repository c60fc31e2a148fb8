use burn::{module::Module, nn::Linear, tensor::Tensor};
use regard::{
    Result,
    blocks::{project, relu},
};

use super::{
    block::ResNetBlock,
    config::{OP, ResNetConfig, ResNetStem},
};
use crate::vision::{ConvNorm, check_images, linear_multiply_adds, map_mean, max_pool, to_map};

/// An image classifier of convolutions, or the trunk of a network for dense tasks: see the [module's page](super).
#[derive(Module, Debug)]
pub struct ResNet {
    /// The first convolution.
    pub stem: ConvNorm,
    /// The blocks of each stage.
    pub stages: Vec<Vec<ResNetBlock>>,
    /// From the mean of all tokens to the classes, unless there are none.
    pub head: Option<Linear>,
    #[module(skip)]
    pub(super) config: ResNetConfig,
}

impl ResNet {
    /// Logits of the classes; without classes the mean of the tokens.
    ///
    /// On a device with automatic differentiation the norms use the statistics of the batch, unless
    /// [they are frozen](crate::vision::freeze_statistics).
    ///
    /// # Shapes
    /// - `images`: `[B, channels, Y, X]` of any size
    /// - output: `[B, classes]`
    ///
    /// # Errors
    /// If the images have other channels or no pixels.
    pub fn forward(&self, images: Tensor<4>) -> Result<Tensor<2>> {
        let mean = map_mean(self.each_stage(images, |_| ())?);
        Ok(match &self.head {
            Some(head) => project(head, mean),
            None => mean,
        })
    }

    /// The map that each stage ends with, for heads of dense tasks.
    ///
    /// # Shapes
    /// - `images`: `[B, channels, Y, X]`; outputs: `[B, Y', X', width]`
    ///
    /// # Errors
    /// As [`forward`](Self::forward).
    pub fn features(&self, images: Tensor<4>) -> Result<Vec<Tensor<4>>> {
        let mut maps = Vec::with_capacity(self.stages.len());
        self.each_stage(images, |map| maps.push(map))?;
        Ok(maps)
    }

    /// The last map; the others on the way.
    fn each_stage(&self, images: Tensor<4>, mut stage_ends: impl FnMut(Tensor<4>)) -> Result<Tensor<4>> {
        check_images(OP, &images, self.config.channels)?;
        let mut x = relu(self.stem.forward(to_map(images)));
        if self.config.stem == ResNetStem::ImageNet {
            x = max_pool(x);
        }
        for blocks in &self.stages {
            x = blocks.iter().fold(x, |x, block| block.forward(x));
            stage_ends(x.clone());
        }
        Ok(x)
    }

    /// Multiply-adds of a forward pass for one image `[Y, X]`: convolutions, attention and classifier, without norms, biases and activations.
    pub fn multiply_adds(&self, image: [usize; 2]) -> f64 {
        self.cost(image).0
    }

    /// The same, and the sides of the maps that the stages end with.
    pub(crate) fn cost(&self, image: [usize; 2]) -> (f64, Vec<[usize; 2]>) {
        let [down, _] = self.stem.conv.stride;
        let mut map = image.map(|length| length.div_ceil(down));
        let mut sum = self.stem.multiply_adds(map);
        if self.config.stem == ResNetStem::ImageNet {
            map = map.map(|length| length.div_ceil(2));
        }
        let mut maps = Vec::with_capacity(self.stages.len());
        for blocks in &self.stages {
            for block in blocks {
                let cost;
                (map, cost) = block.cost(map);
                sum += cost;
            }
            maps.push(map);
        }
        (sum + self.head.as_ref().map_or(0.0, |head| linear_multiply_adds(head, 1)), maps)
    }
}
