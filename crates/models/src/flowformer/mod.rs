#![doc = include_str!("README.md")]

mod language;
#[cfg(test)]
mod tests;
mod time_series;
mod vision;
mod weights;

pub use language::FlowformerConfig;
pub use time_series::{FlowformerSeries, FlowformerSeriesConfig, SeriesLayer};
pub use vision::{FlowformerVision, FlowformerVisionConfig, PatchEmbedding, VisionAttention, VisionBlock};
pub use weights::{LANGUAGE_NAMES, SeriesLayout, VisionLayout};
