use burn::{
    module::Module,
    nn::Linear,
    tensor::{Tensor, activation::relu, ops::PadMode, s},
};
use regard::{Result, blocks::project};

use super::config::{OP, ResNetConfig, ResNetStem};
use crate::vision::{ConvNorm, check_images, linear_multiply_adds, map_mean, max_pool, to_map};

/// `relu(shortcut(x) + norm(conv(… relu(norm(conv(x))))))`
#[derive(Module, Debug)]
pub struct ResNetBlock {
    /// The convolutions, each with its norm.
    pub convs: Vec<ConvNorm>,
    /// What makes the input fit the output, if that is learned.
    pub downsample: Option<ConvNorm>,
    pub(super) stride: usize,
}

impl ResNetBlock {
    /// Transforms maps.
    ///
    /// # Shapes
    /// - `x`: `[B, Y, X, D]`; output: `[B, ⌈Y/s⌉, ⌈X/s⌉, D']`
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let last = self.convs.len() - 1;
        let branch = self.convs.iter().enumerate().fold(x.clone(), |y, (i, conv)| {
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
    fn cost(&self, map: [usize; 2]) -> ([usize; 2], f64) {
        let smaller = map.map(|length| length.div_ceil(self.stride));
        let mut at = map;
        let mut sum = self.downsample.as_ref().map_or(0.0, |conv| conv.multiply_adds(smaller));
        for conv in &self.convs {
            if conv.conv.stride[0] == self.stride {
                at = at.map(|length| length.div_ceil(self.stride));
            }
            sum += conv.multiply_adds(at);
        }
        (smaller, sum)
    }
}

/// Every `stride`-th token, with zeros on both sides of its channels to make them `width`.
fn thinned(x: Tensor<4>, stride: usize, width: usize) -> Tensor<4> {
    let [.., d] = x.dims();
    let x = if stride == 1 { x } else { x.slice(s![.., ..;stride as isize, ..;stride as isize]) };
    let (before, more) = ((width - d) / 2, width - d);
    if more == 0 { x } else { x.pad([(0, 0), (0, 0), (0, 0), (before, more - before)], PadMode::Constant(0.0)) }
}

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

    /// Multiply-adds of a forward pass for one image `[Y, X]`: convolutions and classifier, without norms, biases and activations.
    pub fn multiply_adds(&self, image: [usize; 2]) -> f64 {
        let [down, _] = self.stem.conv.stride;
        let mut map = image.map(|length| length.div_ceil(down));
        let mut sum = self.stem.multiply_adds(map);
        if self.config.stem == ResNetStem::ImageNet {
            map = map.map(|length| length.div_ceil(2));
        }
        for block in self.stages.iter().flatten() {
            let cost;
            (map, cost) = block.cost(map);
            sum += cost;
        }
        sum + self.head.as_ref().map_or(0.0, |head| linear_multiply_adds(head, 1))
    }
}
