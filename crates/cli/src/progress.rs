use std::{
    io::{self, IsTerminal},
    time::Duration,
};

use regard_train::{Dashboard, LogLines, Observer};

use crate::output::Output;

/// Time between two lines of progress where there is no terminal.
pub(crate) const EVERY: Duration = Duration::from_secs(5);

/// How a run shows its progress: burn-train's dashboard on a terminal, a line every few seconds elsewhere, nothing with `--quiet`.
pub(crate) fn of_run(label: &str, output: &Output) -> Option<Box<dyn Observer>> {
    if output.is_quiet() {
        return None;
    }
    Some(if has_dashboard() { Box::new(Dashboard::new(label)) } else { Box::new(LogLines::new(io::stderr(), EVERY, "")) })
}

/// Whether a dashboard can be drawn: it needs both streams, and a terminal that can move its cursor.
fn has_dashboard() -> bool {
    let dumb = std::env::var("TERM").is_ok_and(|t| t == "dumb");
    io::stdout().is_terminal() && io::stderr().is_terminal() && !dumb
}
