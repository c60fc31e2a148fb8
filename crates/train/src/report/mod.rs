//! Reports: one self-contained HTML file with inline plots, readable on a phone, in print, on light and on dark ground.

mod axis;
mod page;
mod palette;
mod plot;
mod quantity;
mod run;
mod standalone;

pub use axis::{Axis, Scale};
pub use page::{code, facts, folded, page, plots, sample};
pub use plot::{Plot, Series};
pub use quantity::Quantity;
pub use run::{RunFacts, run_report, write_run_report};
pub use standalone::write_plots;
