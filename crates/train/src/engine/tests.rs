use std::{
    fs,
    path::Path,
    sync::{
        Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use burn::tensor::Device;
use regard::MixerConfig;
use regard_models::{DecoderConfig, EncoderConfig, ModelConfig, Positions};

use super::*;
use crate::{ControlConfig, Error, ListOpsConfig, LmConfig, RecallConfig, SeriesConfig, TaskConfig, data::DataConfig};

mod checkpoints;
mod examples;
mod experts;
mod images;
mod precision;
mod refusals;
mod resume;
mod side_by_side;
mod training;

/// The CPU backend draws all random numbers of a process from one generator: tests that train or draw take turns.
pub(super) fn alone() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn model() -> DecoderConfig {
    let mixers = vec![MixerConfig::named("softmax", 2).unwrap()];
    DecoderConfig { d_ff: 16, ..DecoderConfig::new(0, 8, 1, mixers, 12) }
}

/// The decoder of a run.
fn decoder(config: &mut RunConfig) -> &mut DecoderConfig {
    let ModelConfig::Decoder(model) = &mut config.model else { panic!("another model") };
    model
}

fn recall() -> RunConfig {
    RunConfig {
        seed: 3,
        task: TaskConfig::Recall(RecallConfig { vocab: 9, pairs: 2 }),
        data: None,
        model: model().into(),
        train: TrainConfig { log_every: 1, ..TrainConfig::new(4, Budget::Steps(12)) },
        optimizer: OptimizerConfig { rate: 1e-2, warmup: 2, ..OptimizerConfig::default() },
        eval: EvalConfig { every: 5, tokens: 48, ..EvalConfig::default() },
    }
}

fn short_lists() -> ListOpsConfig {
    ListOpsConfig { min_length: 4, max_length: 20, depth: 3, arguments: 4 }
}

fn control() -> TaskConfig {
    TaskConfig::Control(ControlConfig { episodes: 20, steps: 8, window: 5 })
}

/// A run of a task with examples and an encoder with dropout.
fn examples(task: TaskConfig) -> RunConfig {
    let causal = matches!(task, TaskConfig::Control(_));
    let model = EncoderConfig { causal, dropout: 0.2, d_ff: 16, ..EncoderConfig::open(8, 1, vec![MixerConfig::named("flow", 2).unwrap()]) };
    RunConfig { task, model: model.into(), ..recall() }
}

fn text() -> RunConfig {
    RunConfig { task: TaskConfig::Lm(LmConfig {}), data: Some(DataConfig::new("embedded")), ..recall() }
}

fn train(config: &RunConfig, dir: &Path) -> Outcome {
    Trainer::create(config, dir, &Device::flex()).unwrap().run(Hooks::default()).unwrap()
}

/// Sets a flag when a step has been logged.
struct StopAt<'a> {
    step: usize,
    flag: &'a AtomicBool,
}

impl Observer for StopAt<'_> {
    fn event(&mut self, event: &Event<'_>) {
        if matches!(event, Event::Step(record) if record.step == self.step) {
            self.flag.store(true, Ordering::Relaxed);
        }
    }
}

/// Runs until the step after `step`, as a signal would stop it.
fn stop_after(trainer: Trainer, step: usize) -> Outcome {
    let flag = AtomicBool::new(false);
    let mut observer = StopAt { step, flag: &flag };
    trainer.run(Hooks { stop: Some(&flag), observer: Some(&mut observer), memory: None }).unwrap()
}

/// Everything of a run but its times.
fn numbers(dir: &Path) -> Vec<String> {
    let timeless = |record| match record {
        Record::Step(record) => Record::Step(StepRecord { seconds: 0.0, ..record }),
        Record::Eval(record) => Record::Eval(EvalRecord { seconds: 0.0, ..record }),
    };
    let records = Run::open(dir).unwrap().metrics().unwrap();
    // JSON prints each number with the digits that tell it from its neighbours: equal lines are equal bits.
    records.into_iter().map(|record| serde_json::to_string(&timeless(record)).unwrap()).collect()
}
