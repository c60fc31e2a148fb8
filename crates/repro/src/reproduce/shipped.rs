use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{Reproduction, SYSTEMS, Scale, Verdict};
use crate::{
    Result,
    files::{read_json, write_json},
};

/// A verdict that comes with a release, as an experiment wrote it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shipped {
    /// The system.
    pub system: String,
    /// The number of the claim.
    pub claim: usize,
    /// What is claimed.
    pub title: String,
    /// The decision.
    #[serde(flatten)]
    pub verdict: Verdict,
    /// The numbers that decided.
    pub measured: String,
    /// How much the experiment took on.
    pub scale: Scale,
    /// The command.
    pub command: Option<String>,
    /// The machine's CPU and device.
    pub machine: String,
    /// When, in UTC.
    pub date: String,
}

/// The verdicts that come with this release. The file behind them is written by [`record`] alone.
///
/// # Panics
/// Never: a test reads the file.
pub fn shipped() -> Vec<Shipped> {
    serde_json::from_str(include_str!("../../claims.json")).expect("a test reads claims.json")
}

/// The shipped verdicts on the claims about a mechanism of the registry.
pub fn shipped_for(mechanism: &str) -> Vec<Shipped> {
    let about = |result: &Shipped| SYSTEMS.contains(&(result.system.as_str(), mechanism));
    shipped().into_iter().filter(about).collect()
}

/// Writes results into a file of verdicts, in the place of what it says of the same claims.
///
/// # Errors
/// If the file is not one of verdicts, or cannot be written.
pub fn record(results: &Reproduction, path: &Path) -> Result<()> {
    let mut all: Vec<Shipped> = if path.exists() { read_json(path)? } else { Vec::new() };
    for r in &results.results {
        all.retain(|old| (&old.system, old.claim) != (&r.system, r.claim));
        all.push(Shipped {
            system: r.system.clone(),
            claim: r.claim,
            title: r.title.clone(),
            verdict: r.finding.verdict.clone(),
            measured: r.finding.measured.clone(),
            scale: r.scale,
            command: r.command.clone(),
            machine: format!("{}, {} threads, {}", r.machine.cpu, r.machine.threads, r.machine.device),
            date: r.date.clone(),
        });
    }
    all.sort_by(|a, b| (&a.system, a.claim).cmp(&(&b.system, b.claim)));
    write_json(path, &all)
}
