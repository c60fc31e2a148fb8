#![doc = include_str!("README.md")]

mod decode;
mod exchange;
mod heatmap;
mod hrnet;
mod metrics;
mod pose;
mod segmentation;
mod targets;
#[cfg(test)]
mod tests;
mod weights;

pub use decode::{Decoding, Keypoint, decode_heatmaps, to_image};
pub use exchange::{ConvChain, HrModule};
pub use heatmap::{PsaHeatmap, PsaHeatmapConfig, Window};
pub use hrnet::{HrNet, HrNetConfig};
pub use metrics::{COCO_SIGMAS, Confusion, correct_keypoints, keypoint_similarity};
pub use pose::{DeconvNorm, PoseConfig, PoseNet, Trunk, TrunkConfig};
pub use segmentation::{SegmentationConfig, SegmentationNet};
pub use targets::{heatmap_loss, heatmap_targets};
pub use weights::PsaNames;

use regard::polarized_attention::{Flavour, Layout, PolarizedAttentionConfig};

/// The name of a network without what it says of attention, and that.
fn attention_of(name: &str) -> (&str, Option<PolarizedAttentionConfig>) {
    let official = |layout| Some(PolarizedAttentionConfig { flavour: Flavour::Official, layout, allow_odd: false });
    match (name.strip_suffix("_psa_p"), name.strip_suffix("_psa_s")) {
        (Some(base), _) => (base, official(Layout::Parallel)),
        (_, Some(base)) => (base, official(Layout::Sequential)),
        _ => (name, None),
    }
}
