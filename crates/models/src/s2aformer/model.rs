use burn::{
    module::{Module, Param},
    nn::{BatchNorm, Linear, conv::Conv2d},
    tensor::Tensor,
};
use regard::{
    Error, Result,
    blocks::{Norm, PatchMerge, batch_norm, gelu, project},
    strip_attention::HybridPerception,
};

use super::config::{OP, S2aFormerConfig};
use crate::vision::{check_images, conv_multiply_adds, convolve, folded, folded_filters, linear_multiply_adds, map_mean, to_map};

/// An image classifier, or the trunk of a network for dense tasks: see the [module's page](super).
#[derive(Module, Debug)]
pub struct S2aFormer {
    /// The first convolutions.
    pub stem: Vec<Conv2d>,
    /// The norms behind them; none if they were [made part](Self::fuse) of the convolutions.
    pub stem_bn: Vec<BatchNorm>,
    /// What makes the map of each stage of the one before, of half of its sides.
    pub embed: Vec<PatchMerge>,
    /// The norms behind it.
    pub embed_norm: Vec<Norm>,
    /// The blocks of each stage.
    pub stages: Vec<Vec<HybridPerception>>,
    /// The norm before the head.
    pub norm: Norm,
    /// From the mean of all tokens to the width of the head.
    pub pre_head: Linear,
    /// From there to the classes.
    pub head: Linear,
    #[module(skip)]
    pub(super) config: S2aFormerConfig,
}

impl S2aFormer {
    /// Logits of the classes.
    ///
    /// # Shapes
    /// - `images`: `[B, channels, Y, X]` of any size
    /// - output: `[B, classes]`
    ///
    /// # Errors
    /// If the images have other channels or no pixels, or a norm in training is left with one token of one image.
    pub fn forward(&self, images: Tensor<4>) -> Result<Tensor<2>> {
        let mut last = None;
        self.each_stage(images, |map| last = Some(map))?;
        let map = last.ok_or_else(|| Error::argument(OP, "widths", "at least 1", 0))?;
        let mean = map_mean(self.norm.forward(map));
        Ok(project(&self.head, gelu(project(&self.pre_head, mean))))
    }

    /// The map that each stage ends with, for heads of dense tasks: of a 4th, 8th, 16th and 32nd of the image's sides.
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
        self.check_statistics(&images)?;
        let mut x = to_map(images);
        for (i, conv) in self.stem.iter().enumerate() {
            x = convolve(conv, x);
            if let Some(norm) = self.stem_bn.get(i) {
                x = batch_norm(norm, x);
            }
            x = gelu(x);
        }
        for ((embed, norm), blocks) in self.embed.iter().zip(&self.embed_norm).zip(&self.stages) {
            x = norm.forward(embed.forward(x));
            for block in blocks {
                x = block.forward(x);
            }
            stage_ends(x.clone());
        }
        Ok(())
    }

    /// In training a norm needs more than one token: one has no variance.
    fn check_statistics(&self, images: &Tensor<4>) -> Result<()> {
        let [b, _, y, x] = images.dims();
        if !images.device().is_autodiff() || b == 0 {
            return Ok(());
        }
        let maps = self.maps([y, x]);
        for ((map, blocks), reduction) in maps.iter().skip(self.stem.len()).zip(&self.stages).zip(&self.config.reductions) {
            let trains = |norm: &BatchNorm| norm.training.is_enabled();
            let tokens = b * map.map(|side| side.div_ceil(*reduction)).iter().product::<usize>();
            let reduced = |block: &HybridPerception| block.ssa.reduce_norm.as_ref().is_some_and(trains) && tokens == 1;
            let whole = |block: &HybridPerception| trains(&block.lim.bn) && b * map.iter().product::<usize>() == 1;
            if blocks.iter().any(|block| reduced(block) || whole(block)) {
                let want = "large or many enough for batch norms in training to see more than one token";
                return Err(Error::argument(OP, "images", want, format!("{:?}", images.dims())));
            }
        }
        Ok(())
    }

    /// The sides of the map behind each convolution of the stem and in each stage.
    fn maps(&self, image: [usize; 2]) -> Vec<[usize; 2]> {
        let strides = self.config.stem_strides.iter().copied().chain(self.config.widths.iter().map(|_| 2));
        let step = |map: &mut [usize; 2], stride: usize| {
            *map = map.map(|side| side.div_ceil(stride));
            Some(*map)
        };
        strides.scan(image, step).collect()
    }

    /// Multiply-adds of a forward pass for one image `[Y, X]`: convolutions, projections and attention, without norms and activations.
    pub fn multiply_adds(&self, image: [usize; 2]) -> f64 {
        let maps = self.maps(image);
        let (of_stem, of_stages) = maps.split_at(self.stem.len());
        let mut sum: f64 = self.stem.iter().zip(of_stem).map(|(conv, map)| conv_multiply_adds(conv, *map)).sum();
        for ((embed, blocks), &map) in self.embed.iter().zip(&self.stages).zip(of_stages) {
            sum += (embed.weight.lazy_shape().num_elements() * map[0] * map[1]) as f64;
            sum += blocks.iter().map(|block| block.flops(map) / 2.0).sum::<f64>();
        }
        sum + linear_multiply_adds(&self.pre_head, 1) + linear_multiply_adds(&self.head, 1)
    }

    /// The network with the norms of the stem and of reduced maps made part of the convolutions before them: the same outputs to rounding,
    /// for a network that is trained no more.
    #[must_use]
    pub fn fuse(mut self) -> Self {
        let norms = std::mem::take(&mut self.stem_bn);
        if !norms.is_empty() {
            self.stem = self.stem.into_iter().zip(&norms).map(|(conv, norm)| folded(conv, norm)).collect();
        }
        for block in self.stages.iter_mut().flatten() {
            if let (Some(reduce), Some(norm)) = (&mut block.ssa.reduce, block.ssa.reduce_norm.take()) {
                let (weight, bias) = folded_filters(reduce.weight.val(), reduce.bias.as_ref().map(Param::val), &norm);
                reduce.weight = Param::from_tensor(weight);
                reduce.bias = Some(Param::from_tensor(bias));
            }
        }
        self
    }
}
