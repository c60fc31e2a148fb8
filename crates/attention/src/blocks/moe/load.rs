use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

/// Tokens given to each expert, counted by all clones of a module together: an optimiser steps a clone of what the forward pass saw.
#[derive(Clone, Debug)]
pub(super) struct Load(Arc<[AtomicUsize]>);

impl Load {
    pub(super) fn new(experts: usize) -> Self {
        Self((0..experts).map(|_| AtomicUsize::new(0)).collect())
    }

    pub(super) fn add(&self, counts: &[usize]) {
        self.0.iter().zip(counts).for_each(|(sum, count)| {
            sum.fetch_add(*count, Relaxed);
        });
    }

    /// The counts, which begin again at 0.
    pub(super) fn take(&self) -> Vec<usize> {
        self.0.iter().map(|count| count.swap(0, Relaxed)).collect()
    }
}
