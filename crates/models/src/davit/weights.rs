use std::path::Path;

use super::{DavitAttention, model::Davit};
use crate::{
    vision::{BLOCK_NAMES, split_block},
    weights::{self, Checkpoint, Layout, Names, Report, Stored},
};

/// Whose names a checkpoint has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DavitDialect {
    /// The authors'.
    Authors,
    /// timm's.
    Timm,
    /// timm's of networks that name the blocks of a dual block in the place of numbering them.
    TimmNamed,
    /// Those of the encoder of images in a checkpoint of Florence-2.
    Florence2,
}

impl DavitDialect {
    /// The dialect of a checkpoint; timm's if none is recognised.
    pub fn of(checkpoint: &Checkpoint) -> Self {
        let marks = [
            ("main_blocks.", Self::Authors),
            ("vision_tower.", Self::Florence2),
            ("stages.0.blocks.0.spatial_block.", Self::TimmNamed),
            ("stages.0.blocks.0.channel_block.", Self::TimmNamed),
        ];
        let fits = |begin: &str| checkpoint.names().any(|name| name.starts_with(begin));
        marks.into_iter().find(|(begin, _)| fits(begin)).map_or(Self::Timm, |(_, dialect)| dialect)
    }

    /// What stands around the blocks, and how their own names begin.
    fn frame(self) -> Names {
        match self {
            Self::Authors => Names(&[
                ("stem.conv.", "patch_embeds.0.proj."),
                ("stem.norm.", "patch_embeds.0.norm."),
                ("stages.{}.downsample.conv.", "patch_embeds.{}.proj."),
                ("stages.{}.downsample.norm.", "patch_embeds.{}.norm."),
                ("stages.{}.blocks.", "main_blocks.{}."),
                ("head.norm.", "norms."),
                ("head.fc.", "head."),
            ]),
            Self::Florence2 => Names(&[
                ("stem.conv.", "vision_tower.convs.0.proj."),
                ("stem.norm.", "vision_tower.convs.0.norm."),
                ("stages.{}.downsample.conv.", "vision_tower.convs.{}.proj."),
                ("stages.{}.downsample.norm.", "vision_tower.convs.{}.norm."),
                ("stages.{}.blocks.", "vision_tower.blocks.{}."),
                ("head.norm.", "vision_tower.norms."),
                ("head.fc.", "vision_tower.head."),
            ]),
            Self::Timm | Self::TimmNamed => Names(&[]),
        }
    }

    /// The parts of a block.
    fn parts(self, attention: DavitAttention) -> Names {
        match (self, attention) {
            (Self::Authors, _) => Names(&[("conv.", "cpe.0.proj."), ("channel_conv.", "cpe.1.proj.")]),
            (Self::Timm | Self::TimmNamed, _) => Names(&[("conv.", "cpe1.proj."), ("channel_conv.", "cpe2.proj.")]),
            (Self::Florence2, DavitAttention::Spatial) => Names(&[
                ("conv.", "conv1.fn.dw."),
                ("norm.", "window_attn.norm."),
                ("mixer.", "window_attn.fn."),
                ("channel_conv.", "conv2.fn.dw."),
                ("channel_norm.", "ffn.norm."),
                ("mlp.up.", "ffn.fn.net.fc1."),
                ("mlp.down.", "ffn.fn.net.fc2."),
            ]),
            (Self::Florence2, DavitAttention::Channel) => Names(&[
                ("conv.", "conv1.fn.dw."),
                ("norm.", "channel_attn.norm."),
                ("mixer.", "channel_attn.fn."),
                ("channel_conv.", "conv2.fn.dw."),
                ("channel_norm.", "ffn.norm."),
                ("mlp.up.", "ffn.fn.net.fc1."),
                ("mlp.down.", "ffn.fn.net.fc2."),
            ]),
        }
    }

    /// Whether the blocks of a dual block have names.
    fn names_blocks(self) -> bool {
        matches!(self, Self::TimmNamed | Self::Florence2)
    }
}

/// The names of checkpoints of a network in a dialect.
#[derive(Clone, Debug)]
pub struct DavitNames {
    dialect: DavitDialect,
    attention: Vec<DavitAttention>,
}

impl DavitNames {
    /// Those of checkpoints of `model`.
    pub fn of(model: &Davit, dialect: DavitDialect) -> Self {
        Self { dialect, attention: model.config.attention.clone() }
    }

    /// `stages.0.blocks.3.1.` and what follows.
    fn in_block(&self, block: &str, rest: &str) -> String {
        let (dual, index) = block.trim_end_matches('.').rsplit_once('.').unwrap_or((block, "0"));
        let attention = index.parse().ok().and_then(|index: usize| self.attention.get(index)).copied();
        let attention = attention.unwrap_or(DavitAttention::Spatial);
        let named = match attention {
            DavitAttention::Spatial => "spatial_block",
            DavitAttention::Channel => "channel_block",
        };
        let begin = self.dialect.frame().rename(&format!("{dual}.")) + if self.dialect.names_blocks() { named } else { index };
        let rest = rest.replacen("mixer.Window.", "mixer.", 1).replacen("mixer.Channel.", "mixer.", 1);
        let own = self.dialect.parts(attention).rename(&rest);
        format!("{begin}.{}", if own == rest { BLOCK_NAMES.rename(&rest) } else { own })
    }
}

impl Layout for DavitNames {
    fn stored(&self, path: &str, shape: &[usize]) -> Vec<Stored> {
        let name = match split_block(path) {
            Some((block, rest)) => self.in_block(block, rest),
            None => self.dialect.frame().rename(path),
        };
        vec![Stored::new(name, shape)]
    }

    fn ignores(&self, name: &str) -> bool {
        // The other parts of that model.
        self.dialect == DavitDialect::Florence2 && !name.starts_with("vision_tower.convs.") && !name.starts_with("vision_tower.blocks.")
    }
}

/// Reads a checkpoint of any [dialect](DavitDialect) (any float type, any form that [`Checkpoint::open`] takes) into a network of its
/// configuration.
///
/// # Errors
/// If a tensor is missing or of another shape, or a file cannot be read.
pub fn read_weights(model: Davit, path: impl AsRef<Path>) -> weights::Result<(Davit, Report)> {
    let checkpoint = Checkpoint::open(path)?;
    let names = DavitNames::of(&model, DavitDialect::of(&checkpoint));
    weights::read(model, &names, &checkpoint)
}

/// Writes the weights in a dialect, as [`read_weights`] reads them, into one `.safetensors` file.
///
/// # Errors
/// If the file exists, or cannot be written.
pub fn write_weights(model: &Davit, dialect: DavitDialect, path: &Path) -> weights::Result<()> {
    weights::write(model, &DavitNames::of(model, dialect), path)
}
