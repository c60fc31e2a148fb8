//! Training images that are other ones each time: cut out, mirrored, altered and mixed.
//!
//! What becomes of training sequence number n is drawn by a generator of its own, from the run's seed and n alone. Images are bytes
//! `[C, Y, X]`; whatever comes from outside of one is black.

mod alter;
mod config;
mod geometry;
mod mix;

#[cfg(test)]
mod tests;

pub use alter::Alteration;
pub use config::{Augment, AugmentConfig, RandAugment};
pub(super) use mix::mixed;

use rand::{Rng, RngExt};

/// Bytes of an image with their shape.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Picture {
    pub(super) pixels: Vec<u8>,
    /// Channels, rows and columns.
    pub(super) shape: [usize; 3],
}

impl Picture {
    /// The plane of each channel.
    fn planes(&self) -> impl Iterator<Item = &[u8]> {
        self.pixels.chunks(self.shape[1] * self.shape[2])
    }

    /// The same with other bytes.
    fn with(&self, pixels: Vec<u8>) -> Self {
        Self { pixels, shape: self.shape }
    }
}

impl AugmentConfig {
    /// One image altered, not yet mixed with another.
    fn altered(&self, mut picture: Picture, rng: &mut impl Rng) -> Picture {
        if chance(self.flip, rng) {
            picture = geometry::mirrored(&picture, false);
        }
        if chance(self.flip_vertical, rng) {
            picture = geometry::mirrored(&picture, true);
        }
        if self.crop > 0 {
            let mut from = || rng.random_range(0..=2 * self.crop) as isize - self.crop as isize;
            let from = [from(), from()];
            picture = geometry::shifted(&picture, from);
        }
        if let Some(RandAugment { count, magnitude, operations }) = &self.rand_augment {
            for _ in 0..*count {
                let operation = operations[rng.random_range(0..operations.len())];
                let sign = if rng.random_bool(0.5) { 1.0 } else { -1.0 };
                picture = operation.apply(&picture, *magnitude, sign);
            }
        }
        if chance(self.erase, rng) {
            picture = mix::erased(picture, rng);
        }
        picture
    }
}

/// Draws nothing where there is nothing to decide, so that what is off leaves the other draws alone.
fn chance(probability: f64, rng: &mut impl Rng) -> bool {
    probability > 0.0 && rng.random_bool(probability)
}
