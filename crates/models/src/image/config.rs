use burn::{module::Initializer, nn::LinearConfig, tensor::Device};
use regard::{
    Error, LayerPlace, Result, SpatialMixer,
    blocks::{NormKind, PatchMerge, VisionBlockConfig},
};
use serde::{Deserialize, Serialize};

use super::{
    MapMixerConfig,
    model::{ImageBlock, ImageClassifier, Stage},
    stem::StemKind,
};
use crate::decoder::{check_numbers, initialise};

pub(super) const OP: &str = "image";

/// How a network for images learns where a token stands, besides what its mixers know.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MapPositions {
    /// A learned vector for each place of the first map is added to the token there.
    #[default]
    Learned,
    /// A depthwise convolution of 3 × 3 tokens is added before each mixer: for images of any size.
    Conv,
    /// Not at all.
    None,
}

/// Configuration of an [`ImageClassifier`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageConfig {
    /// Rows and columns of an image. A file may leave it out: training takes it from the images.
    #[serde(default)]
    pub image: [usize; 2],
    /// Channels of an image. A file may leave it out: training takes it from the images.
    #[serde(default)]
    pub channels: usize,
    /// Number of classes. A file may leave it out: training takes it from the images.
    #[serde(default)]
    pub classes: usize,
    /// Rows and columns of pixels that become a token. A file may leave it out: it is [`usual_patch`](Self::usual_patch) then.
    #[serde(default)]
    pub patch: usize,
    /// What makes tokens of pixels.
    #[serde(default)]
    pub stem: StemKind,
    /// Width D of each stage. From one stage to the next, 2 × 2 tokens become one.
    pub widths: Vec<usize>,
    /// Number of blocks of each stage.
    pub depths: Vec<usize>,
    /// The mixers, repeated over all blocks.
    pub mixers: Vec<MapMixerConfig>,
    /// Inner width of the channel mixers, or between two convolutions, of the first stage; in a wider stage as much wider, rounded.
    pub d_ff: usize,
    /// Where a token stands.
    #[serde(default)]
    pub positions: MapPositions,
    /// ε of the norms.
    #[serde(default = "epsilon")]
    pub norm_epsilon: f64,
    /// Initial value of the factors on the outputs of mixers and channel mixers, if there are any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub layer_scale: Option<f64>,
    /// Standard deviation of the initial weights of linear layers; of projections back into the residual stream it is smaller by 1/√(2L) with
    /// L blocks. By default 1/√D with the width D of the first stage: small networks learn several times as fast as with the 0.02 of large
    /// ones. Convolutions have their own, positions 0.02.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub init_std: Option<f64>,
}

fn epsilon() -> f64 {
    1e-6
}

/// Standard deviation of the initial position vectors, as in ViT.
const POSITION_STD: f64 = 0.02;

/// Most rows and columns of tokens that [`ImageConfig::usual_patch`] leaves.
const USUAL_MAP: usize = 16;

impl ImageConfig {
    /// One stage of `layers` pre-norm blocks with patches, learned positions and channel mixers four times as wide; training takes the rest
    /// from the images.
    pub fn open(d_model: usize, layers: usize, mixers: Vec<MapMixerConfig>) -> Self {
        Self {
            image: [0; 2],
            channels: 0,
            classes: 0,
            patch: 0,
            stem: StemKind::default(),
            widths: vec![d_model],
            depths: vec![layers],
            mixers,
            d_ff: 4 * d_model,
            positions: MapPositions::default(),
            norm_epsilon: epsilon(),
            layer_scale: None,
            init_std: None,
        }
    }

    /// The same for images of a size.
    pub fn new([channels, rows, columns]: [usize; 3], d_model: usize, layers: usize, mixers: Vec<MapMixerConfig>, classes: usize) -> Self {
        let image = [rows, columns];
        Self { image, channels, classes, patch: Self::usual_patch(image), ..Self::open(d_model, layers, mixers) }
    }

    /// The smallest power of two that leaves 16 × 16 tokens or fewer.
    pub fn usual_patch(image: [usize; 2]) -> usize {
        let longest = image.into_iter().max().unwrap_or_default();
        longest.div_ceil(USUAL_MAP).max(1).next_power_of_two()
    }

    /// Rows and columns of the first map.
    pub fn map(&self) -> [usize; 2] {
        self.image.map(|length| length.div_ceil(self.patch.max(1)))
    }

    /// Inner width of the channel mixers of a stage.
    fn inner(&self, stage: usize) -> usize {
        let exact = self.d_ff as f64 * self.widths[stage] as f64 / self.widths[0] as f64;
        (exact.round() as usize).max(1)
    }

    /// The network with initial values drawn from the device's random generator.
    ///
    /// # Errors
    /// If a size is 0 or not given, widths and depths differ in number, a mixer rejects its configuration or the map of its stage, or a number
    /// is outside its range.
    pub fn init(&self, device: &Device) -> Result<ImageClassifier> {
        let blocks = self.depths.iter().sum::<usize>().max(1);
        let network = self.build(device)?;
        let std = self.init_std.unwrap_or_else(|| 1.0 / (self.widths[0] as f64).sqrt());
        Ok(initialise(network, std, std / (2.0 * blocks as f64).sqrt()))
    }

    fn build(&self, device: &Device) -> Result<ImageClassifier> {
        self.check()?;
        let count = self.depths.iter().sum();
        let (mut index, mut map) = (0, self.map());
        let mut stages = Vec::with_capacity(self.widths.len());
        for (stage, (&width, &depth)) in self.widths.iter().zip(&self.depths).enumerate() {
            let merge = if stage == 0 {
                None
            } else {
                map = map.map(|length| length.div_ceil(2));
                Some(PatchMerge::new(self.widths[stage - 1], width, 2, device)?)
            };
            let mut blocks = Vec::with_capacity(depth);
            for _ in 0..depth {
                blocks.push(self.block(stage, LayerPlace { index, count }, map, device)?);
                index += 1;
            }
            stages.push(Stage { merge, blocks });
        }
        let last = self.widths[self.widths.len() - 1];
        let [rows, columns] = self.map();
        let positions = Initializer::Normal { mean: 0.0, std: POSITION_STD };
        Ok(ImageClassifier {
            stem: self.stem.init(self.channels, self.widths[0], self.patch, device)?,
            positions: (self.positions == MapPositions::Learned).then(|| positions.init([rows, columns, self.widths[0]], device)),
            stages,
            norm: NormKind::Layer.init(last, self.norm_epsilon, device),
            head: LinearConfig::new(last, self.classes).init(device),
            image: self.image,
            map: self.map(),
        })
    }

    fn block(&self, stage: usize, place: LayerPlace, map: [usize; 2], device: &Device) -> Result<ImageBlock> {
        let (width, inner) = (self.widths[stage], self.inner(stage));
        let mixer = &self.mixers[place.index % self.mixers.len()];
        if let MapMixerConfig::Conv(config) = mixer {
            return config.init(width, inner, device).map(ImageBlock::Conv);
        }
        let mixer = mixer.init(width, place, device)?.expect("all but convolutions are mixers");
        mixer.check_map(map)?;
        let block = VisionBlockConfig {
            d_ff: inner,
            norm_epsilon: self.norm_epsilon,
            conv: (self.positions == MapPositions::Conv).then_some(3),
            channel_conv: None,
            layer_scale: self.layer_scale,
        };
        block.init(width, mixer, device).map(ImageBlock::Mixer)
    }

    fn check(&self) -> Result<()> {
        let [rows, columns] = self.image;
        let sizes = [
            ("image", rows.min(columns)),
            ("channels", self.channels),
            ("classes", self.classes),
            ("patch", self.patch),
            ("widths", self.widths.len()),
            ("widths", self.widths.iter().copied().min().unwrap_or_default()),
            ("depths", self.depths.iter().sum()),
            ("d_ff", self.d_ff),
        ];
        if let Some((arg, _)) = sizes.into_iter().find(|(_, size)| *size == 0) {
            return Err(Error::argument(OP, arg, "at least 1", 0));
        }
        if self.widths.len() != self.depths.len() {
            return Err(Error::argument(OP, "depths", format!("one for each of {} stages", self.widths.len()), self.depths.len()));
        }
        if self.mixers.is_empty() {
            return Err(Error::argument(OP, "mixers", "a list of at least one mixer", "[]"));
        }
        if let Some(value) = self.layer_scale.filter(|value| !value.is_finite()) {
            return Err(Error::argument(OP, "layer_scale", "a number", value));
        }
        check_numbers(OP, 0.0, self.norm_epsilon, self.init_std.unwrap_or_default())
    }
}
