use burn::{module::Module, tensor::Device};
use regard::{MixerConfig, Result, by_kind};
use serde::{Deserialize, Deserializer, Serialize};

use crate::{
    Decoder, DecoderConfig, Encoder, EncoderConfig,
    flowformer::{FlowformerSeries, FlowformerSeriesConfig, FlowformerVision, FlowformerVisionConfig},
    image::{ImageClassifier, ImageConfig, MapMixerConfig},
};

/// Which network, and how: in a file a table with `kind` and the fields of that configuration. Without `kind` it is a decoder.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
#[allow(clippy::large_enum_variant, reason = "few, and short-lived")]
pub enum ModelConfig {
    /// A language model.
    Decoder(DecoderConfig),
    /// A network over whole sequences.
    Encoder(EncoderConfig),
    /// Flowformer for images.
    FlowformerVision(FlowformerVisionConfig),
    /// Flowformer for series to be told apart.
    FlowformerSeries(FlowformerSeriesConfig),
    /// A network for images with any mixer.
    Image(ImageConfig),
}

impl<'de> Deserialize<'de> for ModelConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        // Files of the time before there were kinds have none.
        by_kind(deserializer, &Self::KINDS, Some("decoder"), |kind, fields| match kind {
            "decoder" => Some(fields.read().map(Self::Decoder)),
            "encoder" => Some(fields.read().map(Self::Encoder)),
            "flowformer_vision" => Some(fields.read().map(Self::FlowformerVision)),
            "flowformer_series" => Some(fields.read().map(Self::FlowformerSeries)),
            "image" => Some(fields.read().map(Self::Image)),
            _ => None,
        })
    }
}

impl From<DecoderConfig> for ModelConfig {
    fn from(config: DecoderConfig) -> Self {
        Self::Decoder(config)
    }
}

impl From<EncoderConfig> for ModelConfig {
    fn from(config: EncoderConfig) -> Self {
        Self::Encoder(config)
    }
}

impl From<FlowformerVisionConfig> for ModelConfig {
    fn from(config: FlowformerVisionConfig) -> Self {
        Self::FlowformerVision(config)
    }
}

impl From<FlowformerSeriesConfig> for ModelConfig {
    fn from(config: FlowformerSeriesConfig) -> Self {
        Self::FlowformerSeries(config)
    }
}

impl From<ImageConfig> for ModelConfig {
    fn from(config: ImageConfig) -> Self {
        Self::Image(config)
    }
}

impl ModelConfig {
    /// The names of all kinds.
    pub const KINDS: [&str; 5] = ["decoder", "encoder", "flowformer_vision", "flowformer_series", "image"];

    /// The name of its kind.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Decoder(_) => "decoder",
            Self::Encoder(_) => "encoder",
            Self::FlowformerVision(_) => "flowformer_vision",
            Self::FlowformerSeries(_) => "flowformer_series",
            Self::Image(_) => "image",
        }
    }

    /// Tokens of a sequence, or patches of an image.
    pub fn context(&self) -> usize {
        match self {
            Self::Decoder(config) => config.context,
            Self::Encoder(config) => config.length,
            Self::FlowformerVision(config) => (config.image / config.patch.max(1)).pow(2),
            Self::FlowformerSeries(config) => config.length,
            Self::Image(config) => config.map().iter().product(),
        }
    }

    /// Number of layers.
    pub fn layers(&self) -> usize {
        match self {
            Self::Decoder(config) => config.layers,
            Self::Encoder(config) => config.layers,
            Self::FlowformerVision(config) => config.depths.iter().sum(),
            Self::FlowformerSeries(config) => config.layers,
            Self::Image(config) => config.depths.iter().sum(),
        }
    }

    /// Width of the first layer.
    pub fn d_model(&self) -> usize {
        match self {
            Self::Decoder(config) => config.d_model,
            Self::Encoder(config) => config.d_model,
            Self::FlowformerVision(config) => config.widths.first().copied().unwrap_or_default(),
            Self::FlowformerSeries(config) => config.d_model,
            Self::Image(config) => config.widths.first().copied().unwrap_or_default(),
        }
    }

    /// The kinds of its mixers, repeated over the layers.
    pub fn mixer_kinds(&self) -> Vec<&'static str> {
        match self {
            Self::Decoder(DecoderConfig { mixers, .. }) | Self::Encoder(EncoderConfig { mixers, .. }) => {
                mixers.iter().map(MixerConfig::kind).collect()
            }
            Self::FlowformerVision(config) => vec![if config.full_attention { "softmax" } else { "flow" }],
            Self::FlowformerSeries(_) => vec!["flow"],
            Self::Image(config) => config.mixers.iter().map(MapMixerConfig::kind).collect(),
        }
    }

    /// The configuration of a language model, if it is one.
    pub fn decoder(&self) -> Option<&DecoderConfig> {
        if let Self::Decoder(config) = self { Some(config) } else { None }
    }

    /// The network with initial values drawn from the device's random generator.
    ///
    /// # Errors
    /// If the configuration is invalid.
    pub fn init(&self, device: &Device) -> Result<Model> {
        Ok(match self {
            Self::Decoder(config) => Model::Decoder(config.init(device)?),
            Self::Encoder(config) => Model::Encoder(config.init(device)?),
            Self::FlowformerVision(config) => Model::FlowformerVision(config.init(device)?),
            Self::FlowformerSeries(config) => Model::FlowformerSeries(config.init(device)?),
            Self::Image(config) => Model::Image(config.init(device)?),
        })
    }
}

/// A network of any kind.
#[derive(Module, Debug)]
#[allow(clippy::large_enum_variant, reason = "one per program")]
pub enum Model {
    /// A language model.
    Decoder(Decoder),
    /// A network over whole sequences.
    Encoder(Encoder),
    /// Flowformer for images.
    FlowformerVision(FlowformerVision),
    /// Flowformer for series to be told apart.
    FlowformerSeries(FlowformerSeries),
    /// A network for images with any mixer.
    Image(ImageClassifier),
}

impl Model {
    /// Number of trained weights.
    pub fn params(&self) -> usize {
        match self {
            Self::Decoder(model) => model.params(),
            Self::Encoder(model) => model.params(),
            Self::FlowformerVision(model) => model.num_params(),
            Self::FlowformerSeries(model) => model.num_params(),
            Self::Image(model) => model.params(),
        }
    }

    /// [`Decoder::rebalance`] where there are routers; any other network as it is.
    #[must_use]
    pub fn rebalance(self) -> Self {
        if let Self::Decoder(model) = self { Self::Decoder(model.rebalance()) } else { self }
    }

    /// The language model, if it is one.
    pub fn decoder(&self) -> Option<&Decoder> {
        if let Self::Decoder(model) = self { Some(model) } else { None }
    }

    /// The network over whole sequences, if it is one.
    pub fn encoder(&self) -> Option<&Encoder> {
        if let Self::Encoder(model) = self { Some(model) } else { None }
    }

    /// Floating-point operations of training per token in sequences of `context` tokens; nothing where they are not counted.
    pub fn training_flops_per_token(&self, context: usize) -> Option<f64> {
        match self {
            Self::Decoder(model) => Some(model.training_flops_per_token(context)),
            Self::Encoder(model) => Some(model.training_flops_per_token(context)),
            Self::Image(model) => Some(model.training_flops_per_token()),
            Self::FlowformerVision(_) | Self::FlowformerSeries(_) => None,
        }
    }
}
