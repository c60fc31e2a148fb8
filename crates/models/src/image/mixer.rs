use burn::{
    module::Module,
    tensor::{Device, Tensor},
};
use regard::{
    ImageMixer, ImageMixerConfig, LayerPlace, Mixer, MixerConfig, Result, SequenceMixer, SpatialMixer,
    softmax_attention::SoftmaxAttentionConfig,
};
use serde::{Deserialize, Deserializer, Serialize, de::Error as _};
use serde_json::{Map, Value};

use super::ConvConfig;

/// What stands in a block of an [`ImageClassifier`](super::ImageClassifier): any layer over maps, any layer over sequences, or the
/// convolutions of a ResNet. In a file it is a table with `kind` and the fields of that configuration.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum MapMixerConfig {
    /// A layer over the maps of images.
    Spatial(ImageMixerConfig),
    /// A layer over sequences, which reads the map row by row.
    Sequence(MixerConfig),
    /// Two convolutions in the place of mixer and channel mixer.
    Conv(ConvConfig),
}

impl<'de> Deserialize<'de> for MapMixerConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        let table = Map::deserialize(deserializer)?;
        let kind = table.get("kind").and_then(Value::as_str).unwrap_or_default().to_owned();
        let unknown = table.get("kind").is_some_and(Value::is_string) && !Self::KINDS.contains(&kind.as_str());
        if unknown {
            return Err(D::Error::unknown_variant(&kind, Self::KINDS));
        }
        let table = Value::Object(table);
        let read = if ImageMixerConfig::KINDS.contains(&kind.as_str()) {
            ImageMixerConfig::deserialize(table).map(Self::Spatial)
        } else if kind == ConvConfig::KIND {
            ConvConfig::read(table).map(Self::Conv)
        } else {
            // A table without a kind, too: the message is the same for all.
            MixerConfig::deserialize(table).map(Self::Sequence)
        };
        read.map_err(D::Error::custom)
    }
}

impl From<MixerConfig> for MapMixerConfig {
    fn from(config: MixerConfig) -> Self {
        Self::Sequence(config)
    }
}

impl From<ImageMixerConfig> for MapMixerConfig {
    fn from(config: ImageMixerConfig) -> Self {
        Self::Spatial(config)
    }
}

const COUNT: usize = ImageMixerConfig::KINDS.len() + MixerConfig::KINDS.len() + 1;

const ALL: [&str; COUNT] = {
    let mut all = [ConvConfig::KIND; COUNT];
    let mut at = 0;
    while at < COUNT - 1 {
        let spatial = ImageMixerConfig::KINDS.len();
        all[at] = if at < spatial { ImageMixerConfig::KINDS[at] } else { MixerConfig::KINDS[at - spatial] };
        at += 1;
    }
    all
};

impl MapMixerConfig {
    /// The ids of all kinds: those of layers over maps, those of layers over sequences, `conv`.
    pub const KINDS: &'static [&'static str] = &ALL;

    /// The kind's id.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Spatial(config) => config.kind(),
            Self::Sequence(config) => config.kind(),
            Self::Conv(_) => ConvConfig::KIND,
        }
    }

    /// The kind of that id with `heads` heads, if it has heads, and the defaults of its paper; `None` if there is none. Softmax attention is
    /// that of a vision transformer: biases, and no positions of its own.
    pub fn named(kind: &str, heads: usize) -> Option<Self> {
        match kind {
            ConvConfig::KIND => Some(Self::Conv(ConvConfig::default())),
            "softmax" => {
                let vision = SoftmaxAttentionConfig { rotary_base: None, bias: true, ..SoftmaxAttentionConfig::new(heads) };
                Some(Self::Sequence(MixerConfig::Softmax(vision)))
            }
            _ => ImageMixerConfig::named(kind, heads).map(Self::Spatial).or_else(|| MixerConfig::named(kind, heads).map(Self::Sequence)),
        }
    }

    /// The layer over sequences, if it is one.
    pub fn sequence(&self) -> Option<&MixerConfig> {
        if let Self::Sequence(config) = self { Some(config) } else { None }
    }

    /// The mixer for width `d_model` at its place in a stack; nothing for convolutions, which are a whole block.
    ///
    /// # Errors
    /// If the configuration is invalid or does not fit the width.
    pub fn init(&self, d_model: usize, place: LayerPlace, device: &Device) -> Result<Option<MapMixer>> {
        Ok(match self {
            Self::Spatial(config) => Some(MapMixer::Spatial(config.init(d_model, device)?)),
            Self::Sequence(config) => Some(MapMixer::Sequence(Raster {
                mixer: config.init(d_model, place, device)?,
                causal: !config.is_bidirectional(),
                backwards: !place.index.is_multiple_of(2),
            })),
            Self::Conv(_) => None,
        })
    }
}

/// A mixer of the tokens of maps.
#[derive(Module, Debug)]
#[allow(clippy::large_enum_variant, reason = "one per layer of a model, next to its weights")]
pub enum MapMixer {
    /// A layer over maps.
    Spatial(ImageMixer),
    /// A layer over sequences.
    Sequence(Raster),
}

impl SpatialMixer for MapMixer {
    fn check_map(&self, map: [usize; 2]) -> Result<()> {
        match self {
            Self::Spatial(mixer) => mixer.check_map(map),
            Self::Sequence(mixer) => mixer.check_map(map),
        }
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        match self {
            Self::Spatial(mixer) => mixer.forward(x),
            Self::Sequence(mixer) => mixer.forward(x),
        }
    }

    fn flops(&self, map: [usize; 2]) -> f64 {
        match self {
            Self::Spatial(mixer) => mixer.flops(map),
            Self::Sequence(mixer) => mixer.flops(map),
        }
    }
}

/// A layer over sequences that reads a map row by row: in its bidirectional form where it has one, else as it is from the first token to the
/// last, and in every other layer from the last to the first (as Vision-LSTM, Alkin et al. 2024).
#[derive(Module, Debug)]
pub struct Raster {
    /// The layer.
    pub mixer: Mixer,
    causal: bool,
    backwards: bool,
}

impl SpatialMixer for Raster {
    fn check_map(&self, _: [usize; 2]) -> Result<()> {
        Ok(())
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let [b, y, columns, d] = x.dims();
        let tokens = x.reshape([b, y * columns, d]);
        let mixed = match (self.causal, self.backwards) {
            (false, _) => self.mixer.attend(tokens, None).expect("a layer with a bidirectional form takes any sequence"),
            (true, false) => self.mixer.forward(tokens, None),
            (true, true) => self.mixer.forward(tokens.flip([1]), None).flip([1]),
        };
        mixed.reshape([b, y, columns, d])
    }

    fn flops(&self, [y, x]: [usize; 2]) -> f64 {
        (y * x) as f64 * self.mixer.flops_per_token(y * x)
    }
}
