use std::{path::PathBuf, time::Duration};

use burn::tensor::Device;
use regard_models::DecoderConfig;
use regard_train::{
    Budget, EvalConfig, Evaluation, Event, Hooks, LmConfig, MemoryMeter, Observer, OptimizerConfig, Record, Run, RunConfig, Status,
    TaskConfig, TrainConfig, Trainer,
    data::{self, DataConfig},
};

use super::{Context, ReproduceEvent, Scale};
use crate::{
    Error, Result,
    measure::{Cost, Patience, measure},
};

/// Where an experiment works: what it may use, and how much it may take on.
pub struct Lab<'a, 'b> {
    /// How much it takes on.
    pub(super) scale: Scale,
    pub(super) asked_seeds: Option<usize>,
    /// The folder of all trainings. A training belongs to its name: claims that need the same one share it.
    pub(super) runs: PathBuf,
    pub(super) out: PathBuf,
    pub(super) context: &'a mut Context<'b>,
}

/// A model that was trained.
#[derive(Clone, Debug)]
pub(super) struct Trained {
    pub(super) params: usize,
    pub(super) evaluation: Evaluation,
    /// The folder of the run.
    pub(super) dir: PathBuf,
    /// Validation loss after numbers of training tokens.
    pub(super) curve: Vec<(f64, f64)>,
    /// Accuracy after numbers of steps, where the task has one.
    pub(super) accuracy: Vec<(usize, f64)>,
}

/// A short language-model training, alike for all models but for the model.
#[derive(Clone, Copy, Debug)]
pub(super) struct Recipe {
    pub(super) context: usize,
    pub(super) batch: usize,
    pub(super) steps: usize,
    pub(super) rate: f64,
    pub(super) warmup: usize,
    pub(super) beta2: f64,
}

impl Lab<'_, '_> {
    /// The device without automatic differentiation.
    pub(super) fn device(&self) -> Device {
        self.context.device.clone().inner()
    }

    pub(super) fn is_quick(&self) -> bool {
        self.scale == Scale::Quick
    }

    /// What is for quick tests, or what the claim's own setting says.
    pub(super) fn quick_or<T>(&self, quick: T, own: T) -> T {
        if self.is_quick() { quick } else { own }
    }

    /// The seeds of trainings: as many as were asked for, or the claim's own number.
    pub(super) fn seeds(&self, quick: usize, own: usize) -> Vec<u64> {
        (1..=self.asked_seeds.unwrap_or(self.quick_or(quick, own)) as u64).collect()
    }

    /// Tells of progress, and ends the experiment if the caller has asked for it.
    pub(super) fn note(&mut self, text: &str) -> Result<()> {
        self.context.emit(&ReproduceEvent::Note { text });
        if self.context.stopped() { Err(Error::Stopped { path: self.out.clone() }) } else { Ok(()) }
    }

    /// Measures work that waits for its device.
    pub(super) fn measure(&self, repetitions: usize, work: impl FnMut()) -> Cost {
        measure(self.context.memory, Patience { repetitions, enough: Duration::from_secs(self.quick_or(6, 60)) }, work)
    }

    /// The meter of memory, or why there is none.
    pub(super) fn memory(&self) -> Result<MemoryMeter, String> {
        self.context.memory.ok_or_else(|| "this program does not count its memory".to_owned())
    }

    /// The configuration of a language-model run on [`text`].
    pub(super) fn language(&self, model: DecoderConfig, recipe: Recipe, seed: u64) -> RunConfig {
        RunConfig {
            seed,
            task: TaskConfig::Lm(LmConfig {}),
            data: Some(text()),
            model: DecoderConfig { context: recipe.context, ..model }.into(),
            train: TrainConfig { log_every: 10, ..TrainConfig::new(recipe.batch, Budget::Steps(recipe.steps)) },
            optimizer: OptimizerConfig {
                rate: recipe.rate,
                final_rate: recipe.rate / 10.0,
                warmup: recipe.warmup,
                beta2: recipe.beta2,
                ..OptimizerConfig::default()
            },
            eval: EvalConfig { every: (recipe.steps / 10).max(1), tokens: self.quick_or(16_384, 100_000), ..EvalConfig::default() },
        }
    }

    /// Trains a model, or goes on with a training that was interrupted, or takes one that is finished.
    pub(super) fn train(&mut self, name: &str, config: &RunConfig) -> Result<Trained> {
        let dir = self.runs.join(format!("{name}-{}-seed{}", self.scale, config.seed));
        let trainer = if dir.join("config.toml").exists() {
            Trainer::resume(&dir, &self.context.device)?
        } else {
            Trainer::create(config, &dir, &self.context.device)?
        };
        let label = format!("{name} (seed {})", config.seed);
        let (stop, memory) = (self.context.stop, self.context.memory);
        let mut forward = Forward { label: &label, context: self.context };
        let outcome = trainer.run(Hooks { stop, memory, observer: Some(&mut forward) })?;
        if outcome.status == Status::Interrupted {
            return Err(Error::Stopped { path: self.out.clone() });
        }
        let records = Run::open(&dir)?.metrics()?;
        let evaluations: Vec<_> = records.into_iter().filter_map(|r| if let Record::Eval(e) = r { Some(e) } else { None }).collect();
        let last = evaluations.last().map(regard_train::EvalRecord::evaluation);
        let evaluation = outcome.evaluation.or(last).ok_or_else(|| Error::value("eval", "made at the end of a run", "none"))?;
        Ok(Trained {
            params: outcome.params,
            evaluation,
            dir,
            curve: evaluations.iter().map(|e| (e.tokens as f64, e.loss)).collect(),
            accuracy: evaluations.iter().filter_map(|e| Some((e.step, e.accuracy?))).collect(),
        })
    }
}

/// Tiny Shakespeare, or where it is not at hand the embedded text; read as bytes.
pub(super) fn text() -> DataConfig {
    let source = if data::locate("tinyshakespeare").is_some() { "tinyshakespeare" } else { "embedded" };
    DataConfig { tokenizer: Some("byte".into()), ..DataConfig::new(source) }
}

/// Passes the events of a training on.
struct Forward<'a, 'b> {
    label: &'a str,
    context: &'a mut Context<'b>,
}

impl Observer for Forward<'_, '_> {
    fn event(&mut self, event: &Event<'_>) {
        self.context.emit(&ReproduceEvent::Training { run: self.label, event });
    }
}
