use crate::{vision::MapNames, weights::Names};

/// The names that the golden files of this project use: no code of the authors is public.
pub const NAMES: MapNames = MapNames {
    names: Names(&[("stages.{}.{}.mlp.up.", "stages.{}.{}.mlp.fc1."), ("stages.{}.{}.mlp.down.", "stages.{}.{}.mlp.fc2.")]),
    pointwise: &[".ssa.", ".mlp."],
};
