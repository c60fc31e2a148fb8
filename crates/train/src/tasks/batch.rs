//! Batches, and the order in which a run goes through its sequences.

use burn::tensor::{Device, Int, Tensor, TensorData};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use super::Examples;
use crate::Split;

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
    pub(super) fn with_capacity(sequences: usize, length: usize) -> Self {
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

/// A batch of any task.
#[derive(Clone, Debug, PartialEq)]
pub enum Samples {
    /// Sequences with a token to be predicted at each place.
    Tokens(Batch),
    /// Examples with what is asked about each.
    Examples(Examples),
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
    pub(super) fn numbers(&self, step: usize, pass: usize) -> impl Iterator<Item = u64> + use<> {
        let first = ((step * self.accumulation + pass) * self.world + self.rank) * self.batch;
        (first..first + self.batch).map(|n| n as u64)
    }
}

/// A generator of its own for each sequence.
pub(super) fn generator(seed: u64, number: u64) -> ChaCha8Rng {
    let mut generator = ChaCha8Rng::seed_from_u64(seed);
    generator.set_stream(number);
    generator
}

/// Sequences that no training seed below 2⁶³ draws, a set of its own for each split: at least `tokens` tokens of them.
pub(super) fn generated(split: Split, tokens: usize, batch: usize, length: usize, sequence: impl Fn(u64, u64, &mut Batch)) -> Vec<Batch> {
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
