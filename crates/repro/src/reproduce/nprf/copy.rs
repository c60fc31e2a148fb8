use rand::RngExt;
use regard::nprf::NprfConfig;
use regard_models::NprfLmConfig;
use regard_train::{Budget, CopyConfig, EvalConfig, OptimizerConfig, RunConfig, TaskConfig, TrainConfig};

use super::super::{
    Figure, FigureKind, Finding, Lab,
    values::{generator, mean},
};
use crate::Result;

const CONTEXT: usize = 64;
const HEADS: usize = 4;
const WIDTH: usize = 64;
const BATCH: usize = 16;
const FARTHEST: usize = 16;
const RATE: f64 = 1e-2;

pub(super) fn test(lab: &mut Lab<'_, '_>) -> Result<Finding> {
    let steps = lab.quick_or(300, 1000);
    let arms = [("with biases", "nprf-copy-rpe", true), ("without", "nprf-copy-plain", false)];
    let (mut accuracies, mut rows, mut lines) = ([Vec::new(), Vec::new()], Vec::new(), Vec::new());
    let seeds: Vec<_> = lab.seeds(1, 3).into_iter().map(|seed| (seed, generator(seed).random_range(1..=FARTHEST))).collect();
    let run = |(seed, distance): (u64, usize)| arms.map(|(_, name, rpe)| (name.to_owned(), config(rpe, distance, steps, seed)));
    let runs: Vec<_> = seeds.iter().flat_map(|&drawn| run(drawn)).collect();
    for ((seed, distance), trained) in seeds.iter().zip(lab.train_all(&runs)?.chunks(arms.len())) {
        for (arm, ((title, ..), trained)) in arms.iter().zip(trained).enumerate() {
            let accuracy = trained.evaluation.accuracy.unwrap_or(f64::NAN);
            accuracies[arm].push(accuracy);
            rows.push(vec![(*title).to_owned(), seed.to_string(), distance.to_string(), format!("{:.1} %", 100.0 * accuracy)]);
            let points = trained.accuracy.iter().map(|(step, accuracy)| (*step as f64, 100.0 * accuracy)).collect();
            lines.push((format!("{title}, seed {seed}, k = {distance}"), points));
        }
    }
    let [with, without] = accuracies.map(|a| mean(&a));
    let measured = format!("accuracy {:.1} % with biases, {:.1} % without", 100.0 * with, 100.0 * without);
    Ok(Finding::new(with > 0.95 && without < 0.5, measured)
        .note(format!(
            "the distance k is drawn from 1 to {FARTHEST}, one for each seed; 16 symbols in random order, sequences of {CONTEXT}"
        ))
        .note(format!("two blocks of width {WIDTH}, {HEADS} heads, {steps} steps of {BATCH} sequences, AdamW at {RATE}, no weight decay"))
        .table("Accuracy", &["arm", "seed", "k", "accuracy"], rows)
        .figure(Figure::new("Accuracy on positions that have a token k places back", FigureKind::Accuracy, lines)))
}

fn config(rpe: bool, distance: usize, steps: usize, seed: u64) -> RunConfig {
    let task = CopyConfig { distance, ..CopyConfig::default() };
    let new = NprfLmConfig::new(0, WIDTH, 2, HEADS, CONTEXT);
    let model = NprfLmConfig { mixer: NprfConfig { rpe, ..new.mixer.clone() }, ..new }.decoder();
    RunConfig {
        seed,
        task: TaskConfig::Copy(task),
        data: None,
        model: model.into(),
        train: TrainConfig::new(BATCH, Budget::Steps(steps)),
        optimizer: OptimizerConfig {
            rate: RATE,
            final_rate: RATE / 10.0,
            warmup: steps / 10,
            beta2: 0.95,
            weight_decay: 0.0,
            ..OptimizerConfig::default()
        },
        eval: EvalConfig { every: (steps / 10).max(1), tokens: 16_384, ..EvalConfig::default() },
    }
}
