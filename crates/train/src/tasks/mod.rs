//! What is learned: batches for any step, and a fixed set to evaluate on.
//!
//! A task keeps no position. Training sequence number `n` of a run depends on the seed and on `n` alone, so that a run resumes exactly
//! wherever it stopped, and ranks that share a batch take the sequences that one rank would have taken.

mod copy;
mod language;
mod recall;

pub use copy::{CopyConfig, Copying};
pub use language::Language;
pub(crate) use language::windows;
pub use recall::{Recall, RecallConfig};

use burn::tensor::{Device, Int, Tensor, TensorData};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::{Error, Result, RunConfig, Split, Tokenizer, data};

/// The token that is none of a generated task's own: filler among the tokens, "nothing to predict" among the targets.
const BLANK: u32 = 0;

/// Which task, and how.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum TaskConfig {
    /// Predict the next token of a text.
    Lm(LmConfig),
    /// Recall values by their keys.
    Recall(RecallConfig),
    /// Copy the token a number of places back.
    Copy(CopyConfig),
}

impl TaskConfig {
    /// Its name in files and on the command line.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Lm(_) => "lm",
            Self::Recall(_) => "recall",
            Self::Copy(_) => "copy",
        }
    }

    /// What people call the task `name`.
    pub fn title(name: &str) -> &str {
        match name {
            "lm" => "language modelling",
            "recall" => "associative recall",
            "copy" => "copying by position",
            other => other,
        }
    }
}

/// Language modelling. Its text is the section `data`, its length of sequences the model's `context`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LmConfig {}

/// Sequences of one length, row by row.
#[derive(Clone, Debug, PartialEq)]
pub struct Batch {
    /// The tokens.
    pub ids: Vec<u32>,
    /// What is to be predicted at each of them.
    pub targets: Vec<u32>,
    /// Tokens per sequence T.
    pub length: usize,
}

impl Batch {
    fn with_capacity(sequences: usize, length: usize) -> Self {
        let tokens = sequences * length;
        Self { ids: Vec::with_capacity(tokens), targets: Vec::with_capacity(tokens), length }
    }

    /// Number of sequences B.
    pub fn sequences(&self) -> usize {
        self.ids.len() / self.length
    }

    /// Tokens and targets on a device, `[B, T]` each.
    pub fn tensors(&self, device: &Device) -> [Tensor<2, Int>; 2] {
        let shape = [self.sequences(), self.length];
        [&self.ids, &self.targets].map(|ids| {
            let ids: Vec<i32> = ids.iter().map(|&id| id.cast_signed()).collect();
            Tensor::from_data(TensorData::new(ids, shape), device)
        })
    }
}

/// The order in which a run goes through its training sequences.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Order {
    /// Seed of the run.
    pub seed: u64,
    /// Sequences per forward pass of one rank.
    pub batch: usize,
    /// Forward passes per step of the optimiser.
    pub accumulation: usize,
    /// Tokens per sequence.
    pub context: usize,
    /// Number of this process, from 0.
    pub rank: usize,
    /// Number of processes that share each batch.
    pub world: usize,
}

impl Order {
    /// The numbers of the sequences of pass `pass` of step `step`.
    fn numbers(&self, step: usize, pass: usize) -> impl Iterator<Item = u64> + use<> {
        let first = ((step * self.accumulation + pass) * self.world + self.rank) * self.batch;
        (first..first + self.batch).map(|n| n as u64)
    }
}

/// A generator of its own for each sequence.
fn generator(seed: u64, number: u64) -> ChaCha8Rng {
    let mut generator = ChaCha8Rng::seed_from_u64(seed);
    generator.set_stream(number);
    generator
}

/// Sequences that no training seed below 2⁶³ draws, a set of its own for each split: at least `tokens` tokens of them.
fn generated(split: Split, tokens: usize, batch: usize, length: usize, sequence: impl Fn(u64, u64, &mut Batch)) -> Vec<Batch> {
    let seed = u64::MAX - split as u64;
    let sequences = tokens.max(1).div_ceil(length) as u64;
    (0..sequences)
        .step_by(batch)
        .map(|first| {
            let last = sequences.min(first + batch as u64);
            let mut batch = Batch::with_capacity((last - first) as usize, length);
            (first..last).for_each(|number| sequence(seed, number, &mut batch));
            batch
        })
        .collect()
}

/// A task with its data. Clones share the data.
#[derive(Clone, Debug)]
pub enum Task {
    /// See [`TaskConfig::Lm`].
    Lm(Language),
    /// See [`TaskConfig::Recall`].
    Recall(Recall),
    /// See [`TaskConfig::Copy`].
    Copy(Copying),
}

impl Task {
    /// The task of a run, with the text read and turned into tokens.
    ///
    /// # Errors
    /// If the data cannot be read, is too short for the context, or the task's configuration is invalid.
    pub fn load(config: &RunConfig) -> Result<Self> {
        Self::load_with(config, None)
    }

    /// As [`load`](Self::load), with the tokeniser that a run has already, if any: its numbers are those of the model, whatever the data
    /// have become since.
    ///
    /// # Errors
    /// As [`load`](Self::load), or if the tokeniser does not know a character of the text.
    pub(crate) fn load_with(config: &RunConfig, tokenizer: Option<&Tokenizer>) -> Result<Self> {
        let context = config.model.context;
        match &config.task {
            TaskConfig::Lm(_) => {
                let Some(source) = &config.data else {
                    return Err(Error::value("data", "given for the task `lm`", "nothing"));
                };
                let corpus = data::load(source)?;
                let tokenizer = match tokenizer {
                    Some(tokenizer) => tokenizer.clone(),
                    None => Tokenizer::named(source.tokenizer.as_deref().unwrap_or(corpus.tokenizer), &corpus)?,
                };
                Ok(Self::Lm(Language::new(&corpus, tokenizer, context)?))
            }
            TaskConfig::Recall(recall) if config.data.is_none() => Ok(Self::Recall(Recall::new(recall, context)?)),
            TaskConfig::Copy(copy) if config.data.is_none() => Ok(Self::Copy(Copying::new(copy, context)?)),
            task @ (TaskConfig::Recall(_) | TaskConfig::Copy(_)) => {
                Err(Error::value("data", format!("left out: the task `{}` makes its own", task.name()), "a section"))
            }
        }
    }

    /// Number of different tokens.
    pub fn vocab(&self) -> usize {
        match self {
            Self::Lm(language) => language.tokenizer().vocab(),
            Self::Recall(recall) => recall.vocab(),
            Self::Copy(copy) => copy.vocab(),
        }
    }

    /// How text becomes tokens, if there is text.
    pub fn tokenizer(&self) -> Option<&Tokenizer> {
        match self {
            Self::Lm(language) => Some(language.tokenizer()),
            Self::Recall(_) | Self::Copy(_) => None,
        }
    }

    /// The target that marks a position where nothing is to be predicted.
    pub fn ignore(&self) -> Option<usize> {
        match self {
            Self::Lm(_) => None,
            Self::Recall(_) | Self::Copy(_) => Some(BLANK as usize),
        }
    }

    /// The training sequences of pass `pass` of step `step`, both from 0.
    pub fn batch(&self, order: &Order, step: usize, pass: usize) -> Batch {
        let mut batch = Batch::with_capacity(order.batch, order.context);
        for number in order.numbers(step, pass) {
            match self {
                Self::Lm(language) => language.sequence(order, number, &mut batch),
                Self::Recall(recall) => recall.sequence(order.seed, number, &mut batch),
                Self::Copy(copy) => copy.sequence(order.seed, number, &mut batch),
            }
        }
        batch
    }

    /// The sequences of a split in batches of at most `batch`, at least `tokens` tokens as far as the split goes, and the bytes of
    /// text that they predict, if any. Text is cut into disjoint windows of `context` tokens: each token is predicted once.
    ///
    /// # Errors
    /// If the task has no such split.
    pub fn evaluation(&self, split: Split, tokens: usize, batch: usize, context: usize) -> Result<(Vec<Batch>, Option<usize>)> {
        match self {
            Self::Lm(language) => language.evaluation(split, tokens, batch, context).map(|(batches, bytes)| (batches, Some(bytes))),
            Self::Recall(recall) => Ok((recall.evaluation(split, tokens, batch), None)),
            Self::Copy(copy) => Ok((copy.evaluation(split, tokens, batch), None)),
        }
    }
}

#[cfg(test)]
mod tests;
