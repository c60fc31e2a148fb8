use burn::tensor::Tensor;
use regard::{
    Mixer, MixerConfig,
    blocks::{MlpKind, NormKind},
    flow_attention::{FlowAttentionConfig, FlowFeatureMap},
};
use regard_models::{EncoderConfig, Model, Pool};
use regard_train::{
    Budget, ClassifyConfig, EvalConfig, OptimizerConfig, Run, RunConfig, Split, Task, TaskConfig, TrainConfig,
    data::{self, DataConfig},
    tasks::Samples,
};

use super::super::{Finding, Lab, Verdict, values::mean};
use crate::{Error, Result};

const DATA: &str = "cifar10-jpeg";
const HEADS: usize = 4;
/// Images over which the entropy is averaged, and how many at a time.
const SEEN: usize = 64;
const AT_ONCE: usize = 4;

pub(super) fn test(lab: &mut Lab<'_, '_>) -> Result<Finding> {
    if data::locate(DATA).is_none() {
        return Ok(Finding::none(Verdict::NotTestable(format!("the data set {DATA} is not on this machine: see `regard data list`"))));
    }
    let models = [("flow", "Flow attention", true), ("linear", "linear attention", false)];
    let (mut rows, mut each, mut holds) = (Vec::new(), Vec::new(), true);
    let seeds = lab.seeds(1, 1);
    let all = seeds.iter().flat_map(|&seed| models.map(|(name, _, whole)| (format!("flowformer-pixels-{name}"), whole, seed)));
    let runs: Vec<_> = all.map(|(name, whole, seed)| (name, config(lab, whole, seed))).collect();
    let trained = lab.train_all(&runs)?;
    for (seed, trained) in seeds.iter().zip(trained.chunks(models.len())) {
        let mut found = Vec::new();
        for ((_, text, _), trained) in models.iter().zip(trained) {
            let accuracy = trained.evaluation.accuracy.unwrap_or(f64::NAN);
            lab.note(&format!("entropy of {text}, seed {seed}"))?;
            let run = Run::open(&trained.dir)?;
            let entropy = entropy(&run.model(&lab.device())?, run.config(), lab)?;
            rows.push(vec![(*text).to_owned(), seed.to_string(), format!("{entropy:.4}"), format!("{:.2} %", 100.0 * accuracy)]);
            found.push((entropy, accuracy));
        }
        holds &= found[0].0 < found[1].0 && found[0].1 >= found[1].1 - 0.005;
        let part = |(entropy, accuracy): (f64, f64)| format!("{entropy:.4} at {:.2} %", 100.0 * accuracy);
        each.push(format!("{} / {}", part(found[0]), part(found[1])));
    }
    let shrink = lab.quick_or(2, 1);
    let side = 32 / shrink;
    Ok(Finding::new(holds, format!("mean entropy over log S and accuracy of Flow / linear attention: {}", each.join("; ")))
        .note(format!(
            "one layer of width 128, {HEADS} heads, MLP of 128, a class token, learned positions, φ = relu + 1e-6 without bounds, {side} × {side} gray \
             pixels of {DATA}, {}; entropies over {SEEN} validation images, heads and queries; accuracy over all 2,000 of them",
            lab.quick_or("40 steps of 64 images", "3 epochs of 18,000 images in steps of 256, rate 5e-4")
        ))
        .note("the projections are as wide as the layer (128); the Long Range Arena's setting has 64, and a hidden layer before the classes")
        .table("Entropy and accuracy", &["mixer", "seed", "entropy / log S", "accuracy"], rows))
}

fn config(lab: &Lab<'_, '_>, whole: bool, seed: u64) -> RunConfig {
    let attention = FlowAttentionConfig {
        bias: false,
        feature_map: FlowFeatureMap::Relu,
        clamp: None,
        competition: whole,
        allocation: whole,
        ..FlowAttentionConfig::new(HEADS)
    };
    let model = EncoderConfig {
        d_ff: 128,
        mlp: MlpKind::Gelu,
        norm: NormKind::Layer,
        pool: Pool::Class,
        bias: true,
        ..EncoderConfig::open(128, 1, vec![MixerConfig::Flow(attention)])
    };
    // 3 epochs of 18,000 images.
    let (batch, passes, steps) = lab.quick_or((64, 1, 40), (32, 8, 3 * 18_000 / 256));
    RunConfig {
        seed,
        task: TaskConfig::Classify(ClassifyConfig { shrink: lab.quick_or(2, 1), ..ClassifyConfig::default() }),
        data: Some(DataConfig::new(DATA)),
        model: model.into(),
        train: TrainConfig { grad_accumulation: passes, log_every: 10, ..TrainConfig::new(batch, Budget::Steps(steps)) },
        optimizer: OptimizerConfig {
            rate: lab.quick_or(2e-3, 5e-4),
            final_rate: 0.0,
            warmup: steps / 20,
            beta2: 0.98,
            ..OptimizerConfig::default()
        },
        // All images, at the end alone where it is to be quick.
        eval: EvalConfig { every: lab.quick_or(steps, steps.div_ceil(6)), tokens: 1 << 22, batch: Some(32), ..EvalConfig::default() },
    }
}

/// Mean entropy of the implied weights of the first layer, each row normalised to 1, over log S.
fn entropy(model: &Model, config: &RunConfig, lab: &Lab<'_, '_>) -> Result<f64> {
    let encoder = model.encoder().ok_or_else(|| Error::value("model", "an encoder", "another"))?;
    let Mixer::Flow(layer) = &encoder.blocks[0].mixer else { return Err(Error::value("mixers", "flow", encoder.blocks[0].mixer.kind())) };
    let device = lab.device();
    let length = config.model.context();
    let (batches, _) = Task::load(config)?.evaluation(Split::Valid, SEEN * length, AT_ONCE, length)?;
    let mut means = Vec::new();
    for samples in &batches {
        let Samples::Examples(examples) = samples else { continue };
        let Some(ids) = examples.tokens(&device) else { continue };
        let x = encoder.blocks[0].mixer_norm.forward(encoder.embed_tokens(ids)?);
        means.push(mean_entropy(layer.weights(x)?));
    }
    Ok(mean(&means))
}

/// Mean over all rows of `−Σ p ln p / ln S`, `p` the row divided by its sum.
fn mean_entropy(weights: Tensor<4>) -> f64 {
    let s = weights.dims()[3] as f64;
    let p = weights.clone() / weights.sum_dim(3);
    // x ln x is 0 at 0.
    let terms = p.clone() * p.clamp_min(1e-30).log();
    -f64::from(terms.sum_dim(3).mean().into_scalar::<f32>()) / s.ln()
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, TensorData};

    use super::*;

    #[test]
    fn the_entropy_is_1_for_a_plain_average_and_0_for_a_choice() {
        let of = |row: [f32; 4]| mean_entropy(Tensor::from_data(TensorData::new(row.to_vec(), [1, 1, 1, 4]), &Device::flex()));
        assert!((of([3.0; 4]) - 1.0).abs() < 1e-6);
        assert!(of([0.0, 2.0, 0.0, 0.0]).abs() < 1e-6);
        assert!((of([5.0, 5.0, 0.0, 0.0]) - 0.5).abs() < 1e-6);
    }
}
