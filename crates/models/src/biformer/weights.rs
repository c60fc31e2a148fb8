use super::{config::BiFormerLayout, model::BiFormer};
use crate::{
    vision::MapNames,
    weights::{Layout, Names, Stored},
};

/// Names here and in the authors' checkpoints, where convolutions overlap.
const OVERLAPPING: Names = Names(&[
    ("downsample.0.Convs.0.conv.", "downsample_layers.0.0."),
    ("downsample.0.Convs.0.bn.", "downsample_layers.0.1."),
    ("downsample.0.Convs.1.conv.", "downsample_layers.0.3."),
    ("downsample.0.Convs.1.bn.", "downsample_layers.0.4."),
    ("downsample.{}.Convs.0.conv.", "downsample_layers.{}.0."),
    ("downsample.{}.Convs.0.bn.", "downsample_layers.{}.1."),
    ("stages.{}.{}.conv.", "stages.{}.{}.pos_embed."),
    ("stages.{}.{}.norm.", "stages.{}.{}.norm1."),
    ("stages.{}.{}.mixer.Routed.qkv.", "stages.{}.{}.attn.qkv.qkv."),
    ("stages.{}.{}.mixer.Routed.", "stages.{}.{}.attn."),
    ("stages.{}.{}.mixer.Full.", "stages.{}.{}.attn."),
    ("stages.{}.{}.channel_norm.", "stages.{}.{}.norm2."),
    ("stages.{}.{}.mlp.up.", "stages.{}.{}.mlp.0."),
    ("stages.{}.{}.mlp.down.", "stages.{}.{}.mlp.3."),
]);

/// The same where patches are merged.
const PATCHES: Names = Names(&[
    ("downsample.0.Patches.merge.", "downsample_layers.0.0."),
    ("downsample.0.Patches.norm.", "downsample_layers.0.1."),
    ("downsample.{}.Patches.norm.", "downsample_layers.{}.0."),
    ("downsample.{}.Patches.merge.", "downsample_layers.{}.1."),
    ("stages.{}.{}.conv.", "stages.{}.blocks.{}.pos_embed."),
    ("stages.{}.{}.norm.", "stages.{}.blocks.{}.norm1."),
    ("stages.{}.{}.mixer.Routed.qkv.", "stages.{}.blocks.{}.attn.qkv.qkv."),
    ("stages.{}.{}.mixer.Routed.", "stages.{}.blocks.{}.attn."),
    ("stages.{}.{}.mixer.Full.", "stages.{}.blocks.{}.attn."),
    ("stages.{}.{}.channel_norm.", "stages.{}.blocks.{}.norm2."),
    ("stages.{}.{}.mlp.up.", "stages.{}.blocks.{}.mlp.0."),
    ("stages.{}.{}.mlp.down.", "stages.{}.blocks.{}.mlp.2."),
]);

/// The names of the authors' checkpoints.
#[derive(Clone, Copy, Debug)]
pub struct BiFormerNames(BiFormerLayout);

impl BiFormerNames {
    /// Those of checkpoints of that network.
    pub fn of(model: &BiFormer) -> Self {
        Self(model.layout())
    }
}

impl Layout for BiFormerNames {
    fn stored(&self, path: &str, shape: &[usize]) -> Vec<Stored> {
        let names = match self.0 {
            BiFormerLayout::Overlapping => OVERLAPPING,
            BiFormerLayout::Patches => PATCHES,
        };
        MapNames { names, pointwise: &[] }.stored(path, shape)
    }

    fn ignores(&self, name: &str) -> bool {
        MapNames { names: Names(&[]), pointwise: &[] }.ignores(name)
    }
}
