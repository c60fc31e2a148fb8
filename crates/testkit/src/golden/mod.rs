//! Golden files: see `goldens/README.md` for their conventions.

mod case;
mod module;
mod runner;

pub use case::Case;
pub(crate) use runner::headers;
pub use runner::{golden_root, run};
