use std::{
    path::{Path, PathBuf},
    sync::atomic::Ordering,
    time::Instant,
};

use burn::{
    module::Module,
    tensor::{Device, Tensor},
};

use super::{
    checkpoint,
    config::{Budget, RunConfig},
    cost::measure_step,
    evaluate::{Split, evaluate},
    observer::{Event, Hooks, Outcome, Start, Status},
    records::{EvalRecord, Metrics, Record, StepRecord},
    run::{CONFIG, Run},
    schedule::Schedule,
    step::{Learner, StepOutput},
};
use crate::{
    Error, Result,
    tasks::{Samples, Task},
};

/// Steps that are timed to turn seconds into steps.
const TIMED_STEPS: usize = 8;

/// A run, ready to begin or to go on.
pub struct Trainer {
    run: Run,
    task: Task,
    device: Device,
    learner: Learner,
    metrics: Metrics,
    evaluations: Vec<EvalRecord>,
    steps: usize,
    step: usize,
    seconds: f64,
}

/// A step whose numbers are still on the device.
struct Pending {
    step: usize,
    rate: f64,
    output: StepOutput,
}

impl Trainer {
    /// A new run in the folder `dir`, which is made if it is not there.
    ///
    /// # Errors
    /// If the folder already holds a run or cannot be written, the configuration is invalid, or the data cannot be used.
    pub fn create(config: &RunConfig, dir: &Path, device: &Device) -> Result<Self> {
        config.validate()?;
        Self::create_with(config, Task::load(config)?, dir, device)
    }

    /// As [`create`](Self::create) with a task that was loaded before, to share its data between runs. It must be the task of a
    /// configuration with the same sections `task` and `data` and the same context.
    ///
    /// # Errors
    /// As [`create`](Self::create).
    pub fn create_with(config: &RunConfig, task: Task, dir: &Path, device: &Device) -> Result<Self> {
        config.validate()?;
        if dir.join(CONFIG).exists() {
            return Err(Error::RunExists { path: dir.into() });
        }
        let mut config = config.clone();
        task.fit(&mut config.model)?;
        let steps = match config.train.budget()? {
            Budget::Steps(steps) => steps,
            Budget::Tokens(tokens) => tokens.div_ceil(config.tokens_per_step()),
            Budget::Seconds(seconds) => measure_step(&config, &task, device, TIMED_STEPS)?.steps_within(seconds, config.eval.every),
        };
        (config.train.steps, config.train.tokens, config.train.seconds) = (Some(steps), None, None);
        // The model first: what it rejects leaves no folder behind.
        let learner = Learner::new(&config, device)?;
        let run = Run::create(dir, config, &task)?;
        let (metrics, _) = Metrics::open(&run.metrics_path(), 0)?;
        Ok(Self { run, task, device: device.clone(), learner, metrics, evaluations: Vec::new(), steps, step: 0, seconds: 0.0 })
    }

    /// The run in the folder `dir` from its last checkpoint on, or from the beginning if it has none yet.
    ///
    /// # Errors
    /// If the folder is not that of a run, its last checkpoint is damaged or foreign, or the data cannot be used.
    pub fn resume(dir: &Path, device: &Device) -> Result<Self> {
        let run = Run::open(dir)?;
        let config = run.config();
        let checkpoint = run.last_checkpoint()?;
        let (steps, task, mut learner) = Self::parts(&run, device).map_err(|e| e.in_file(&dir.join(CONFIG), config))?;
        let (mut step, mut seconds) = (0, 0.0);
        if let Some(checkpoint) = checkpoint {
            learner.load(&checkpoint, config)?;
            (step, seconds) = (checkpoint.state.step, checkpoint.state.seconds);
        }
        let (metrics, records) = Metrics::open(&run.metrics_path(), step)?;
        let evaluations = records.into_iter().filter_map(|r| if let Record::Eval(record) = r { Some(record) } else { None }).collect();
        Ok(Self { run, task, device: device.clone(), learner, metrics, evaluations, steps, step, seconds })
    }

    /// What the file of a run says: its steps, its task, and the learner before the first step.
    fn parts(run: &Run, device: &Device) -> Result<(usize, Task, Learner)> {
        let config = run.config();
        config.validate()?;
        let Budget::Steps(steps) = config.train.budget()? else {
            return Err(Error::value("train.steps", "given in the config.toml of a run", "another budget"));
        };
        let task = Task::load(config)?;
        run.check(&task)?;
        Ok((steps, task, Learner::new(config, device)?))
    }

    /// The folder of the run.
    pub fn run_folder(&self) -> &Run {
        &self.run
    }

    /// Steps of the whole run.
    pub fn steps(&self) -> usize {
        self.steps
    }

    /// Trains to the end, or until it is stopped. Progress up to the last checkpoint is safe whatever happens.
    ///
    /// # Errors
    /// If a loss or gradient is no longer a number, or a file cannot be written. The run can be resumed from its last checkpoint.
    pub fn run(mut self, mut hooks: Hooks<'_>) -> Result<Outcome> {
        let config = self.run.config().clone();
        let (train, eval) = (&config.train, &config.eval);
        let checkpoint_every = train.checkpoint_every.unwrap_or(eval.every);
        let (batches, bytes) =
            self.task.evaluation(Split::Valid, eval.tokens, eval.batch.unwrap_or(train.batch), config.model.context())?;
        let start = Start {
            dir: self.run.dir().into(),
            from: self.step,
            steps: self.steps,
            eval_every: eval.every,
            params: self.learner.model.params(),
            tokens_per_step: config.tokens_per_step(),
        };
        tell(&mut hooks, &Event::Start(&start));
        let mut schedule = Schedule::new(&config.optimizer, self.steps, self.step)?;
        let mut pending: Vec<Pending> = Vec::with_capacity(train.log_every);
        let mut pace: Vec<f64> = Vec::new();
        let mut peak: Option<usize> = None;
        reset_memory(&hooks);

        let mut status = if self.stalled() { Status::EarlyStopped } else { Status::Finished };
        let mut since = Instant::now();
        while status == Status::Finished && self.step < self.steps {
            let rate = schedule.next();
            let output = self.learner.step(&self.task, self.step, rate);
            self.step += 1;
            pending.push(Pending { step: self.step, rate, output });

            let due = |every: usize| self.step == self.steps || self.step.is_multiple_of(every);
            let (log, evaluation, checkpoint) = (due(train.log_every), due(eval.every), due(checkpoint_every));
            let stop = should_stop(&hooks);
            if !(log || evaluation || checkpoint || stop) {
                continue;
            }
            // Losses stay on the device until here: reading one waits for it.
            let count = pending.len();
            let last = self.read(&mut pending)?;
            let elapsed = since.elapsed().as_secs_f64();
            self.seconds += elapsed;
            pace.push(elapsed / count as f64);
            peak = peak.max(hooks.memory.map(|meter| (meter.peak)()));
            if log {
                let record = StepRecord { seconds: self.seconds, ..last };
                self.metrics.append(&Record::Step(record.clone()))?;
                tell(&mut hooks, &Event::Step(&record));
            }
            if evaluation {
                let record = self.evaluate(&batches, bytes)?;
                tell(&mut hooks, &Event::Evaluation(&record));
                if self.step < self.steps && self.stalled() {
                    status = Status::EarlyStopped;
                }
            }
            if stop && self.step < self.steps {
                status = Status::Interrupted;
            }
            if checkpoint || status != Status::Finished {
                let path = self.save()?;
                tell(&mut hooks, &Event::Checkpoint { step: self.step, path: &path });
            }
            reset_memory(&hooks);
            since = Instant::now();
        }

        pace.sort_by(f64::total_cmp);
        let median = pace.get(pace.len() / 2).copied();
        let outcome = Outcome {
            status,
            step: self.step,
            steps: self.steps,
            tokens: self.step * start.tokens_per_step,
            params: start.params,
            seconds: self.seconds,
            step_ms: median.map_or(0.0, |seconds| 1e3 * seconds),
            tokens_per_s: median.map_or(0.0, |seconds| start.tokens_per_step as f64 / seconds),
            peak_bytes: peak,
            evaluation: self.evaluations.last().map(EvalRecord::evaluation),
            dir: start.dir,
        };
        tell(&mut hooks, &Event::End(&outcome));
        Ok(outcome)
    }

    /// Reads the losses and norms of the steps since the last time; the numbers of the last of them.
    fn read(&self, pending: &mut Vec<Pending>) -> Result<StepRecord> {
        let losses = read_all(pending.iter().map(|p| Some(p.output.loss.clone())));
        let norms = read_all(pending.iter().map(|p| p.output.norm.clone()));
        for ((p, &loss), &norm) in pending.iter().zip(&losses).zip(&norms) {
            for (what, value) in [("the loss", loss), ("the gradient norm", norm)] {
                if !value.is_finite() {
                    let checkpoint = checkpoint::list(&self.run.checkpoints_path())?.pop().map(|(_, path)| path);
                    return Err(Error::NotFinite { what, value, step: p.step, checkpoint });
                }
            }
        }
        let last = pending.last().expect("a step was taken");
        let tokens = last.step * self.run.config().tokens_per_step();
        let record = StepRecord {
            step: last.step,
            tokens,
            seconds: 0.0,
            loss: losses[losses.len() - 1],
            lr: last.rate,
            grad_norm: norms[norms.len() - 1],
        };
        pending.clear();
        Ok(record)
    }

    fn evaluate(&mut self, batches: &[Samples], bytes: Option<usize>) -> Result<EvalRecord> {
        let model = self.learner.model.valid();
        let evaluation = evaluate(&model, batches, bytes, self.task.ignore(), &self.device);
        let tokens = self.step * self.run.config().tokens_per_step();
        let record = EvalRecord::new(self.step, tokens, self.seconds, &evaluation);
        self.metrics.append(&Record::Eval(record.clone()))?;
        self.evaluations.push(record.clone());
        Ok(record)
    }

    /// Whether the loss has not fallen for as many evaluations as the configuration allows.
    fn stalled(&self) -> bool {
        let losses = || self.evaluations.iter().map(|record| record.loss);
        let best = losses().fold(f64::INFINITY, f64::min);
        let since = losses().rev().take_while(|loss| *loss > best).count();
        self.run.config().eval.patience.is_some_and(|patience| since >= patience)
    }

    fn save(&self) -> Result<PathBuf> {
        self.metrics.sync()?;
        let Learner { model, optimizer, .. } = &self.learner;
        checkpoint::save(&self.run.checkpoints_path(), self.step, self.seconds, &self.run.config().model, model, optimizer)
    }
}

/// Reads numbers from the device at once; 0 for those that are not there.
fn read_all(numbers: impl Iterator<Item = Option<Tensor<1>>>) -> Vec<f64> {
    let numbers: Vec<Option<Tensor<1>>> = numbers.collect();
    let there: Vec<Tensor<1>> = numbers.iter().flatten().cloned().collect();
    if there.is_empty() {
        return vec![0.0; numbers.len()];
    }
    let mut values = Tensor::cat(there, 0).into_data().iter::<f64>().collect::<Vec<_>>().into_iter();
    numbers.iter().map(|number| number.as_ref().and_then(|_| values.next()).unwrap_or(0.0)).collect()
}

fn tell(hooks: &mut Hooks<'_>, event: &Event<'_>) {
    if let Some(observer) = &mut hooks.observer {
        observer.event(event);
    }
}

fn should_stop(hooks: &Hooks<'_>) -> bool {
    hooks.stop.is_some_and(|flag| flag.load(Ordering::Relaxed)) || hooks.observer.as_ref().is_some_and(|observer| observer.should_stop())
}

fn reset_memory(hooks: &Hooks<'_>) {
    if let Some(meter) = hooks.memory {
        (meter.reset)();
    }
}
