//! Training: step-exact, resumable, in a folder that explains itself.
//!
//! What Burn has is used: its optimisers with parameter groups, schedules, gradient accumulation, records and dashboard. The loop is
//! written here, because `burn-train`'s `Learner` keeps optimiser and schedule to itself and hands them only to three asynchronous
//! checkpointers at the end of an epoch: with it there is neither a checkpoint of one exact step, written as a whole or not at all,
//! nor an optimiser whose gradients can be clipped by their common norm.

mod blame;
mod checkpoint;
mod config;
mod cost;
mod dashboard;
mod evaluate;
mod log_lines;
mod objective;
mod observer;
mod optimizer;
mod records;
mod run;
mod schedule;
mod step;
mod trainer;

pub use config::{Budget, EvalConfig, OptimizerConfig, Precision, RunConfig, ScheduleKind, TrainConfig};
pub use cost::{StepCost, measure_pace, measure_step};
pub use dashboard::Dashboard;
pub use evaluate::{Evaluated, Evaluation, Split};
pub use log_lines::LogLines;
pub use observer::{Event, Hooks, MemoryMeter, Observer, Outcome, Start, Status};
pub use records::{EvalRecord, Record, StepRecord};
pub use run::Run;
pub use trainer::Trainer;

#[cfg(test)]
mod tests;
