use burn::{
    module::Module,
    tensor::{Device, Tensor, activation},
};
use regard::{Error, Result, polarized_attention::PolarizedAttentionConfig};
use serde::{Deserialize, Serialize};

use super::exchange::{ConvChain, HrModule, HrModuleConfig};
use crate::{
    resnet::{ResNetBlock, ResNetBlockConfig, ResNetBlockKind},
    vision::{ConvNorm, ConvNormConfig, Resize, check_images, to_map},
};

const OP: &str = "hrnet";

/// Modules of the stages of two, three and four branches, and blocks of each branch of a module.
const MODULES: [usize; 3] = [1, 4, 3];
const BLOCKS: usize = 4;

/// Configuration of an [`HrNet`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HrNetConfig {
    /// Width w of the branch of the largest map, 18, 32 or 48; the others have 2 w, 4 w and 8 w.
    pub width: usize,
    /// Whether the network ends with all four maps, or with the largest alone.
    #[serde(default)]
    pub all_maps: bool,
    /// How smaller maps are made larger.
    #[serde(default = "nearest")]
    pub resize: Resize,
    /// The attention of the blocks of stages 2 to 4, if they have one.
    #[serde(default)]
    pub psa: Option<PolarizedAttentionConfig>,
}

fn nearest() -> Resize {
    Resize::Nearest
}

impl HrNetConfig {
    /// The network of the keypoints, without attention.
    pub fn new(width: usize) -> Self {
        Self { width, all_maps: false, resize: nearest(), psa: None }
    }

    /// The trunk; its weights are drawn when they are first used.
    ///
    /// # Errors
    /// If the width is 0, or the attention does not fit a width.
    pub fn init(&self, device: &Device) -> Result<HrNet> {
        if self.width == 0 {
            return Err(Error::argument(OP, "width", "at least 1", self.width));
        }
        let norm = |from, to, kernel, stride| ConvNormConfig::new(from, to, kernel, stride).init(device);
        let bottlenecks = ResNetBlockConfig::new(ResNetBlockKind::Bottleneck);
        let widths = [1, 2, 4, 8].map(|factor| self.width * factor);
        let mut before = vec![256];
        let (mut transitions, mut stages) = (Vec::new(), Vec::new());
        for (stage, modules) in MODULES.into_iter().enumerate() {
            let now = &widths[..stage + 2];
            let last = *before.last().unwrap_or(&256);
            let mut transition = Vec::new();
            for (i, &width) in now.iter().enumerate() {
                transition.push(match before.get(i) {
                    Some(&same) if same == width => None,
                    Some(&other) => Some(ConvChain::One(norm(other, width, 3, 1)?)),
                    None => Some(ConvChain::Chain(vec![norm(last, width, 3, 2)?])),
                });
            }
            transitions.push(transition);
            let module = |i: usize| {
                let outputs = if self.all_maps || stage + 1 < MODULES.len() || i + 1 < modules { now.len() } else { 1 };
                HrModuleConfig { widths: now, outputs, blocks: BLOCKS, psa: self.psa, resize: self.resize }.init(device)
            };
            stages.push((0..modules).map(module).collect::<Result<Vec<_>>>()?);
            before = now.to_vec();
        }
        Ok(HrNet {
            stem: vec![norm(3, 64, 3, 2)?, norm(64, 64, 3, 2)?],
            layer1: bottlenecks.stage(64, 64, 1, BLOCKS, device)?,
            transitions,
            stages,
        })
    }

    /// The widths of the maps that it ends with.
    pub fn widths(&self) -> Vec<usize> {
        let branches = if self.all_maps { 4 } else { 1 };
        [1, 2, 4, 8].iter().take(branches).map(|factor| self.width * factor).collect()
    }
}

/// The trunk of a high-resolution network: branches of maps of a 4th to a 32nd of the image's sides, which exchange what they see.
#[derive(Module, Debug)]
pub struct HrNet {
    /// Two convolutions of 3 × 3 pixels with a stride of 2.
    pub stem: Vec<ConvNorm>,
    /// The first stage, of one branch.
    pub layer1: Vec<ResNetBlock>,
    /// What makes the branches of a stage of those before; none where a branch goes on.
    pub transitions: Vec<Vec<Option<ConvChain>>>,
    /// The stages of two, three and four branches.
    pub stages: Vec<Vec<HrModule>>,
}

impl HrNet {
    /// The maps that it ends with, the largest first.
    ///
    /// # Shapes
    /// - `images`: `[B, 3, Y, X]`; outputs: `[B, Y', X', width]`
    ///
    /// # Errors
    /// If the images have other channels or no pixels.
    pub fn features(&self, images: Tensor<4>) -> Result<Vec<Tensor<4>>> {
        check_images(OP, &images, 3)?;
        let mut x = to_map(images);
        for conv in &self.stem {
            x = activation::relu(conv.forward(x));
        }
        let mut maps = vec![self.layer1.iter().fold(x, |x, block| block.forward(x))];
        for (transition, modules) in self.transitions.iter().zip(&self.stages) {
            // A branch that there was not starts from the smallest map.
            let last = maps.len() - 1;
            let branch = |(i, chain): (usize, &Option<ConvChain>)| {
                let x = maps[i.min(last)].clone();
                chain.as_ref().map_or(x.clone(), |chain| chain.forward(x, true))
            };
            maps = transition.iter().enumerate().map(branch).collect();
            for module in modules {
                maps = module.forward(maps);
            }
        }
        Ok(maps)
    }

    /// The sides of the maps of all branches.
    pub(super) fn maps(image: [usize; 2]) -> Vec<[usize; 2]> {
        let halved = |map: &[usize; 2]| Some(map.map(|side| side.div_ceil(2)));
        std::iter::successors(Some(image), halved).skip(2).take(4).collect()
    }

    /// Multiply-adds of a forward pass for one image `[Y, X]`: convolutions and attention, without norms and activations.
    pub fn multiply_adds(&self, image: [usize; 2]) -> f64 {
        let maps = Self::maps(image);
        let half = image.map(|side| side.div_ceil(2));
        let stem: f64 = self.stem.iter().zip([half, maps[0]]).map(|(conv, map)| conv.multiply_adds(map)).sum();
        let first: f64 = self.layer1.iter().map(|block| block.cost(maps[0]).1).sum();
        let chains = self.transitions.iter().flat_map(|chains| chains.iter().enumerate());
        let transitions: f64 = chains.map(|(i, chain)| chain.as_ref().map_or(0.0, |chain| chain.multiply_adds(&maps[i..]))).sum();
        stem + first + transitions + self.stages.iter().flatten().map(|module| module.multiply_adds(&maps)).sum::<f64>()
    }
}
