use burn::{
    module::Module,
    tensor::{Device, Tensor},
};
use serde::{Deserialize, Deserializer, Serialize};

use crate::{
    Result, SpatialMixer,
    bi_level_routing::{BiLevelRouting, BiLevelRoutingConfig},
    by_kind,
    channel_attention::{ChannelAttention, ChannelAttentionConfig},
    halo_attention::{HaloAttention, HaloAttentionConfig},
    neighborhood_attention::{NeighborhoodAttention, NeighborhoodAttentionConfig},
    polarized_attention::{PolarizedAttention, PolarizedAttentionConfig},
    strip_attention::{StripAttention, StripAttentionConfig},
    window_attention::{WindowAttention, WindowAttentionConfig},
};

/// Writes the two enums of layers over maps of images from one list: configuration and module.
macro_rules! image_mixers {
    ($($(#[$doc:meta])* $tag:literal $variant:ident($config:ty, $layer:ty, $new:expr),)*) => {
        /// Which layer over the maps of images, and how: the choice at run time. In a file it is a table with `kind` and the fields of that
        /// configuration, `{ kind = "neighborhood", heads = 4 }`.
        #[derive(Clone, Debug, PartialEq, Serialize)]
        #[serde(tag = "kind")]
        pub enum ImageMixerConfig {
            $($(#[$doc])* #[serde(rename = $tag)] $variant($config),)*
        }

        impl<'de> Deserialize<'de> for ImageMixerConfig {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
                by_kind(deserializer, Self::KINDS, None, |kind, fields| match kind {
                    $($tag => Some(fields.read().map(Self::$variant)),)*
                    _ => None,
                })
            }
        }

        impl ImageMixerConfig {
            /// The ids of all kinds, as in [`registry::MECHANISMS`](crate::registry::MECHANISMS).
            pub const KINDS: &'static [&'static str] = &[$($tag),*];

            /// The kind's id.
            pub fn kind(&self) -> &'static str {
                match self { $(Self::$variant(_) => $tag,)* }
            }

            /// The kind of that id with `heads` heads, if it has heads, and the defaults of its paper; `None` if there is none.
            pub fn named(kind: &str, heads: usize) -> Option<Self> {
                match kind { $($tag => Some(Self::$variant($new(heads))),)* _ => None }
            }

            /// The layer for width `d_model`.
            ///
            /// # Errors
            /// If the configuration is invalid or does not fit the width.
            pub fn init(&self, d_model: usize, device: &Device) -> Result<ImageMixer> {
                Ok(match self { $(Self::$variant(config) => ImageMixer::$variant(config.init(d_model, device)?),)* })
            }
        }

        /// A layer over the maps of images of any kind.
        #[allow(clippy::large_enum_variant, reason = "one per layer of a model, next to its weights")]
        #[derive(Module, Debug)]
        pub enum ImageMixer {
            $($(#[$doc])* $variant($layer),)*
        }

        impl ImageMixer {
            /// The kind's id.
            pub fn kind(&self) -> &'static str {
                match self { $(Self::$variant(_) => $tag,)* }
            }
        }

        impl SpatialMixer for ImageMixer {
            fn check_map(&self, map: [usize; 2]) -> Result<()> {
                match self { $(Self::$variant(layer) => layer.check_map(map),)* }
            }

            fn forward(&self, x: Tensor<4>) -> Tensor<4> {
                match self { $(Self::$variant(layer) => layer.forward(x),)* }
            }

            fn flops(&self, map: [usize; 2]) -> f64 {
                match self { $(Self::$variant(layer) => layer.flops(map),)* }
            }
        }
    };
}

image_mixers! {
    /// Bi-level routing attention.
    "bi_level_routing" BiLevelRouting(BiLevelRoutingConfig, BiLevelRouting, BiLevelRoutingConfig::new),
    /// Channel attention.
    "channel" Channel(ChannelAttentionConfig, ChannelAttention, ChannelAttentionConfig::new),
    /// Halo attention.
    "halo" Halo(HaloAttentionConfig, HaloAttention, HaloAttentionConfig::new),
    /// Neighborhood attention.
    "neighborhood" Neighborhood(NeighborhoodAttentionConfig, NeighborhoodAttention, NeighborhoodAttentionConfig::new),
    /// Polarized self-attention.
    "polarized" Polarized(PolarizedAttentionConfig, PolarizedAttention, |_| PolarizedAttentionConfig::default()),
    /// Strip attention.
    "strip" Strip(StripAttentionConfig, StripAttention, StripAttentionConfig::new),
    /// Window attention.
    "window" Window(WindowAttentionConfig, WindowAttention, WindowAttentionConfig::new),
}
