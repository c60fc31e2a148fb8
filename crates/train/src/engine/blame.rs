use std::{fs, path::Path};

use burn::tensor::Device;
use regard::{LayerPlace, MixerConfig};
use regard_models::{MapMixerConfig, ModelConfig};

use super::config::RunConfig;
use crate::{Error, toml_file::line_of};

impl Error {
    /// A value that breaks a rule, with the line of `file` where it stands; `config` is what was read from there. Any other error as it
    /// is.
    #[must_use]
    pub fn in_file(self, file: &Path, config: &RunConfig) -> Self {
        let key = match &self {
            Self::Value { key, .. } => (*key).to_owned(),
            Self::Model(error) => match key_of(&config.model, error) {
                Some(key) => key,
                None => return self,
            },
            _ => return self,
        };
        let line = fs::read_to_string(file).ok().and_then(|text| line_of(&text, &key));
        Self::Config { path: Some(file.into()), line, message: self.to_string(), suggestion: None }
    }
}

/// The path to the value that a model rejects.
fn key_of(model: &ModelConfig, error: &regard::Error) -> Option<String> {
    let regard::Error::Argument { op, arg, .. } = error else { return None };
    let (mixers, layers): (&[MixerConfig], usize) = match model {
        ModelConfig::Decoder(config) => (&config.mixers, config.layers),
        ModelConfig::Encoder(config) => (&config.mixers, config.layers),
        _ => (&[], 0),
    };
    // A mixer says what is wrong with it, not which one it is.
    let rejects = |index: &usize| {
        let place = LayerPlace { index: *index, count: layers.max(index + 1) };
        mixers[*index].init(model.d_model(), place, &Device::flex()).is_err_and(|own| own == *error)
    };
    if model.kind() == *op {
        return Some(format!("model.{arg}"));
    }
    if let ModelConfig::Image(config) = model {
        let index = config.mixers.iter().map(MapMixerConfig::kind).position(|kind| kind == *op);
        return Some(index.map_or_else(|| format!("model.{arg}"), |index| format!("model.mixers[{index}].{arg}")));
    }
    Some(match (0..mixers.len()).find(rejects) {
        Some(index) => format!("model.mixers[{index}].{arg}"),
        None if *op == "moe" => format!("model.moe.{arg}"),
        None => format!("model.{arg}"),
    })
}
