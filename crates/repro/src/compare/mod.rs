//! The main job: mechanisms compared on one task, with equal weights, data, schedule and budget.
//!
//! [`compare()`] makes a folder: `compare.toml`, complete and ready to run again; `runs/`, one folder of `regard-train` per candidate and
//! seed; `scaling.json`, cost against length; `comparison.json`, all numbers; `report.html`, all of it for people. The last two are
//! written anew after every run, so that they show what there is whenever it ends. `plots/` holds the plots of the page as files.

mod choice;
mod config;
mod driver;
mod events;
mod report;
mod result;
mod runs;
mod scaling;
mod weights;

#[cfg(test)]
mod tests;

pub use choice::{Budget, Candidate, Size};
pub use config::{CompareConfig, SampleConfig, ScalingConfig};
pub use driver::{compare, resume};
pub use events::{CompareEvent, CompareLog, CompareObserver, Context};
pub use report::report;
pub use result::{CandidateResult, Comparison, ImageFacts, Sample, SeedResult, StateBytes};
pub use scaling::{Curve, Point, Scaling};
pub use weights::MatchedCandidate;
