use burn::{module::Module, nn::Linear, tensor::Tensor};
use regard::{Error, Result, blocks::project};

use super::{
    block::Bottleneck,
    config::{HaloMixer, HaloNetConfig, OP},
};
use crate::vision::{ConvNorm, check_images, linear_multiply_adds, map_mean, max_pool, to_map};

/// An image classifier, or the trunk of a network for dense tasks: see the [module's page](super).
#[derive(Module, Debug)]
pub struct HaloNet {
    /// The first convolutions.
    pub stem: Vec<ConvNorm>,
    /// The blocks of each stage.
    pub stages: Vec<Vec<Bottleneck>>,
    /// The last convolution, if there is one.
    pub final_conv: Option<ConvNorm>,
    /// From the mean of all tokens to the classes.
    pub head: Linear,
    #[module(skip)]
    pub(super) config: HaloNetConfig,
}

impl HaloNet {
    /// Logits of the classes.
    ///
    /// # Shapes
    /// - `images`: `[B, channels, Y, X]` of any size
    /// - output: `[B, classes]`
    ///
    /// # Errors
    /// If the images have other channels or no pixels, a map of an odd side is to be averaged by twos, or blocks do not divide a map where
    /// they must.
    pub fn forward(&self, images: Tensor<4>) -> Result<Tensor<2>> {
        let mut last = None;
        self.each_stage(images, |map| last = Some(map))?;
        let map = last.ok_or_else(|| Error::argument(OP, "stages", "at least 1", 0))?;
        let map = match &self.final_conv {
            Some(conv) => self.config.activation.apply(conv.forward(map)),
            None => map,
        };
        Ok(project(&self.head, map_mean(map)))
    }

    /// The map that each stage ends with, for heads of dense tasks: with four stages of usual strides of a 4th, 8th, 16th and 32nd of the
    /// image's sides.
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

    fn each_stage(&self, images: Tensor<4>, mut stage_ends: impl FnMut(Tensor<4>)) -> Result<()> {
        check_images(OP, &images, self.config.channels)?;
        let [_, _, y, x] = images.dims();
        self.maps([y, x])?;
        let mut x = to_map(images);
        for conv in &self.stem {
            x = self.config.activation.apply(conv.forward(x));
        }
        if self.config.stem_pool {
            x = max_pool(x);
        }
        for stage in &self.stages {
            for block in stage {
                x = block.forward(x);
            }
            stage_ends(x.clone());
        }
        Ok(())
    }

    /// The sides of the map behind the stem and behind each stage for images of that size.
    fn maps(&self, image: [usize; 2]) -> Result<Vec<[usize; 2]>> {
        let halved = |map: [usize; 2]| map.map(|side| side.div_ceil(2));
        let mut map = self.stem_maps(image).pop().unwrap_or(image);
        if self.config.stem_pool {
            map = halved(map);
        }
        let mut maps = vec![map];
        let refused = |want: String, map: [usize; 2]| Err(Error::argument(OP, "images", want, format!("a map of {map:?}")));
        for stage in &self.config.stages {
            let block = stage.attention.block;
            for (i, mixer) in stage.blocks.iter().enumerate() {
                let stride = if i == 0 { stage.stride } else { 1 };
                if *mixer == HaloMixer::Attention {
                    if self.config.strict && map.iter().any(|side| !side.is_multiple_of(block)) {
                        return refused(format!("of a size whose maps are multiples of the blocks of {block}"), map);
                    }
                    let averaged = stride == 2 && (stage.attention.avg_down || !block.is_multiple_of(2));
                    // The shortcut would round up where the mean rounds down.
                    if averaged && map.iter().any(|side| !side.is_multiple_of(2)) {
                        return refused("of a size whose maps have even sides where they are averaged".into(), map);
                    }
                }
                if stride == 2 {
                    map = halved(map);
                }
            }
            maps.push(map);
        }
        Ok(maps)
    }

    /// The sides of the map behind each convolution of the stem.
    fn stem_maps(&self, image: [usize; 2]) -> Vec<[usize; 2]> {
        let step = |map: &mut [usize; 2], conv: &ConvNorm| {
            *map = [map[0].div_ceil(conv.conv.stride[0]), map[1].div_ceil(conv.conv.stride[1])];
            Some(*map)
        };
        self.stem.iter().scan(image, step).collect()
    }

    /// Multiply-adds of a forward pass for one image `[Y, X]`: convolutions, projections and attention, without norms and activations.
    ///
    /// # Errors
    /// As [`forward`](Self::forward).
    pub fn multiply_adds(&self, image: [usize; 2]) -> Result<f64> {
        let maps = self.maps(image)?;
        let mut sum: f64 = self.stem.iter().zip(self.stem_maps(image)).map(|(conv, map)| conv.multiply_adds(map)).sum();
        for (stage, sides) in self.stages.iter().zip(maps.windows(2)) {
            for (i, block) in stage.iter().enumerate() {
                sum += block.multiply_adds(sides[usize::from(i > 0)], sides[1]);
            }
        }
        let last = maps.last().copied().unwrap_or(image);
        Ok(sum + self.final_conv.as_ref().map_or(0.0, |conv| conv.multiply_adds(last)) + linear_multiply_adds(&self.head, 1))
    }
}
