use burn::{
    module::{Module, ModuleVisitor, Param},
    nn::Linear,
    tensor::Tensor,
};
use regard::{
    Error, Result, SpatialMixer,
    blocks::{Norm, PatchMerge, VisionBlock, project},
};

use super::{ConvBlock, MapMixer, config::OP, stem::Stem};

/// One block.
#[derive(Module, Debug)]
#[allow(clippy::large_enum_variant, reason = "few, next to their weights")]
pub enum ImageBlock {
    /// A mixer of tokens and one of channels.
    Mixer(VisionBlock<MapMixer>),
    /// Two convolutions.
    Conv(ConvBlock),
}

impl ImageBlock {
    /// Transforms maps.
    ///
    /// # Shapes
    /// - `x`: `[B, Y, X, D]`; output: the same
    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        match self {
            Self::Mixer(block) => block.forward(x),
            Self::Conv(block) => block.forward(x),
        }
    }

    /// Operations of the forward pass for one map, without norms, activations and positions.
    fn flops(&self, map: [usize; 2]) -> f64 {
        match self {
            Self::Mixer(block) => {
                let weights = [&block.mlp.up, &block.mlp.down].map(|linear| linear.weight.lazy_shape().num_elements());
                block.mixer.flops(map) + 2.0 * (map[0] * map[1] * weights.iter().sum::<usize>()) as f64
            }
            Self::Conv(block) => block.flops(map),
        }
    }
}

/// Blocks over maps of one size.
#[derive(Module, Debug)]
pub struct Stage {
    /// What makes one token of 2 × 2 of the stage before, if there is one.
    pub merge: Option<PatchMerge>,
    /// The blocks.
    pub blocks: Vec<ImageBlock>,
}

/// A network that tells images apart, with any mixer in its blocks: see the [module's page](super).
#[derive(Module, Debug)]
pub struct ImageClassifier {
    /// From pixels to tokens.
    pub stem: Stem,
    /// Position vectors, if learned. `[Y, X, D]`
    pub positions: Option<Param<Tensor<3>>>,
    /// The stages.
    pub stages: Vec<Stage>,
    /// Norm before the head.
    pub norm: Norm,
    /// From the mean of all tokens to the classes.
    pub head: Linear,
    #[module(skip)]
    pub(super) image: [usize; 2],
    #[module(skip)]
    pub(super) map: [usize; 2],
}

impl ImageClassifier {
    /// Logits of the classes.
    ///
    /// # Shapes
    /// - `images`: `[B, C, Y, X]`; output: `[B, classes]`
    ///
    /// # Errors
    /// If the images have another size or other channels than the network was made for.
    pub fn forward(&self, images: Tensor<4>) -> Result<Tensor<2>> {
        let [b, channels, rows, columns] = images.dims();
        let ([y, x], expected) = (self.image, self.stem.channels());
        if [channels, rows, columns] != [expected, y, x] {
            let want = format!("of shape [B, {expected}, {y}, {x}]");
            return Err(Error::argument(OP, "images", want, format!("{:?}", [b, channels, rows, columns])));
        }
        let mut x = self.stem.forward(images);
        if let Some(positions) = &self.positions {
            x = x + positions.val().unsqueeze();
        }
        for stage in &self.stages {
            if let Some(merge) = &stage.merge {
                x = merge.forward(x);
            }
            for block in &stage.blocks {
                x = block.forward(x);
            }
        }
        let [b, y, columns, d] = x.dims();
        let x = self.norm.forward(x).reshape([b, y * columns, d]);
        Ok(project(&self.head, x.mean_dim(1).squeeze_dim::<2>(1)))
    }

    /// Number of trained weights: what batch norms remember of past batches is none.
    pub fn params(&self) -> usize {
        let mut remembered = Remembered::default();
        self.visit(&mut remembered);
        self.num_params() - remembered.count
    }

    /// Floating-point operations of training per token of the first map: forward and twice that for backward, a multiply-add counted as two;
    /// norms, activations, stem and head are left out.
    pub fn training_flops_per_token(&self) -> f64 {
        let [rows, columns] = self.map;
        let mut map = self.map;
        let mut all = 0.0;
        for stage in &self.stages {
            if stage.merge.is_some() {
                map = map.map(|length| length.div_ceil(2));
            }
            all += stage.blocks.iter().map(|block| block.flops(map)).sum::<f64>();
        }
        3.0 * all / (rows * columns) as f64
    }
}

/// Counts the running statistics of batch norms, which Burn counts as parameters.
#[derive(Default)]
struct Remembered {
    names: Vec<String>,
    count: usize,
}

impl ModuleVisitor for Remembered {
    fn enter_module(&mut self, name: &str, _: &str) {
        self.names.push(name.into());
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.names.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if matches!(self.names.last().map(String::as_str), Some("running_mean" | "running_var")) {
            self.count += param.lazy_shape().num_elements();
        }
    }
}
