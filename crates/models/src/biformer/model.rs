use burn::{
    module::Module,
    nn::{BatchNorm, Linear},
    tensor::Tensor,
};
use regard::{
    Error, Result, SpatialMixer,
    bi_level_routing::{BiLevelRouting, FullAttention},
    blocks::{PatchMerge, VisionBlock, batch_norm, gelu, project},
};

use super::config::{BiFormerConfig, BiFormerLayout, OP};
use crate::vision::{ConvNorm, check_images, linear_multiply_adds, map_mean, to_map};

/// What makes a map smaller.
#[derive(Module, Debug)]
#[allow(clippy::large_enum_variant, reason = "one per stage, next to its weights")]
pub enum Downsample {
    /// Convolutions that halve the sides, a GELU between them.
    Convs(Vec<ConvNorm>),
    /// Patches.
    Patches(Patches),
}

/// Patches side by side that become one token each, and a batch norm.
#[derive(Module, Debug)]
pub struct Patches {
    /// The norm: of the tokens, or before what merges them.
    pub norm: BatchNorm,
    /// The filters.
    pub merge: PatchMerge,
    norm_first: bool,
}

impl Downsample {
    pub(super) fn patches(merge: PatchMerge, norm: BatchNorm) -> Self {
        Self::Patches(Patches { norm, merge, norm_first: false })
    }

    pub(super) fn merging(norm: BatchNorm, merge: PatchMerge) -> Self {
        Self::Patches(Patches { norm, merge, norm_first: true })
    }

    /// Makes maps smaller.
    ///
    /// # Shapes
    /// - `x`: `[B, Y, X, C]`; output: `[B, Y', X', C']`
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        match self {
            Self::Convs(convs) => {
                let mut x = x;
                for (i, conv) in convs.iter().enumerate() {
                    x = conv.forward(if i > 0 { gelu(x) } else { x });
                }
                x
            }
            Self::Patches(Patches { norm, merge, norm_first: true }) => merge.forward(batch_norm(norm, x)),
            Self::Patches(Patches { norm, merge, norm_first: false }) => batch_norm(norm, merge.forward(x)),
        }
    }

    /// The sides of the map that it makes, and multiply-adds for it.
    fn cost(&self, mut map: [usize; 2]) -> ([usize; 2], f64) {
        match self {
            Self::Convs(convs) => {
                let mut sum = 0.0;
                for conv in convs {
                    map = map.map(|side| side.div_ceil(2));
                    sum += conv.multiply_adds(map);
                }
                (map, sum)
            }
            Self::Patches(Patches { merge, .. }) => {
                let [_, _, _, side] = merge.weight.lazy_shape().dims::<4>();
                let map = map.map(|length| length.div_ceil(side));
                (map, (merge.weight.lazy_shape().num_elements() * map[0] * map[1]) as f64)
            }
        }
    }
}

/// The attention of a block.
#[derive(Module, Debug)]
#[allow(clippy::large_enum_variant, reason = "one per block, next to its weights")]
pub enum BiFormerAttention {
    /// Of each region to the regions that suit it best.
    Routed(BiLevelRouting),
    /// Of all tokens to all.
    Full(FullAttention),
}

impl SpatialMixer for BiFormerAttention {
    fn check_map(&self, map: [usize; 2]) -> Result<()> {
        match self {
            Self::Routed(layer) => layer.check_map(map),
            Self::Full(layer) => layer.check_map(map),
        }
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        match self {
            Self::Routed(layer) => layer.forward(x),
            Self::Full(layer) => layer.forward(x),
        }
    }

    fn flops(&self, map: [usize; 2]) -> f64 {
        match self {
            Self::Routed(layer) => layer.flops(map),
            Self::Full(layer) => layer.flops(map),
        }
    }
}

/// An image classifier, or the trunk of a network for dense tasks: see the [module's page](super).
#[derive(Module, Debug)]
pub struct BiFormer {
    /// What makes the map of each stage of the one before.
    pub downsample: Vec<Downsample>,
    /// The blocks of each stage.
    pub stages: Vec<Vec<VisionBlock<BiFormerAttention>>>,
    /// The norm before the head.
    pub norm: BatchNorm,
    /// From the mean of all tokens to the classes.
    pub head: Linear,
    #[module(skip)]
    pub(super) config: BiFormerConfig,
}

impl BiFormer {
    /// Logits of the classes.
    ///
    /// # Shapes
    /// - `images`: `[B, channels, Y, X]` of any size whose maps have no fewer rows and columns than regions, as padded
    /// - output: `[B, classes]`
    ///
    /// # Errors
    /// If the images have other channels or no pixels, or a layer refuses a map.
    pub fn forward(&self, images: Tensor<4>) -> Result<Tensor<2>> {
        let mut last = None;
        self.each_stage(images, |map| last = Some(map))?;
        let map = last.ok_or_else(|| Error::argument(OP, "widths", "at least 1", 0))?;
        Ok(project(&self.head, map_mean(batch_norm(&self.norm, map))))
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
        let [_, _, y, x] = images.dims();
        self.multiply_adds([y, x])?;
        let mut x = to_map(images);
        for (downsample, blocks) in self.downsample.iter().zip(&self.stages) {
            x = downsample.forward(x);
            for block in blocks {
                x = block.forward(x);
            }
            stage_ends(x.clone());
        }
        Ok(())
    }

    /// Multiply-adds of a forward pass for one image `[Y, X]`: convolutions, projections, routing and attention, without norms and
    /// activations.
    ///
    /// # Errors
    /// If a layer refuses a map.
    pub fn multiply_adds(&self, image: [usize; 2]) -> Result<f64> {
        let (mut map, mut sum) = (image, 0.0);
        for (downsample, blocks) in self.downsample.iter().zip(&self.stages) {
            let cost;
            (map, cost) = downsample.cost(map);
            sum += cost;
            for block in blocks {
                block.mixer.check_map(map)?;
                sum += block.flops(map) / 2.0;
            }
        }
        Ok(sum + linear_multiply_adds(&self.head, 1))
    }

    pub(super) fn layout(&self) -> BiFormerLayout {
        self.config.layout
    }
}
