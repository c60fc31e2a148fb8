use burn::{
    module::Module,
    tensor::{Device, Tensor, activation},
};
use regard::{Result, polarized_attention::PolarizedAttentionConfig};

use crate::{
    resnet::{ResNetBlock, ResNetBlockConfig, ResNetBlockKind},
    vision::{ConvNorm, ConvNormConfig, Resize},
};

/// A way from one branch to another.
#[derive(Module, Debug)]
#[allow(clippy::large_enum_variant, reason = "few, next to their weights")]
pub enum ConvChain {
    /// One convolution that keeps the sides.
    One(ConvNorm),
    /// Convolutions that halve the sides, rectifiers between them.
    Chain(Vec<ConvNorm>),
}

impl ConvChain {
    /// Transforms maps; a rectifier behind the last convolution is asked for.
    ///
    /// # Shapes
    /// - `x`: `[B, Y, X, D]`; output: `[B, Y', X', D']`
    pub fn forward(&self, x: Tensor<4>, rectified: bool) -> Tensor<4> {
        let y = match self {
            Self::One(conv) => conv.forward(x),
            Self::Chain(convs) => {
                let step = |x, (i, conv): (usize, &ConvNorm)| conv.forward(if i > 0 { activation::relu(x) } else { x });
                convs.iter().enumerate().fold(x, step)
            }
        };
        if rectified { activation::relu(y) } else { y }
    }

    /// Multiply-adds for one image, given the sides of the map that each convolution makes.
    pub(super) fn multiply_adds(&self, outputs: &[[usize; 2]]) -> f64 {
        let convs = match self {
            Self::One(conv) => std::slice::from_ref(conv),
            Self::Chain(convs) => convs,
        };
        convs.iter().zip(outputs).map(|(conv, map)| conv.multiply_adds(*map)).sum()
    }
}

/// What an [`HrModule`] is made of.
pub(super) struct HrModuleConfig<'a> {
    pub(super) widths: &'a [usize],
    pub(super) outputs: usize,
    pub(super) blocks: usize,
    pub(super) psa: Option<PolarizedAttentionConfig>,
    pub(super) resize: Resize,
}

impl HrModuleConfig<'_> {
    pub(super) fn init(&self, device: &Device) -> Result<HrModule> {
        let config = ResNetBlockConfig { psa: self.psa, ..ResNetBlockConfig::new(ResNetBlockKind::Basic) };
        let branches = self.widths.iter().map(|&width| config.stage(width, width, 1, self.blocks, device)).collect::<Result<_>>()?;
        let norm = |from, to, kernel, stride| ConvNormConfig::new(from, to, kernel, stride).init(device);
        let way = |from: usize, to: usize| -> Result<Option<ConvChain>> {
            Ok(match from {
                _ if from == to => None,
                _ if from > to => Some(ConvChain::One(norm(self.widths[from], self.widths[to], 1, 1)?)),
                _ => {
                    let conv = |step: usize| norm(self.widths[from], self.widths[if step == to { to } else { from }], 3, 2);
                    Some(ConvChain::Chain((from + 1..=to).map(conv).collect::<Result<_>>()?))
                }
            })
        };
        let ways = |to| (0..self.widths.len()).map(|from| way(from, to)).collect::<Result<Vec<_>>>();
        let fuse_layers = (0..self.outputs).map(ways).collect::<Result<_>>()?;
        Ok(HrModule { branches, fuse_layers, resize: self.resize })
    }
}

/// Blocks of several branches, and the exchange of what they see: `y_i = relu(Σ_j f_ij(x_j))`, f_ii the identity.
#[derive(Module, Debug)]
pub struct HrModule {
    /// The blocks of each branch.
    pub branches: Vec<Vec<ResNetBlock>>,
    /// f_ij: the ways to each output from each branch.
    pub fuse_layers: Vec<Vec<Option<ConvChain>>>,
    #[module(skip)]
    resize: Resize,
}

impl HrModule {
    /// Transforms the maps of all branches.
    ///
    /// # Shapes
    /// - `maps`: `[B, Y, X, D]` each, the largest first; outputs: as the first of them
    pub fn forward(&self, maps: Vec<Tensor<4>>) -> Vec<Tensor<4>> {
        let maps: Vec<_> = self.branches.iter().zip(maps).map(|(blocks, x)| blocks.iter().fold(x, |x, block| block.forward(x))).collect();
        let output = |(to, ways): (usize, &Vec<Option<ConvChain>>)| {
            let [_, y, x, _] = maps[to].dims();
            let part = |(way, map): (&Option<ConvChain>, &Tensor<4>)| match way {
                Some(way) => self.resize.apply(way.forward(map.clone(), false), [y, x]),
                None => map.clone(),
            };
            let sum = ways.iter().zip(&maps).map(part).reduce(|sum, part| sum + part);
            activation::relu(sum.unwrap_or_else(|| maps[to].clone()))
        };
        self.fuse_layers.iter().enumerate().map(output).collect()
    }

    pub(super) fn multiply_adds(&self, maps: &[[usize; 2]]) -> f64 {
        let blocks = |(blocks, map): (&Vec<ResNetBlock>, &[usize; 2])| -> f64 { blocks.iter().map(|block| block.cost(*map).1).sum() };
        let branches: f64 = self.branches.iter().zip(maps).map(blocks).sum();
        let mut ways = 0.0;
        for (to, fused) in self.fuse_layers.iter().enumerate() {
            for (from, way) in fused.iter().enumerate().filter(|(from, _)| *from != to) {
                // To a larger map it is convolved before it is made larger.
                let outputs = if from > to { &maps[from..] } else { &maps[from + 1..] };
                ways += way.as_ref().map_or(0.0, |way| way.multiply_adds(outputs));
            }
        }
        branches + ways
    }
}
