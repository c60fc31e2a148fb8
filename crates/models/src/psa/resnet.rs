use burn::{
    module::Module,
    tensor::{Device, Tensor, activation},
};
use regard::{Error, Result, polarized_attention::PolarizedAttentionConfig};
use serde::{Deserialize, Serialize};

use super::residual::{ResidualBlock, ResidualConfig, ResidualKind, through};
use crate::vision::{ConvNorm, ConvNormConfig, check_images, max_pool, to_map};

const OP: &str = "resnet";

/// Configuration of a [`ResNet`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ResNetConfig {
    /// Number of layers: 18, 34, 50, 101 or 152.
    pub layers: usize,
    /// Width of the first stage; the others have twice that of the one before.
    #[serde(default = "sixty_four")]
    pub width: usize,
    /// The attention of all blocks, if they have one.
    #[serde(default)]
    pub psa: Option<PolarizedAttentionConfig>,
}

fn sixty_four() -> usize {
    64
}

impl ResNetConfig {
    /// Of so many layers, of the usual width, without attention.
    pub fn new(layers: usize) -> Self {
        Self { layers, width: sixty_four(), psa: None }
    }

    /// The trunk; its weights are drawn when they are first used.
    ///
    /// # Errors
    /// If there is no network of so many layers, or the attention does not fit a width.
    pub fn init(&self, device: &Device) -> Result<ResNet> {
        let (kind, depths) = match self.layers {
            18 => (ResidualKind::Basic, [2, 2, 2, 2]),
            34 => (ResidualKind::Basic, [3, 4, 6, 3]),
            50 => (ResidualKind::Bottleneck, [3, 4, 6, 3]),
            101 => (ResidualKind::Bottleneck, [3, 4, 23, 3]),
            152 => (ResidualKind::Bottleneck, [3, 8, 36, 3]),
            other => return Err(Error::argument(OP, "layers", "18, 34, 50, 101 or 152", other)),
        };
        if self.width == 0 {
            return Err(Error::argument(OP, "width", "at least 1", self.width));
        }
        let config = ResidualConfig { kind, epsilon: 1e-5, psa: self.psa };
        let mut layers = Vec::new();
        let (mut from, mut inner) = (self.width, self.width);
        for (stage, depth) in depths.into_iter().enumerate() {
            layers.push(config.stage(from, inner, if stage == 0 { 1 } else { 2 }, depth, device)?);
            from = inner * kind.expansion();
            inner *= 2;
        }
        Ok(ResNet { stem: ConvNormConfig::new(3, self.width, 7, 2).init(device)?, layers })
    }

    /// The widths of the maps that the stages end with.
    pub fn widths(&self) -> [usize; 4] {
        let kind = if self.layers < 50 { ResidualKind::Basic } else { ResidualKind::Bottleneck };
        [1, 2, 4, 8].map(|factor| self.width * kind.expansion() * factor)
    }
}

/// The trunk of a residual network: maps of a 4th, 8th, 16th and 32nd of the image's sides.
#[derive(Module, Debug)]
pub struct ResNet {
    /// The first convolution, of 7 × 7 pixels with a stride of 2; a maximum over 3 × 3 tokens follows.
    pub stem: ConvNorm,
    /// The blocks of each stage.
    pub layers: Vec<Vec<ResidualBlock>>,
}

impl ResNet {
    /// The map that each stage ends with.
    ///
    /// # Shapes
    /// - `images`: `[B, 3, Y, X]`; outputs: `[B, Y', X', width]`
    ///
    /// # Errors
    /// If the images have other channels or no pixels.
    pub fn features(&self, images: Tensor<4>) -> Result<Vec<Tensor<4>>> {
        check_images(OP, &images, 3)?;
        let mut x = max_pool(activation::relu(self.stem.forward(to_map(images))));
        let mut maps = Vec::with_capacity(self.layers.len());
        for blocks in &self.layers {
            x = through(blocks, x);
            maps.push(x.clone());
        }
        Ok(maps)
    }

    /// The sides of the maps that the stages end with.
    pub(super) fn maps(&self, image: [usize; 2]) -> Vec<[usize; 2]> {
        let halved = |map: &[usize; 2]| Some(map.map(|side| side.div_ceil(2)));
        std::iter::successors(Some(image), halved).skip(2).take(self.layers.len()).collect()
    }

    /// Multiply-adds of a forward pass for one image `[Y, X]`: convolutions and attention, without norms and activations.
    pub fn multiply_adds(&self, image: [usize; 2]) -> f64 {
        let maps = self.maps(image);
        let mut sum = self.stem.multiply_adds(image.map(|side| side.div_ceil(2)));
        for (stage, blocks) in self.layers.iter().enumerate() {
            for (i, block) in blocks.iter().enumerate() {
                let input = if i == 0 { maps[stage.saturating_sub(1)] } else { maps[stage] };
                sum += block.multiply_adds(input, maps[stage]);
            }
        }
        sum
    }
}
