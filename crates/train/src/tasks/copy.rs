use rand::RngExt;
use serde::{Deserialize, Serialize};

use super::{BLANK, Batch, generated, generator};
use crate::{Error, Result, Split};

/// Copying by position: `target_t = x_{t − k}` for random tokens `x` and one distance `k`, from the position on that has a token `k`
/// places back. A token tells nothing of the one to be copied: only the difference of their positions does.
///
/// The length of a sequence is the model's `context`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CopyConfig {
    /// Number of different tokens: a blank, which stands nowhere but among the targets, and at least two others.
    #[serde(default = "default_vocab")]
    pub vocab: usize,
    /// How many places back the token to copy stands, k.
    #[serde(default = "default_distance")]
    pub distance: usize,
}

fn default_vocab() -> usize {
    17
}

fn default_distance() -> usize {
    8
}

impl Default for CopyConfig {
    fn default() -> Self {
        Self { vocab: default_vocab(), distance: default_distance() }
    }
}

/// The generator of the task.
#[derive(Clone, Debug)]
pub struct Copying {
    vocab: usize,
    distance: usize,
    length: usize,
}

impl Copying {
    /// # Errors
    /// If there are fewer than two tokens besides the blank, the distance is 0, or no position of a sequence has a token that far back.
    pub(super) fn new(config: &CopyConfig, length: usize) -> Result<Self> {
        let CopyConfig { vocab, distance } = *config;
        if vocab < 3 || i32::try_from(vocab).is_err() {
            return Err(Error::value("task.vocab", format!("from 3 to {}", i32::MAX), vocab));
        }
        if distance == 0 {
            return Err(Error::value("task.distance", "at least 1", 0));
        }
        if length <= distance {
            return Err(Error::value("model.context", format!("more than the distance {distance}"), length));
        }
        Ok(Self { vocab, distance, length })
    }

    pub(super) fn vocab(&self) -> usize {
        self.vocab
    }

    pub(super) fn sequence(&self, seed: u64, number: u64, batch: &mut Batch) {
        let mut generator = generator(seed, number);
        let start = batch.ids.len();
        batch.ids.extend((0..self.length).map(|_| generator.random_range(1..self.vocab) as u32));
        batch.targets.extend((0..self.distance).map(|_| BLANK));
        batch.targets.extend_from_slice(&batch.ids[start..start + self.length - self.distance]);
    }

    pub(super) fn evaluation(&self, split: Split, tokens: usize, batch: usize) -> Vec<Batch> {
        generated(split, tokens, batch, self.length, |seed, number, batch| self.sequence(seed, number, batch))
    }
}
