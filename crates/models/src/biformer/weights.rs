use std::path::Path;

use super::{config::BiFormerLayout, model::BiFormer};
use crate::{
    vision::MapNames,
    weights::{self, Checkpoint, Layout, Names, Report, Stored},
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
pub struct BiFormerNames {
    layout: BiFormerLayout,
    /// Before all names.
    prefix: &'static str,
}

impl BiFormerNames {
    /// Those of checkpoints of that network.
    pub fn of(model: &BiFormer) -> Self {
        Self { layout: model.layout(), prefix: "" }
    }

    /// The same in files of the authors' training program, beside the state of its optimiser.
    #[must_use]
    pub fn in_training_file(self) -> Self {
        Self { prefix: "model.", ..self }
    }
}

impl Layout for BiFormerNames {
    fn stored(&self, path: &str, shape: &[usize]) -> Vec<Stored> {
        let names = match self.layout {
            BiFormerLayout::Overlapping => OVERLAPPING,
            BiFormerLayout::Patches => PATCHES,
        };
        let prefixed = |stored: Stored| Stored { name: format!("{}{}", self.prefix, stored.name), ..stored };
        MapNames { names, pointwise: &[] }.stored(path, shape).into_iter().map(prefixed).collect()
    }

    fn ignores(&self, name: &str) -> bool {
        // Beside the weights a training program keeps what else it needs.
        !name.starts_with(self.prefix) || MapNames { names: Names(&[]), pointwise: &[] }.ignores(name)
    }
}

/// Reads a checkpoint of the authors, as released or as their training program wrote it, in any form that [`Checkpoint::open`] takes.
///
/// # Errors
/// If a tensor is missing or of another shape, or a file cannot be read.
pub fn read_weights(model: BiFormer, path: impl AsRef<Path>) -> weights::Result<(BiFormer, Report)> {
    let checkpoint = Checkpoint::open(path)?;
    let (plain, wrapped) = (BiFormerNames::of(&model), BiFormerNames::of(&model).in_training_file());
    let inside = checkpoint.names().any(|name| name.starts_with("model.downsample_layers."));
    weights::read(model, if inside { &wrapped } else { &plain }, &checkpoint)
}
