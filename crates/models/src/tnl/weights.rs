use std::path::Path;

use crate::{
    Decoder,
    weights::{self, Checkpoint, Layout, Names, Report, Stored},
};

/// Names here (left) and in the released checkpoints (right), `{}` = number of the layer.
pub(super) const NAMES: Names = Names(&[
    ("embedding.", "model.embed_tokens."),
    ("blocks.{}.mixer.Lightning.", "model.layers.{}.token_mixer."),
    ("blocks.{}.mlp.Dense.gate.", "model.layers.{}.channel_mixer.l1."),
    ("blocks.{}.mlp.Dense.up.", "model.layers.{}.channel_mixer.l2."),
    ("blocks.{}.mlp.Dense.down.", "model.layers.{}.channel_mixer.l3."),
    ("head.", "lm_head."),
]);

/// The authors' names.
struct Official {
    tied: bool,
}

impl Official {
    fn of(model: &Decoder) -> Self {
        Self { tied: model.head.is_none() }
    }
}

impl Layout for Official {
    fn stored(&self, path: &str, shape: &[usize]) -> Vec<Stored> {
        NAMES.stored(path, shape)
    }

    fn ignores(&self, name: &str) -> bool {
        self.tied && name == "lm_head.weight"
    }
}

/// Reads a released checkpoint (the authors' names, any float type, any form that [`Checkpoint::open`] takes) into a network of its
/// configuration. `lm_head.weight` may be missing or present in a checkpoint with a tied head, and is not read there.
///
/// # Errors
/// If a tensor is missing or of another shape, or a file cannot be read.
pub fn read_weights(model: Decoder, path: impl AsRef<Path>) -> weights::Result<(Decoder, Report)> {
    let layout = Official::of(&model);
    weights::read(model, &layout, &Checkpoint::open(path)?)
}

/// Writes the weights under the authors' names, as [`read_weights`] reads them, into one `.safetensors` file. A tied head is not written
/// twice.
///
/// # Errors
/// If the file exists, or cannot be written.
pub fn write_weights(model: &Decoder, path: &Path) -> weights::Result<()> {
    weights::write(model, &Official::of(model), path)
}
