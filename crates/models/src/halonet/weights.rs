use crate::{vision::MapNames, weights::Names};

/// The names of timm's `byoanet` checkpoints.
pub const NAMES: MapNames = MapNames {
    names: Names(&[
        ("stem.0.", "stem.conv1."),
        ("stem.1.", "stem.conv2."),
        ("stem.2.", "stem.conv3."),
        ("stages.{}.{}.mixer.Conv.attn.SqueezeExcite.", "stages.{}.{}.attn."),
        ("stages.{}.{}.mixer.Conv.attn.Efficient.", "stages.{}.{}.attn."),
        ("stages.{}.{}.mixer.Conv.", "stages.{}.{}."),
        ("stages.{}.{}.mixer.Attention.self_attn.height_rel", "stages.{}.{}.self_attn.pos_embed.height_rel"),
        ("stages.{}.{}.mixer.Attention.self_attn.width_rel", "stages.{}.{}.self_attn.pos_embed.width_rel"),
        ("stages.{}.{}.mixer.Attention.", "stages.{}.{}."),
        ("head.", "head.fc."),
    ]),
    pointwise: &[".self_attn.q.", ".self_attn.kv.", ".attn.fc"],
};
