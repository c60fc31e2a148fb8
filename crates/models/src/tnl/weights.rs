use std::path::Path;

use burn::{
    store::{
        BurnToPyTorchAdapter, FloatCastAdapter, KeyRemapper, ModuleAdapter, ModuleSnapshot, PyTorchToBurnAdapter, SafetensorsStore,
        SafetensorsStoreError,
    },
    tensor::DType,
};

use crate::Decoder;

/// Names of weights here (left) and in the released checkpoints (right), `{}` = number of the layer.
pub(super) const NAMES: &[(&str, &str)] = &[
    ("embedding.", "model.embed_tokens."),
    ("blocks.{}.mixer.", "model.layers.{}.token_mixer."),
    ("blocks.{}.mlp.gate.", "model.layers.{}.channel_mixer.l1."),
    ("blocks.{}.mlp.up.", "model.layers.{}.channel_mixer.l2."),
    ("blocks.{}.mlp.down.", "model.layers.{}.channel_mixer.l3."),
    ("head.", "lm_head."),
];

/// Renames prefixes by the pairs `(from, to)`.
fn remapper<'a>(pairs: impl Iterator<Item = (&'a str, &'a str)>) -> KeyRemapper {
    pairs.fold(KeyRemapper::new(), |remapper, (from, to)| {
        let from = format!("^{}", from.replace('.', r"\.").replace("{}", r"(\d+)"));
        remapper.add_pattern(from, to.replace("{}", "$1")).expect("the table holds plain names")
    })
}

/// Reads the weights of a released checkpoint (`.safetensors`, the authors' names, any float type) into a network of its
/// configuration; they become f32. `lm_head.weight` may be missing or present in a checkpoint with a tied head, and is not read there.
///
/// # Errors
/// If the file cannot be read, lacks a weight, or holds one of another shape.
pub fn read_weights(mut model: Decoder, path: &Path) -> Result<Decoder, SafetensorsStoreError> {
    let mut store = SafetensorsStore::from_file(path)
        .with_from_adapter(PyTorchToBurnAdapter.chain(FloatCastAdapter::to(DType::F32)))
        .skip_enum_variants(true)
        .remap(remapper(NAMES.iter().map(|&(here, there)| (there, here))));
    model.load_from(&mut store)?;
    Ok(model)
}

/// Writes the weights under the authors' names, as [`read_weights`] reads them. A tied head is not written twice.
///
/// # Errors
/// If the file exists or cannot be written.
pub fn write_weights(model: &Decoder, path: &Path) -> Result<(), SafetensorsStoreError> {
    let mut store = SafetensorsStore::from_file(path)
        .with_to_adapter(BurnToPyTorchAdapter)
        .skip_enum_variants(true)
        .remap(remapper(NAMES.iter().copied()));
    model.save_into(&mut store)
}
