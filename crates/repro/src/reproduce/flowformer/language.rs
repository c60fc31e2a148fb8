use regard::{
    MixerConfig,
    blocks::{MlpKind, NormKind},
    flow_attention::{FlowAttentionConfig, FlowFeatureMap},
    softmax_attention::SoftmaxAttentionConfig,
};
use regard_models::{DecoderConfig, Positions};

use super::super::{
    Figure, FigureKind, Finding, Lab,
    lab::{Recipe, Trained, text},
};
use crate::Result;

/// The setting of claims 2 and 3.
pub(super) struct Setting {
    d_model: usize,
    layers: usize,
    recipe: Recipe,
}

pub(super) const HEADS: usize = 4;

impl Setting {
    pub(super) fn of(lab: &Lab<'_, '_>) -> Self {
        let quick = Recipe { context: 96, batch: 12, steps: 150, rate: 2e-3, warmup: 20, beta2: 0.95 };
        let own = Recipe { context: 256, batch: 12, steps: 5000, rate: 1e-3, warmup: 100, beta2: 0.95 };
        lab.quick_or(Self { d_model: 64, layers: 2, recipe: quick }, Self { d_model: 128, layers: 4, recipe: own })
    }

    /// The GPT module: learned positions, LayerNorm before each part, GELU, a head of its own.
    fn model(&self, mixer: MixerConfig) -> DecoderConfig {
        DecoderConfig {
            d_ff: 4 * self.d_model,
            mlp: MlpKind::Gelu,
            norm: NormKind::Layer,
            positions: Positions::Learned,
            tied: false,
            bias: true,
            ..DecoderConfig::new(256, self.d_model, self.layers, vec![mixer], self.recipe.context)
        }
    }

    /// Trains a model with each mixer and seed; by seed, in the order of the mixers.
    pub(super) fn train(&self, lab: &mut Lab<'_, '_>, mixers: &[(&str, MixerConfig)], seeds: &[u64]) -> Result<Vec<Vec<Trained>>> {
        let runs = seeds.iter().flat_map(|&seed| mixers.iter().map(move |mixer| (seed, mixer)));
        let runs: Vec<_> = runs
            .map(|(seed, (name, mixer))| (format!("flowformer-{name}"), lab.language(self.model(mixer.clone()), self.recipe, seed)))
            .collect();
        let trained = lab.train_all(&runs)?;
        Ok(trained.chunks(mixers.len()).map(<[_]>::to_vec).collect())
    }

    pub(super) fn describe(&self) -> String {
        let Recipe { context, batch, steps, rate, .. } = self.recipe;
        format!(
            "{} layers of width {}, {HEADS} heads, context {context}, {steps} steps of {batch} sequences, AdamW at {rate}, bytes of {}",
            self.layers,
            self.d_model,
            text().source
        )
    }
}

/// Flow attention with competition and allocation, or without.
pub(super) fn flow(competition: bool, allocation: bool) -> MixerConfig {
    MixerConfig::Flow(FlowAttentionConfig { competition, allocation, ..FlowAttentionConfig::new(HEADS) })
}

/// Linear attention, `φ = elu + 1`, normalised by the sum over the tokens so far: what remains of Flow attention without competition and
/// allocation.
fn linear() -> MixerConfig {
    let config = FlowAttentionConfig { competition: false, allocation: false, ..FlowAttentionConfig::new(HEADS) };
    MixerConfig::Flow(FlowAttentionConfig { feature_map: FlowFeatureMap::Elu, ..config })
}

/// Softmax attention of as many heads, without positions of its own.
pub(super) fn softmax() -> MixerConfig {
    MixerConfig::Softmax(SoftmaxAttentionConfig { rotary_base: None, bias: true, ..SoftmaxAttentionConfig::new(HEADS) })
}

pub(super) fn test(lab: &mut Lab<'_, '_>) -> Result<Finding> {
    let setting = Setting::of(lab);
    let models = [("flow", flow(true, true)), ("linear", linear()), ("softmax", softmax())];
    let (mut rows, mut lines, mut wins) = (Vec::new(), Vec::new(), Vec::new());
    let seeds = lab.seeds(2, 2);
    for (seed, trained) in seeds.iter().zip(setting.train(lab, &models, &seeds)?) {
        let mut losses = Vec::new();
        for ((name, _), trained) in models.iter().zip(trained) {
            losses.push(trained.evaluation.loss);
            rows.push(vec![(*name).to_owned(), seed.to_string(), format!("{:.4}", trained.evaluation.loss)]);
            lines.push((format!("{name}, seed {seed}"), trained.curve));
        }
        wins.push((losses[0] < losses[1], losses));
    }
    let each: Vec<_> = wins.iter().map(|(_, l)| format!("{:.4} / {:.4} / {:.4}", l[0], l[1], l[2])).collect();
    let overtaken = (0..seeds.len()).map(|s| overtakes(&lines[3 * s].1, &lines[3 * s + 1].1));
    let overtaken: Vec<_> = overtaken.map(|t| t.map_or("never".into(), |t| format!("after {t:.0} tokens"))).collect();
    Ok(Finding::new(wins.iter().all(|(below, _)| *below), format!("loss of flow / linear / softmax in nats per byte: {}", each.join("; ")))
        .note(setting.describe())
        .note(format!("Flow is below linear attention from its evaluation on: {} (by seed)", overtaken.join(", ")))
        .table("Losses", &["mixer", "seed", "validation loss"], rows)
        .figure(Figure::new("Validation loss", FigureKind::Loss, lines)))
}

/// Tokens from which on the first curve stays below the second.
fn overtakes(curve: &[(f64, f64)], other: &[(f64, f64)]) -> Option<f64> {
    let above = curve.iter().zip(other).rposition(|(a, b)| a.1 >= b.1);
    curve.get(above.map_or(0, |last| last + 1)).map(|point| point.0)
}
