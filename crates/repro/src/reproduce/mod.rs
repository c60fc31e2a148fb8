//! The papers' claims as experiments, one file each, with a verdict that a stated rule computes.
//!
//! [`reproduce()`] runs claims in a folder: `claims/SYSTEM-N.json`, one per finished claim, which a later call keeps; `runs/`, the
//! trainings; `reproduce.json` and `reproduce.html`, all of it, written anew after every claim. The verdicts that come with a release
//! are those of [`shipped`].

mod claim;
mod driver;
mod events;
mod flowformer;
mod kimi_linear;
mod lab;
mod lightning_attention;
mod nprf;
mod report;
mod shipped;
mod tnl;
mod values;

#[cfg(test)]
mod tests;

pub use claim::{Claim, ClaimResult, Figure, FigureKind, Finding, Line, NamedTable, Scale, Test, Verdict};
pub use driver::{ReproduceConfig, Reproduction, reproduce};
pub use events::{Context, ReproduceEvent, ReproduceLog, ReproduceObserver};
pub use lab::Lab;
pub use shipped::{Shipped, record, shipped, shipped_for};

/// All claims, system by system.
pub const CLAIMS: &[&[Claim]] = &[flowformer::CLAIMS, kimi_linear::CLAIMS, lightning_attention::CLAIMS, nprf::CLAIMS, tnl::CLAIMS];

/// The systems that have claims, and the mechanism of the [registry](regard::registry) that each is about.
pub const SYSTEMS: &[(&str, &str)] =
    &[("flowformer", "flow"), ("kimi-linear", "kimi_delta"), ("lightning-attention", "lightning"), ("nprf", "nprf"), ("tnl", "lightning")];

/// The claims of a system, in their order.
pub fn claims_of(system: &str) -> impl Iterator<Item = &'static Claim> {
    CLAIMS.iter().flat_map(|claims| claims.iter()).filter(move |claim| claim.system == system)
}
