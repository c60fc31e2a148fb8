use std::{io::Write, time::Duration};

use regard_train::{Event, LogLines, Observer};

use super::{Claim, ClaimResult};
use crate::lines::Lines;

/// What a caller lends to experiments.
pub type Context<'a> = crate::context::Context<'a, dyn ReproduceObserver + 'a>;

impl Context<'_> {
    pub(super) fn stopped(&self) -> bool {
        self.interrupted()
    }

    pub(super) fn emit(&mut self, event: &ReproduceEvent<'_>) {
        if let Some(observer) = &mut self.observer {
            observer.event(event);
        }
    }
}

/// What happens while claims are tested.
#[derive(Clone, Copy, Debug)]
pub enum ReproduceEvent<'a> {
    /// An experiment begins.
    Started {
        /// Its claim.
        claim: &'a Claim,
        /// Its number, from 1.
        number: usize,
        /// Number of all.
        count: usize,
    },
    /// It was finished by an earlier call.
    Kept {
        /// What it found.
        result: &'a ClaimResult,
    },
    /// It has something to say of its progress.
    Note {
        /// The text.
        text: &'a str,
    },
    /// Something happens in a training of it.
    Training {
        /// Which one.
        run: &'a str,
        /// What.
        event: &'a Event<'a>,
    },
    /// It is done.
    Finished {
        /// What it found.
        result: &'a ClaimResult,
    },
}

/// Sees what happens while claims are tested.
pub trait ReproduceObserver {
    /// Called between and in the experiments.
    fn event(&mut self, event: &ReproduceEvent<'_>);
}

/// An observer that writes lines, for terminals and logs.
pub struct ReproduceLog<W> {
    writer: W,
    every: Duration,
    run: Option<(String, LogLines<Lines>)>,
    lines: Lines,
}

impl<W: Write> ReproduceLog<W> {
    /// Writes to `writer`, at most one line about training steps in `every`.
    pub fn new(writer: W, every: Duration) -> Self {
        Self { writer, every, run: None, lines: Lines::default() }
    }

    fn line(&mut self, text: &str) {
        // A closed pipe is no reason to end the work.
        let _ = writeln!(self.writer, "{text}");
    }
}

impl<W: Write> ReproduceObserver for ReproduceLog<W> {
    fn event(&mut self, event: &ReproduceEvent<'_>) {
        match event {
            ReproduceEvent::Started { claim, number, count } => {
                self.line(&format!("{number}/{count}: {} claim {}: {}", claim.system, claim.number, claim.title));
            }
            ReproduceEvent::Kept { result } => {
                self.line(&format!("{} claim {} was finished before: {}", result.system, result.claim, result.finding.verdict));
            }
            ReproduceEvent::Note { text } => self.line(&format!("  {text}")),
            ReproduceEvent::Training { run, event } => {
                if self.run.as_ref().is_none_or(|(name, _)| name != run) {
                    self.run = Some(((*run).to_owned(), LogLines::new(self.lines.clone(), self.every, format!("  {run}"))));
                }
                if let Some((_, log)) = &mut self.run {
                    log.event(event);
                }
                let _ = self.writer.write_all(&self.lines.take());
            }
            ReproduceEvent::Finished { result } => {
                self.line(&format!("  {}: {} ({:.0} s)", result.finding.verdict, result.finding.measured, result.seconds));
            }
        }
    }
}
