use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
};

use burn::tensor::Device;
use regard_models::DecoderConfig;
use regard_train::{
    Budget, EvalConfig, Evaluation, Event, Hooks, LmConfig, LogLines, MemoryMeter, Observer, OptimizerConfig, Outcome, Record, Run,
    RunConfig, Status, TaskConfig, TrainConfig, Trainer,
    data::{self, DataConfig},
};

use serde::{Deserialize, Serialize};

use super::{Context, ReproduceEvent, Scale};
use crate::{
    Error, Result,
    files::{read_json, write_json},
    lines::Lines,
    measure::{Cost, Patience, measure},
};

/// How often a training that runs beside others tells of its steps.
const EVERY: Duration = Duration::from_secs(10);

/// Where an experiment works: what it may use, and how much it may take on.
pub struct Lab<'a, 'b> {
    /// How much it takes on.
    pub(super) scale: Scale,
    pub(super) asked_seeds: Option<usize>,
    /// The folder of all trainings. A training belongs to its name: claims that need the same one share it.
    pub(super) runs: PathBuf,
    pub(super) out: PathBuf,
    /// Trainings at once.
    pub(super) jobs: usize,
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

/// How a training ended that may diverge.
#[derive(Clone, Debug)]
pub(super) struct Attempt {
    /// The model, or where the training ended instead.
    pub(super) end: Result<Trained, Divergence>,
    /// Norms of the gradient after numbers of steps, as far as it went.
    pub(super) norms: Vec<(f64, f64)>,
    /// Validation loss after numbers of training tokens, as far as it went.
    pub(super) curve: Vec<(f64, f64)>,
}

/// The end of a training that diverged: the file `diverged.json` in its folder.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Divergence {
    /// "the loss" or "the gradient norm".
    pub(super) what: String,
    /// What it became: JSON has no number for it.
    pub(super) value: String,
    /// After this step.
    pub(super) step: usize,
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

    /// Trains models, some at once, each with its share of the threads. A training that was interrupted goes on, one that is finished is
    /// taken as it is.
    pub(super) fn train_all(&mut self, runs: &[(String, RunConfig)]) -> Result<Vec<Trained>> {
        // A training that was not begun, because another failed, is no result: the failure is.
        let outcomes = self.run_all(runs, |_| false).into_iter().flatten().collect::<Result<Vec<_>>>()?;
        outcomes.into_iter().map(|outcome| self.trained(outcome)).collect()
    }

    /// As [`train_all`](Self::train_all) for trainings that may diverge: that a loss or gradient is no number any more is a result, which a
    /// later call takes as it takes a finished training.
    pub(super) fn attempt_all(&mut self, runs: &[(String, RunConfig)]) -> Result<Vec<Attempt>> {
        let note = |lab: &Self, (name, config): &(String, RunConfig)| lab.run_folder(name, config).join("diverged.json");
        let (known, open): (Vec<_>, Vec<_>) = runs.iter().cloned().partition(|run| note(self, run).exists());
        let outcomes = self.run_all(&open, |error| matches!(error, Error::Train(regard_train::Error::NotFinite { .. })));
        let mut ends = BTreeMap::new();
        for run in &known {
            let path = note(self, run);
            let divergence: Divergence = read_json(&path)?;
            ends.insert(path, Err(divergence));
        }
        for (run, outcome) in open.iter().zip(outcomes) {
            let Some(outcome) = outcome else { continue };
            let path = note(self, run);
            let end = match outcome {
                Ok(outcome) => Ok(self.trained(outcome)?),
                Err(Error::Train(regard_train::Error::NotFinite { what, value, step, .. })) => {
                    let divergence = Divergence { what: what.into(), value: value.to_string(), step };
                    write_json(&path, &divergence)?;
                    self.note(&format!("{}: {what} became {value} at step {step}", label(&run.0, &run.1)))?;
                    Err(divergence)
                }
                Err(error) => return Err(error),
            };
            ends.insert(path, end);
        }
        let attempt = |run: &(String, RunConfig)| {
            let end = ends.remove(&note(self, run)).ok_or_else(|| Error::Stopped { path: self.out.clone() })?;
            let (mut norms, mut curve) = (Vec::new(), Vec::new());
            for record in Run::open(&self.run_folder(&run.0, &run.1))?.metrics()? {
                match record {
                    Record::Step(step) => norms.push((step.step as f64, step.grad_norm)),
                    Record::Eval(evaluation) => curve.push((evaluation.tokens as f64, evaluation.loss)),
                }
            }
            Ok(Attempt { end, norms, curve })
        };
        runs.iter().map(attempt).collect()
    }

    fn run(&mut self, name: &str, config: &RunConfig) -> Result<Outcome> {
        let trainer = open(&self.run_folder(name, config), config, &self.context.device)?;
        let label = label(name, config);
        let (stop, memory) = (self.context.stop, self.context.memory);
        let mut forward = Forward { label: &label, context: self.context };
        Ok(trainer.run(Hooks { stop, memory, observer: Some(&mut forward) })?)
    }

    /// Trains models, some at once, until one fails with an error that the others do not get over; nothing for those that were not begun.
    fn run_all(&mut self, runs: &[(String, RunConfig)], gets_over: fn(&Error) -> bool) -> Vec<Option<Result<Outcome>>> {
        let threads = rayon::current_num_threads();
        let jobs = self.jobs.min(runs.len());
        if jobs <= 1 {
            let mut failed = false;
            let one = |(name, config): &(String, RunConfig)| {
                let outcome = (!failed).then(|| self.run(name, config))?;
                failed = outcome.as_ref().is_err_and(|error| !gets_over(error));
                Some(outcome)
            };
            return runs.iter().map(one).collect();
        }
        let share = (threads / jobs).max(1);
        let folders: Vec<PathBuf> = runs.iter().map(|(name, config)| self.run_folder(name, config)).collect();
        let (next, failed) = (AtomicUsize::new(0), AtomicBool::new(false));
        let outcomes: Vec<Mutex<Option<Result<Outcome>>>> = runs.iter().map(|_| Mutex::default()).collect();
        let (device, stop) = (self.context.device.clone(), self.context.stop);
        let (sender, texts) = mpsc::channel();
        thread::scope(|scope| {
            for _ in 0..jobs {
                let (sender, device) = (sender.clone(), device.clone());
                let (next, failed, outcomes, folders) = (&next, &failed, &outcomes, &folders);
                scope.spawn(move || {
                    while !failed.load(Ordering::Relaxed) {
                        let number = next.fetch_add(1, Ordering::Relaxed);
                        let Some((name, config)) = runs.get(number) else { break };
                        let work = || -> Result<Outcome> {
                            let mut sending = Sending::new(label(name, config), sender.clone());
                            let trainer = open(&folders[number], config, &device)?;
                            Ok(trainer.run(Hooks { stop, memory: None, observer: Some(&mut sending) })?)
                        };
                        let outcome = match rayon::ThreadPoolBuilder::new().num_threads(share).build() {
                            Ok(pool) => pool.install(work),
                            Err(error) => Err(Error::value("jobs", format!("few enough for this machine's threads ({error})"), jobs)),
                        };
                        failed.fetch_or(outcome.as_ref().is_err_and(|error| !gets_over(error)), Ordering::Relaxed);
                        *outcomes[number].lock().unwrap_or_else(PoisonError::into_inner) = Some(outcome);
                    }
                });
            }
            drop(sender);
            for text in texts {
                self.context.emit(&ReproduceEvent::Note { text: &text });
            }
        });
        outcomes.into_iter().map(|outcome| outcome.into_inner().unwrap_or_else(PoisonError::into_inner)).collect()
    }

    fn run_folder(&self, name: &str, config: &RunConfig) -> PathBuf {
        self.runs.join(format!("{name}-{}-seed{}", self.scale, config.seed))
    }

    fn trained(&self, outcome: Outcome) -> Result<Trained> {
        if outcome.status == Status::Interrupted {
            return Err(Error::Stopped { path: self.out.clone() });
        }
        let records = Run::open(&outcome.dir)?.metrics()?;
        let evaluations: Vec<_> = records.into_iter().filter_map(|r| if let Record::Eval(e) = r { Some(e) } else { None }).collect();
        let last = evaluations.last().map(regard_train::EvalRecord::evaluation);
        let evaluation = outcome.evaluation.or(last).ok_or_else(|| Error::value("eval", "made at the end of a run", "none"))?;
        Ok(Trained {
            params: outcome.params,
            evaluation,
            dir: outcome.dir,
            curve: evaluations.iter().map(|e| (e.tokens as f64, e.loss)).collect(),
            accuracy: evaluations.iter().filter_map(|e| Some((e.step, e.accuracy?))).collect(),
        })
    }
}

fn label(name: &str, config: &RunConfig) -> String {
    format!("{name} (seed {})", config.seed)
}

fn open(dir: &Path, config: &RunConfig, device: &Device) -> Result<Trainer> {
    Ok(if dir.join("config.toml").exists() { Trainer::resume(dir, device)? } else { Trainer::create(config, dir, device)? })
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

/// Sends what happens in a training to another thread, as lines.
struct Sending {
    log: LogLines<Lines>,
    lines: Lines,
    sender: mpsc::Sender<String>,
}

impl Sending {
    fn new(label: String, sender: mpsc::Sender<String>) -> Self {
        let lines = Lines::default();
        Self { log: LogLines::new(lines.clone(), EVERY, label), lines, sender }
    }
}

impl Observer for Sending {
    fn event(&mut self, event: &Event<'_>) {
        self.log.event(event);
        let text = String::from_utf8_lossy(&self.lines.take()).trim_end().to_owned();
        if !text.is_empty() {
            // Nobody listens any more only when all is over.
            let _ = self.sender.send(text);
        }
    }
}
