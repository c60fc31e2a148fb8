use std::{
    path::{Path, PathBuf},
    sync::atomic::AtomicBool,
};

use super::{
    evaluate::Evaluation,
    records::{EvalRecord, StepRecord},
};

/// What a caller can attach to a run.
#[derive(Default)]
pub struct Hooks<'a> {
    /// Set to `true` from anywhere, it ends the run after the step at hand with a checkpoint.
    pub stop: Option<&'a AtomicBool>,
    /// Sees what happens.
    pub observer: Option<&'a mut dyn Observer>,
    /// Measures the memory of the training steps.
    pub memory: Option<MemoryMeter>,
}

/// Access to the allocator's counters of the program.
#[derive(Clone, Copy, Debug)]
pub struct MemoryMeter {
    /// Forgets the peak.
    pub reset: fn(),
    /// The largest number of bytes in use since.
    pub peak: fn() -> usize,
}

/// Sees what happens in a run.
pub trait Observer {
    /// Called in the training loop: what takes long here delays training.
    fn event(&mut self, event: &Event<'_>);

    /// Whether the user has asked this observer to end the run.
    fn should_stop(&self) -> bool {
        false
    }
}

/// What happens in a run.
#[derive(Clone, Copy, Debug)]
pub enum Event<'a> {
    /// It begins or goes on.
    Start(&'a Start),
    /// A step was written to `metrics.jsonl`.
    Step(&'a StepRecord),
    /// An evaluation was.
    Evaluation(&'a EvalRecord),
    /// A checkpoint is complete.
    Checkpoint {
        /// Steps done.
        step: usize,
        /// Its folder.
        path: &'a Path,
    },
    /// It ends.
    End(&'a Outcome),
}

/// A run at its beginning.
#[derive(Clone, Debug, PartialEq)]
pub struct Start {
    /// Its folder.
    pub dir: PathBuf,
    /// Steps done already.
    pub from: usize,
    /// Steps in all.
    pub steps: usize,
    /// Steps between two evaluations.
    pub eval_every: usize,
    /// Trained weights.
    pub params: usize,
    /// Training tokens of a step.
    pub tokens_per_step: usize,
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// All steps are done.
    Finished,
    /// It was stopped and can be resumed.
    Interrupted,
    /// The loss on the validation split had not fallen for as many evaluations as the configuration allows.
    EarlyStopped,
}

/// A run at its end.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// Why it ended.
    pub status: Status,
    /// Its folder.
    pub dir: PathBuf,
    /// Steps done.
    pub step: usize,
    /// Steps in all.
    pub steps: usize,
    /// Training tokens so far.
    pub tokens: usize,
    /// Trained weights.
    pub params: usize,
    /// Seconds spent in training steps, those before a resumption included.
    pub seconds: f64,
    /// Milliseconds per step: the median over the lines of `metrics.jsonl` of this call; 0 without any.
    pub step_ms: f64,
    /// Training tokens per second at that pace.
    pub tokens_per_s: f64,
    /// Largest number of bytes in use in training steps of this call, if measured.
    pub peak_bytes: Option<usize>,
    /// The last evaluation.
    pub evaluation: Option<Evaluation>,
}
