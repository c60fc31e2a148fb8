use std::path::Path;

use super::{config::NatLayout, model::Nat};
use crate::{
    vision::{BLOCK_NAMES, split_block},
    weights::{self, Checkpoint, Layout, Names, Report, Stored},
};

/// The authors' names of NAT and DiNAT.
const OVERLAPPING: Names = Names(&[("levels.{}.downsample.Conv.", "levels.{}.downsample.")]);

/// Those of DiNAT_s.
const PATCHES: Names = Names(&[
    ("patch_embed.proj.0.", "patch_embed.proj."),
    ("levels.{}.downsample.Merge.", "layers.{}.downsample."),
    ("levels.", "layers."),
]);

/// Those of the isotropic networks.
const ISOTROPIC: Names = Names(&[("patch_embed.proj.0.", "patch_embed.proj."), ("levels.0.blocks.", "layers.")]);

/// The names of the authors' checkpoints.
#[derive(Clone, Copy, Debug)]
pub struct NatNames(Names);

impl NatNames {
    /// Those of checkpoints of that network.
    pub fn of(model: &Nat) -> Self {
        Self(match model.config.layout {
            NatLayout::Overlapping => OVERLAPPING,
            NatLayout::Patches(_) if model.levels.len() == 1 => ISOTROPIC,
            NatLayout::Patches(_) => PATCHES,
        })
    }
}

impl Layout for NatNames {
    fn stored(&self, path: &str, shape: &[usize]) -> Vec<Stored> {
        let name = match split_block(path) {
            Some((block, rest)) => self.0.rename(block) + &BLOCK_NAMES.rename(rest),
            None => self.0.rename(path),
        };
        vec![Stored::new(name, shape)]
    }

    fn ignores(&self, name: &str) -> bool {
        // A table of indices that follows from the size of the map.
        name.ends_with(".relative_position_index")
    }
}

/// Reads a checkpoint of the authors' (any float type, any form that [`Checkpoint::open`] takes) into a network of its configuration.
///
/// # Errors
/// If a tensor is missing or of another shape, or a file cannot be read.
pub fn read_weights(model: Nat, path: impl AsRef<Path>) -> weights::Result<(Nat, Report)> {
    let names = NatNames::of(&model);
    weights::read(model, &names, &Checkpoint::open(path)?)
}

/// Writes the weights under the authors' names, as [`read_weights`] reads them, into one `.safetensors` file.
///
/// # Errors
/// If the file exists, or cannot be written.
pub fn write_weights(model: &Nat, path: &Path) -> weights::Result<()> {
    weights::write(model, &NatNames::of(model), path)
}
