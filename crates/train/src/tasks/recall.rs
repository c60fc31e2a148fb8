use rand::{RngExt, seq::index::sample};
use serde::{Deserialize, Serialize};

use super::{BLANK, Batch, generated, generator};
use crate::{Error, Result, Split};

/// Multi-query associative recall (Arora et al. 2023, "Zoology", arXiv 2312.04927): a sequence begins with pairs of a key and a value;
/// in what follows each key comes once more, at a random place among blanks, and its value is to be predicted there.
///
/// The length of a sequence is the model's `context`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecallConfig {
    /// Number of different tokens: a blank, then as many keys as values.
    #[serde(default = "default_vocab")]
    pub vocab: usize,
    /// Pairs per sequence.
    #[serde(default = "default_pairs")]
    pub pairs: usize,
}

fn default_vocab() -> usize {
    64
}

fn default_pairs() -> usize {
    8
}

impl Default for RecallConfig {
    fn default() -> Self {
        Self { vocab: default_vocab(), pairs: default_pairs() }
    }
}

/// The generator of the task.
#[derive(Clone, Debug)]
pub struct Recall {
    keys: usize,
    pairs: usize,
    length: usize,
}

impl Recall {
    /// # Errors
    /// If there are fewer keys than pairs, no pairs, or no room for the pairs and their queries.
    pub(super) fn new(config: &RecallConfig, length: usize) -> Result<Self> {
        let keys = config.vocab.saturating_sub(1) / 2;
        if config.pairs == 0 {
            return Err(Error::value("task.pairs", "at least 1", 0));
        }
        if keys < config.pairs {
            return Err(Error::value("task.vocab", format!("at least {} for {} pairs", 2 * config.pairs + 1, config.pairs), config.vocab));
        }
        if length < 3 * config.pairs {
            return Err(Error::value("model.context", format!("at least {} for {} pairs", 3 * config.pairs, config.pairs), length));
        }
        Ok(Self { keys, pairs: config.pairs, length })
    }

    pub(super) fn vocab(&self) -> usize {
        2 * self.keys + 1
    }

    pub(super) fn sequence(&self, seed: u64, number: u64, batch: &mut Batch) {
        let mut generator = generator(seed, number);
        let start = batch.ids.len();
        batch.ids.resize(start + self.length, BLANK);
        batch.targets.resize(start + self.length, BLANK);
        let (ids, targets) = (&mut batch.ids[start..], &mut batch.targets[start..]);
        let keys = sample(&mut generator, self.keys, self.pairs);
        let places = sample(&mut generator, self.length - 2 * self.pairs, self.pairs);
        for (pair, (key, place)) in keys.iter().zip(places.iter()).enumerate() {
            let key = 1 + key as u32;
            let value = (1 + self.keys + generator.random_range(0..self.keys)) as u32;
            ids[2 * pair] = key;
            ids[2 * pair + 1] = value;
            ids[2 * self.pairs + place] = key;
            targets[2 * self.pairs + place] = value;
        }
    }

    pub(super) fn evaluation(&self, split: Split, tokens: usize, batch: usize) -> Vec<Batch> {
        generated(split, tokens, batch, self.length, |seed, number, batch| self.sequence(seed, number, batch))
    }
}
