use std::{
    fs::{self, File, OpenOptions},
    io::Write,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::evaluate::Evaluation;
use crate::{Error, Result};

/// One line of `metrics.jsonl`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Record {
    /// A training step.
    Step(StepRecord),
    /// An evaluation.
    Eval(EvalRecord),
}

/// A training step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StepRecord {
    /// Number of the step, from 1.
    pub step: usize,
    /// Training tokens so far.
    pub tokens: usize,
    /// Seconds spent in training steps so far.
    pub seconds: f64,
    /// Mean loss of the batch before the step, as [`Evaluation::loss`].
    pub loss: f64,
    /// Rate of the step.
    pub lr: f64,
    /// Norm of the gradient before clipping.
    pub grad_norm: f64,
}

/// An evaluation after a training step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EvalRecord {
    /// Number of the step, from 1.
    pub step: usize,
    /// Training tokens so far.
    pub tokens: usize,
    /// Seconds spent in training steps so far.
    pub seconds: f64,
    /// See [`Evaluation::loss`].
    pub loss: f64,
    /// See [`Evaluation::perplexity`].
    pub perplexity: Option<f64>,
    /// See [`Evaluation::bits_per_byte`].
    pub bits_per_byte: Option<f64>,
    /// See [`Evaluation::accuracy`].
    pub accuracy: Option<f64>,
    /// See [`Evaluation::mae`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mae: Option<f64>,
    /// Number of tokens, classes or numbers predicted.
    pub evaluated: usize,
}

impl EvalRecord {
    pub(super) fn new(step: usize, tokens: usize, seconds: f64, evaluation: &Evaluation) -> Self {
        let Evaluation { loss, perplexity, bits_per_byte, accuracy, mae, tokens: evaluated } = *evaluation;
        Self { step, tokens, seconds, loss, perplexity, bits_per_byte, accuracy, mae, evaluated }
    }

    /// The evaluation itself.
    pub fn evaluation(&self) -> Evaluation {
        let Self { loss, perplexity, bits_per_byte, accuracy, mae, evaluated, .. } = *self;
        Evaluation { loss, perplexity, bits_per_byte, accuracy, mae, tokens: evaluated }
    }
}

impl Record {
    /// Number of the step, from 1.
    pub fn step(&self) -> usize {
        match self {
            Self::Step(record) => record.step,
            Self::Eval(record) => record.step,
        }
    }
}

/// The file `metrics.jsonl`, open at its end.
pub(super) struct Metrics {
    path: PathBuf,
    file: File,
}

impl Metrics {
    /// Opens the file with the lines up to `step` alone: what came after them is about to come again.
    pub(super) fn open(path: &Path, step: usize) -> Result<(Self, Vec<Record>)> {
        let mut records = if path.exists() { read(path)? } else { Vec::new() };
        records.retain(|record| record.step() <= step);
        let scratch = path.with_extension("jsonl.tmp");
        let text: String = records.iter().map(line).collect();
        fs::write(&scratch, text).map_err(Error::write(&scratch))?;
        fs::rename(&scratch, path).map_err(Error::write(path))?;
        let file = OpenOptions::new().append(true).open(path).map_err(Error::write(path))?;
        Ok((Self { path: path.into(), file }, records))
    }

    pub(super) fn append(&mut self, record: &Record) -> Result<()> {
        self.file.write_all(line(record).as_bytes()).map_err(Error::write(&self.path))
    }

    /// Waits until the lines are on the disk.
    pub(super) fn sync(&self) -> Result<()> {
        self.file.sync_data().map_err(Error::write(&self.path))
    }
}

fn line(record: &Record) -> String {
    serde_json::to_string(record).expect("records hold numbers alone") + "\n"
}

/// The lines of a file; a last one that was cut off by the end of its process is left out.
pub(super) fn read(path: &Path) -> Result<Vec<Record>> {
    let text = fs::read_to_string(path).map_err(Error::read(path))?;
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    whole
        .lines()
        .enumerate()
        .map(|(number, line)| {
            serde_json::from_str(line).map_err(|e| Error::Config {
                path: Some(path.into()),
                line: Some(number + 1),
                message: e.to_string(),
                suggestion: None,
            })
        })
        .collect()
}
