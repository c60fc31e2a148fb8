#![doc = include_str!("README.md")]

mod causal;
mod fused;
mod kernel;
mod layer;
mod op;
mod options;
pub mod reference;
mod runs;
#[cfg(test)]
mod tests;

pub use causal::{FlowState, flow_attention_causal};
pub use fused::FusedFlowAttention;
pub use layer::{FlowAttention, FlowAttentionConfig, FlowWidths};
pub use op::flow_attention;
pub use options::{FlowFeatureMap, FlowOptions};
pub use reference::{flow_weights, flow_weights_causal};
