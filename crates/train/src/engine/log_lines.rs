use std::{
    io::Write,
    time::{Duration, Instant},
};

use super::{
    evaluate::Evaluation,
    observer::{Event, Observer, Status},
};

/// An observer that writes a line every few seconds, and one for each evaluation, for logs.
pub struct LogLines<W> {
    writer: W,
    every: Duration,
    label: String,
    last: Option<Instant>,
    begun: Option<(Instant, usize)>,
    steps: usize,
}

impl<W: Write> LogLines<W> {
    /// Writes to `writer`, at most one line about steps in `every`; `label` begins each line, if it is not empty.
    pub fn new(writer: W, every: Duration, label: impl Into<String>) -> Self {
        Self { writer, every, label: label.into(), last: None, begun: None, steps: 0 }
    }

    fn line(&mut self, text: &str) {
        let separator = if self.label.is_empty() { "" } else { ": " };
        // A closed pipe is no reason to end the training.
        let _ = writeln!(self.writer, "{}{separator}{text}", self.label);
    }

    /// Time left at the pace so far.
    fn left(&self, step: usize) -> Option<Duration> {
        let (begun, from) = self.begun?;
        let done = step.checked_sub(from).filter(|done| *done > 0)?;
        Some(begun.elapsed().mul_f64((self.steps - step) as f64 / done as f64))
    }
}

impl<W: Write> Observer for LogLines<W> {
    fn event(&mut self, event: &Event<'_>) {
        match event {
            Event::Start(start) => {
                (self.steps, self.begun) = (start.steps, Some((Instant::now(), start.from)));
                self.last = None;
                let verb = if start.from == 0 { "training" } else { "resuming" };
                let from = if start.from == 0 { String::new() } else { format!(" from step {}", start.from) };
                let (params, tokens) = (count(start.params as f64), count(start.tokens_per_step as f64));
                self.line(&format!(
                    "{verb} {params} parameters{from}, {} steps of {tokens} tokens, in {}",
                    start.steps,
                    start.dir.display()
                ));
            }
            Event::Step(record) if self.last.is_none_or(|last| last.elapsed() >= self.every) => {
                self.last = Some(Instant::now());
                let pace = count(record.tokens as f64 / record.seconds);
                let left = self.left(record.step).map_or(String::new(), |left| format!(", {} left", clock(left)));
                self.line(&format!("step {}/{}, loss {:.4}, {pace} tokens/s{left}", record.step, self.steps, record.loss));
            }
            Event::Evaluation(record) => {
                let text = scores(&record.evaluation());
                self.line(&format!("step {}/{}, validation {text}", record.step, self.steps));
            }
            Event::End(outcome) => {
                let what = match outcome.status {
                    Status::Finished => "finished",
                    Status::Interrupted => "interrupted",
                    Status::EarlyStopped => "ended early, as the validation loss fell no more,",
                };
                self.line(&format!(
                    "{what} after step {}/{} and {}",
                    outcome.step,
                    outcome.steps,
                    clock(Duration::from_secs_f64(outcome.seconds))
                ));
            }
            Event::Step(_) | Event::Checkpoint { .. } => (),
        }
    }
}

/// The numbers of an evaluation in words.
pub(super) fn scores(evaluation: &Evaluation) -> String {
    let Evaluation { loss, perplexity, bits_per_byte, accuracy, mae, .. } = *evaluation;
    let quality = match (accuracy, mae, perplexity) {
        (Some(accuracy), ..) => format!(", accuracy {:.1} %", 100.0 * accuracy),
        (_, Some(mae), _) => format!(", mean absolute error {mae:.4}"),
        (.., Some(perplexity)) => format!(", perplexity {perplexity:.2}"),
        _ => String::new(),
    };
    let bits = bits_per_byte.map_or(String::new(), |bits| format!(", {bits:.3} bits per byte"));
    format!("loss {loss:.4}{quality}{bits}")
}

/// `1.2M`, `34k`, `567`.
fn count(number: f64) -> String {
    match number {
        n if n >= 1e9 => format!("{:.1}G", n / 1e9),
        n if n >= 1e6 => format!("{:.1}M", n / 1e6),
        n if n >= 1e4 => format!("{:.0}k", n / 1e3),
        n if n >= 1e3 => format!("{:.1}k", n / 1e3),
        n => format!("{n:.0}"),
    }
}

/// `1h02m`, `3m04s`, `5s`.
fn clock(time: Duration) -> String {
    match time.as_secs() {
        s if s >= 3600 => format!("{}h{:02}m", s / 3600, s % 3600 / 60),
        s if s >= 60 => format!("{}m{:02}s", s / 60, s % 60),
        s => format!("{s}s"),
    }
}
