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
mod toml_file;

pub use engine::{
    Budget, Dashboard, EvalConfig, EvalRecord, Evaluated, Evaluation, Event, Hooks, LogLines, MemoryMeter, Observer, OptimizerConfig,
    Outcome, Precision, Record, Run, RunConfig, ScheduleKind, Split, Start, Status, StepCost, StepRecord, TrainConfig, Trainer,
    measure_pace, measure_step,
};
pub use error::{Error, Result};
pub use generate::{Generated, Sampling, generate};
pub use tasks::{
    ClassifyConfig, ControlConfig, CopyConfig, ForecastConfig, ListOpsConfig, LmConfig, RecallConfig, SeriesConfig, Task, TaskConfig,
};
pub use tokenizer::Tokenizer;
pub use toml_file::{from_toml, load_toml};
