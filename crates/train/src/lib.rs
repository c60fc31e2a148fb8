#![doc = include_str!("README.md")]
#![warn(missing_docs)]

pub mod data;
pub mod engine;
mod error;
mod generate;
pub mod report;
pub mod suggest;
pub mod tasks;
mod tokenizer;

pub use engine::{
    Budget, Dashboard, EvalConfig, EvalRecord, Evaluation, Event, Hooks, LogLines, MemoryMeter, Observer, OptimizerConfig, Outcome, Record,
    Run, RunConfig, ScheduleKind, Split, Start, Status, StepCost, StepRecord, TrainConfig, Trainer, measure_step,
};
pub use error::{Error, Result};
pub use generate::{Sampling, generate};
pub use tasks::{CopyConfig, LmConfig, RecallConfig, Task, TaskConfig};
pub use tokenizer::Tokenizer;
