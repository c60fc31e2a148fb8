use crate::weights::{Layout, Names, Stored};

/// The names of the published language model, `{}` = number of the layer.
pub const LANGUAGE_NAMES: Names = Names(&[
    ("embedding.", "transformer.wte."),
    ("positions.", "transformer.wpe."),
    ("blocks.{}.mixer_norm.", "transformer.h.{}.ln_1."),
    ("blocks.{}.mixer.Flow.out_proj.", "transformer.h.{}.attn.out_projection."),
    ("blocks.{}.mixer.Flow.", "transformer.h.{}.attn."),
    ("blocks.{}.mlp_norm.", "transformer.h.{}.ln_2."),
    ("blocks.{}.mlp.Dense.up.", "transformer.h.{}.mlp.c_fc."),
    ("blocks.{}.mlp.Dense.down.", "transformer.h.{}.mlp.c_proj."),
    ("norm.", "transformer.ln_f."),
    ("head.", "lm_head."),
]);

const VISION_NAMES: Names = Names(&[
    ("blocks.{}.{}.attn.Flow.out_proj.", "blocks.{}.{}.attn.proj."),
    ("blocks.{}.{}.attn.Flow.", "blocks.{}.{}.attn."),
    ("blocks.{}.{}.mlp.up.", "blocks.{}.{}.mlp.fc1."),
    ("blocks.{}.{}.mlp.down.", "blocks.{}.{}.mlp.fc2."),
]);

const SERIES_NAMES: Names = Names(&[
    ("pos_enc", "pos_enc.pe"),
    ("layers.{}.attention.out_proj.", "encoder.attn_layers.{}.attention.out_projection."),
    ("layers.{}.", "encoder.attn_layers.{}."),
    ("norm.", "encoder.norm."),
]);

/// The checkpoints of the published vision model.
#[derive(Clone, Copy, Debug)]
pub struct VisionLayout;

impl Layout for VisionLayout {
    fn stored(&self, path: &str, shape: &[usize]) -> Vec<Stored> {
        let mut stored = Stored::new(VISION_NAMES.rename(path), shape);
        if path == "pos_embed" {
            stored.shape.insert(0, 1);
        }
        vec![stored]
    }
}

/// The checkpoints of the published model of time series.
#[derive(Clone, Copy, Debug)]
pub struct SeriesLayout;

impl Layout for SeriesLayout {
    fn stored(&self, path: &str, shape: &[usize]) -> Vec<Stored> {
        let mut stored = Stored::new(SERIES_NAMES.rename(path), shape);
        if path == "pos_enc" {
            stored.shape.insert(1, 1);
        } else if path.contains(".conv") && path.ends_with(".weight") {
            stored.shape.push(1);
        }
        vec![stored]
    }
}
