use std::{
    io::{self, IsTerminal, Write},
    time::Duration,
};

use regard_repro::compare::{CompareEvent, CompareLog, CompareObserver};
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

/// The same for a comparison: a dashboard for each run.
pub(crate) fn of_comparison(output: &Output) -> Option<Box<dyn CompareObserver>> {
    if output.is_quiet() {
        return None;
    }
    let log = CompareLog::new(io::stderr(), EVERY);
    Some(if has_dashboard() { Box::new(Dashboards { log, run: None, stop: false }) } else { Box::new(log) })
}

/// A dashboard while a run trains, lines of the log between the runs.
struct Dashboards {
    log: CompareLog<io::Stderr>,
    run: Option<Dashboard>,
    stop: bool,
}

impl CompareObserver for Dashboards {
    fn event(&mut self, event: &CompareEvent<'_>) {
        match event {
            CompareEvent::RunStarted { candidate, number, runs, .. } => {
                self.run = Some(Dashboard::new(format!("{candidate}, run {number} of {runs}")));
            }
            CompareEvent::Training(event) => {
                if let Some(run) = &mut self.run {
                    run.event(event);
                    self.stop |= run.should_stop();
                }
            }
            CompareEvent::RunFinished { candidate, seed, evaluation, step_ms } => {
                self.run = None; // gives the terminal back
                let loss = evaluation.loss;
                let _ = writeln!(io::stderr(), "{candidate} (seed {seed}): validation loss {loss:.4}, {step_ms:.1} ms a step");
            }
            CompareEvent::RunFailed { .. } => {
                self.run = None;
                self.log.event(event);
            }
            _ => self.log.event(event),
        }
    }

    fn should_stop(&self) -> bool {
        self.stop || self.run.as_ref().is_some_and(Observer::should_stop)
    }
}

/// Whether a dashboard can be drawn: it needs both streams, and a terminal that can move its cursor.
fn has_dashboard() -> bool {
    let dumb = std::env::var("TERM").is_ok_and(|t| t == "dumb");
    io::stdout().is_terminal() && io::stderr().is_terminal() && !dumb
}
