use std::{io::Write, path::Path, time::Duration};

use regard_train::{Evaluation, Event, LogLines, Observer, report::Quantity};

use super::weights::MatchedCandidate;
use crate::lines::Lines;

/// What a caller lends to a comparison.
pub type Context<'a> = crate::context::Context<'a, dyn CompareObserver + 'a>;

impl Context<'_> {
    pub(super) fn stopped(&self) -> bool {
        self.interrupted() || self.observer.as_ref().is_some_and(|o| o.should_stop())
    }

    pub(super) fn emit(&mut self, event: &CompareEvent<'_>) {
        if let Some(observer) = &mut self.observer {
            observer.event(event);
        }
    }
}

/// Sees what happens in a comparison.
pub trait CompareObserver {
    /// Called between and, for [`CompareEvent::Training`], in the training loops.
    fn event(&mut self, event: &CompareEvent<'_>);

    /// Whether the user has asked this observer to end the comparison.
    fn should_stop(&self) -> bool {
        false
    }
}

/// What happens in a comparison.
#[derive(Clone, Copy, Debug)]
pub enum CompareEvent<'a> {
    /// The models are chosen.
    Matched {
        /// One per candidate.
        candidates: &'a [MatchedCandidate],
    },
    /// The number of steps is known.
    Planned {
        /// Steps of each run.
        steps: usize,
        /// Training tokens of each run.
        tokens: usize,
        /// Number of runs.
        runs: usize,
    },
    /// A run begins, or goes on after a resumption.
    RunStarted {
        /// The candidate's name.
        candidate: &'a str,
        /// The seed.
        seed: u64,
        /// Number of the run, from 1.
        number: usize,
        /// Number of all runs.
        runs: usize,
    },
    /// Something happens in that run.
    Training(&'a Event<'a>),
    /// The run is done.
    RunFinished {
        /// The candidate's name.
        candidate: &'a str,
        /// The seed.
        seed: u64,
        /// How well its model predicts.
        evaluation: &'a Evaluation,
        /// Milliseconds per step.
        step_ms: f64,
    },
    /// The run failed; the others go on.
    RunFailed {
        /// The candidate's name.
        candidate: &'a str,
        /// The seed.
        seed: u64,
        /// What went wrong.
        message: &'a str,
    },
    /// The run was done before a resumption.
    RunSkipped {
        /// The candidate's name.
        candidate: &'a str,
        /// The seed.
        seed: u64,
    },
    /// Forward and backward of a layer were measured at a length.
    Scaling {
        /// The candidate's name.
        mixer: &'a str,
        /// The length.
        tokens: usize,
        /// Seconds, median.
        seconds: f64,
    },
    /// The report is written or written anew.
    Written {
        /// The file.
        path: &'a Path,
    },
}

/// An observer that writes lines, for logs: those of [`LogLines`] in a run, and one for each other event.
pub struct CompareLog<W> {
    writer: W,
    every: Duration,
    run: Option<LogLines<Lines>>,
    /// What the run's observer has written, on its way to `writer`.
    lines: Lines,
}

impl<W: Write> CompareLog<W> {
    /// Writes to `writer`, at most one line about training steps in `every`.
    pub fn new(writer: W, every: Duration) -> Self {
        Self { writer, every, run: None, lines: Lines::default() }
    }

    fn line(&mut self, text: &str) {
        // A closed pipe is no reason to end the comparison.
        let _ = writeln!(self.writer, "{text}");
    }
}

impl<W: Write> CompareObserver for CompareLog<W> {
    fn event(&mut self, event: &CompareEvent<'_>) {
        match event {
            CompareEvent::Matched { candidates } => {
                for c in *candidates {
                    let params = Quantity::Count.text(c.params as f64, 4);
                    self.line(&format!("{}: {params} parameters, inner width {}", c.name, c.d_ff));
                }
            }
            CompareEvent::Planned { steps, tokens, runs } => {
                let tokens = Quantity::Count.text(*tokens as f64, 3);
                self.line(&format!("{runs} runs of {steps} steps, {tokens} tokens each"));
            }
            CompareEvent::RunStarted { candidate, seed, number, runs } => {
                let label = format!("{candidate} (seed {seed}, run {number}/{runs})");
                self.run = Some(LogLines::new(self.lines.clone(), self.every, label));
            }
            CompareEvent::Training(event) => {
                if let Some(run) = &mut self.run {
                    run.event(event);
                    let _ = self.writer.write_all(&self.lines.take());
                }
            }
            CompareEvent::RunFinished { .. } => self.run = None,
            CompareEvent::RunFailed { candidate, seed, message } => self.line(&format!("{candidate} (seed {seed}) failed: {message}")),
            CompareEvent::RunSkipped { candidate, seed } => self.line(&format!("{candidate} (seed {seed}) was finished before")),
            CompareEvent::Scaling { mixer, tokens, seconds } => {
                let (length, time) = (Quantity::Length.text(*tokens as f64, 3), Quantity::Seconds.text(*seconds, 3));
                self.line(&format!("{mixer}: forward and backward over {length} tokens take {time}"));
            }
            CompareEvent::Written { .. } => {}
        }
    }
}
