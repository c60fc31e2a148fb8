use burn::{module::Module, nn::Linear, tensor::Tensor};
use regard::{
    ImageMixer, Result, SpatialMixer,
    blocks::{Conv, Norm, VisionBlock, pad_map, project},
};

use super::config::{DavitConfig, OP};
use crate::vision::{check_images, linear_multiply_adds, map_mean, to_map};

/// From images to tokens: overlapping patches of 7 × 7 pixels, and a norm.
#[derive(Module, Debug)]
pub struct DavitStem {
    /// The convolution.
    pub conv: Conv,
    /// The norm behind it.
    pub norm: Norm,
    pub(super) patch: usize,
}

/// From the map of a stage to one of half as many rows and columns, rounded up.
#[derive(Module, Debug)]
pub struct DavitDownsample {
    /// The norm before the convolution.
    pub norm: Norm,
    /// The convolution.
    pub conv: Conv,
}

/// The blocks of one width.
#[derive(Module, Debug)]
pub struct DavitStage {
    /// What makes the map of the stage before smaller; none in the first.
    pub downsample: Option<DavitDownsample>,
    /// The blocks that each dual block is made of.
    pub blocks: Vec<Vec<VisionBlock<ImageMixer>>>,
}

/// The classifier.
#[derive(Module, Debug)]
pub struct DavitHead {
    /// The norm of the mean of all tokens.
    pub norm: Norm,
    /// To the classes.
    pub fc: Linear,
}

/// An image classifier, or the trunk of a network for dense tasks: see the [module's page](super).
#[derive(Module, Debug)]
pub struct Davit {
    /// From images to tokens.
    pub stem: DavitStem,
    /// The stages.
    pub stages: Vec<DavitStage>,
    /// From the mean of all tokens to the classes, unless there are none.
    pub head: Option<DavitHead>,
    #[module(skip)]
    pub(super) config: DavitConfig,
}

impl Davit {
    /// Logits of the classes; without classes the mean of the tokens.
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
            Some(head) => project(&head.fc, head.norm.forward(mean)),
            None => mean,
        })
    }

    /// The map that each stage ends with, for heads of dense tasks: with four stages of a 4th, 8th, 16th and 32nd of the image's sides,
    /// rounded up.
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
        let x = pad_map(to_map(images), [self.stem.patch; 2]);
        let mut x = self.stem.norm.forward(self.stem.conv.forward(x));
        for stage in &self.stages {
            if let Some(DavitDownsample { norm, conv }) = &stage.downsample {
                x = conv.forward(pad_map(norm.forward(x), [2; 2]));
            }
            x = stage.blocks.iter().flatten().fold(x, |x, block| block.forward(x));
            stage_ends(x.clone());
        }
        Ok(x)
    }

    /// Multiply-adds of a forward pass for one image `[Y, X]`: convolutions, projections and attention, without norms, biases and
    /// activations.
    ///
    /// # Errors
    /// If a block refuses a map.
    pub fn multiply_adds(&self, image: [usize; 2]) -> Result<f64> {
        let padded = image.map(|length| length.next_multiple_of(self.stem.patch));
        let (mut map, mut sum) = (self.stem.conv.output(padded), self.stem.conv.flops(padded));
        for stage in &self.stages {
            if let Some(DavitDownsample { conv, .. }) = &stage.downsample {
                let padded = map.map(|length| length.next_multiple_of(2));
                (map, sum) = (conv.output(padded), sum + conv.flops(padded));
            }
            for block in stage.blocks.iter().flatten() {
                block.mixer.check_map(map)?;
                sum += block.flops(map);
            }
        }
        Ok(sum / 2.0 + self.head.as_ref().map_or(0.0, |head| linear_multiply_adds(&head.fc, 1)))
    }
}
