use std::path::Path;

use super::KimiLinearConfig;
use crate::{
    Decoder,
    weights::{self, Checkpoint, Layout, Names, Report, Stored},
};

/// How the tensors of a checkpoint are named and cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// The published files: one convolution each for queries, keys and values, one tensor per matrix of an expert.
    Published,
    /// `transformers`: one convolution, all experts of a layer in one tensor.
    Transformers,
}

/// Names here (left) and in `transformers` (right), `{}` = number of the layer.
pub(super) const NAMES: Names = Names(&[
    ("embedding.", "model.embed_tokens."),
    ("blocks.{}.mixer_norm.", "model.layers.{}.input_layernorm."),
    ("blocks.{}.mixer.KimiDelta.forget_gate.a_log", "model.layers.{}.self_attn.forget_gate.A_log"),
    ("blocks.{}.mixer.KimiDelta.out_proj.", "model.layers.{}.self_attn.o_proj."),
    ("blocks.{}.mixer.KimiDelta.", "model.layers.{}.self_attn."),
    ("blocks.{}.mixer.Latent.out_proj.", "model.layers.{}.self_attn.o_proj."),
    ("blocks.{}.mixer.Latent.", "model.layers.{}.self_attn."),
    ("blocks.{}.mlp_norm.", "model.layers.{}.post_attention_layernorm."),
    ("blocks.{}.mlp.Dense.gate.", "model.layers.{}.mlp.gate_proj."),
    ("blocks.{}.mlp.Dense.up.", "model.layers.{}.mlp.up_proj."),
    ("blocks.{}.mlp.Dense.down.", "model.layers.{}.mlp.down_proj."),
    ("blocks.{}.mlp.Moe.shared_experts.gate.", "model.layers.{}.mlp.shared_experts.gate_proj."),
    ("blocks.{}.mlp.Moe.shared_experts.up.", "model.layers.{}.mlp.shared_experts.up_proj."),
    ("blocks.{}.mlp.Moe.shared_experts.down.", "model.layers.{}.mlp.shared_experts.down_proj."),
    ("blocks.{}.mlp.Moe.", "model.layers.{}.mlp."),
    ("norm.", "model.norm."),
    ("head.", "lm_head."),
]);

/// The layout of a dialect for a configuration.
struct KimiLayout {
    dialect: Dialect,
    /// Channels of queries and of keys in a convolution.
    keys: usize,
    tied: bool,
}

impl KimiLayout {
    fn new(model: &Decoder, config: &KimiLinearConfig, dialect: Dialect) -> Self {
        let width = config.kda.head_dim.unwrap_or(model.embedding.weight.lazy_shape()[1] / config.kda.heads.max(1));
        Self { dialect, keys: config.kda.heads * width, tied: config.tied }
    }
}

impl Layout for KimiLayout {
    fn stored(&self, path: &str, shape: &[usize]) -> Vec<Stored> {
        let name = NAMES.rename(path);
        let one = |name: String, shape: &[usize]| vec![Stored::new(name, shape)];
        if let Some(layer) = name.strip_suffix("conv1d.weight") {
            let [channels, kernel] = [shape[0], shape[1]];
            return match self.dialect {
                Dialect::Transformers => one(name, &[channels, 1, kernel]),
                Dialect::Published => [("q", self.keys), ("k", self.keys), ("v", channels - 2 * self.keys)]
                    .map(|(part, rows)| Stored::new(format!("{layer}{part}_conv1d.weight"), [rows, 1, kernel]))
                    .into(),
            };
        }
        let shape = if name.ends_with(".A_log") { &[1, 1, shape[0], 1] } else { shape };
        if self.dialect == Dialect::Transformers {
            return one(name, shape);
        }
        if let Some((layer, matrix)) = name.split_once(".mlp.experts.") {
            let parts: &[&str] = if matrix == "gate_up_proj" { &["w1", "w3"] } else { &["w2"] };
            let [experts, rows, columns] = [shape[0], shape[1] / parts.len(), shape[2]];
            let matrix = |e: usize, part: &str| format!("{layer}.block_sparse_moe.experts.{e}.{part}.weight");
            return (0..experts).flat_map(|e| parts.iter().map(move |part| Stored::new(matrix(e, part), [rows, columns]))).collect();
        }
        let mixture = [".mlp.gate.", ".mlp.shared_experts."].iter().any(|part| name.contains(part));
        let name = if mixture { name.replace(".mlp.", ".block_sparse_moe.") } else { name };
        one(name.replace(".forget_gate.", "."), shape)
    }

    fn ignores(&self, name: &str) -> bool {
        self.tied && name == "lm_head.weight"
    }
}

/// Reads a checkpoint, in either dialect and any form that [`Checkpoint::open`] takes, into a network of its configuration.
///
/// # Errors
/// If a tensor is missing or of another shape, or a file cannot be read.
pub fn read_weights(model: Decoder, config: &KimiLinearConfig, path: impl AsRef<Path>) -> weights::Result<(Decoder, Report)> {
    let checkpoint = Checkpoint::open(path)?;
    let published = checkpoint.names().any(|name| name.contains(".block_sparse_moe.") || name.contains(".q_conv1d."));
    let dialect = if published { Dialect::Published } else { Dialect::Transformers };
    let layout = KimiLayout::new(&model, config, dialect);
    weights::read(model, &layout, &checkpoint)
}

/// Writes the weights of a network of that configuration into one `.safetensors` file.
///
/// # Errors
/// If the file exists, or cannot be written.
pub fn write_weights(model: &Decoder, config: &KimiLinearConfig, dialect: Dialect, path: &Path) -> weights::Result<()> {
    weights::write(model, &KimiLayout::new(model, config, dialect), path)
}

/// The same into shards of at most `bytes` bytes with an index, see [`weights::write_shards`].
///
/// # Errors
/// If a file exists, or cannot be written.
pub fn write_shards(model: &Decoder, config: &KimiLinearConfig, dialect: Dialect, folder: &Path, bytes: usize) -> weights::Result<()> {
    weights::write_shards(model, &KimiLayout::new(model, config, dialect), folder, bytes)
}
