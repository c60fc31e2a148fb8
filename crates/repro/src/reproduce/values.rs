//! Numbers that experiments draw and compare.

use burn::tensor::{DType, Device, Tensor, TensorData};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// A generator for what an experiment draws; the same in every call.
pub(super) fn generator(seed: u64) -> ChaCha8Rng {
    ChaCha8Rng::seed_from_u64(seed)
}

/// Numbers drawn once, to be placed on a device in any float type: each is exact in f32.
#[derive(Clone, Debug)]
pub(super) struct Values<const D: usize> {
    shape: [usize; D],
    values: Vec<f64>,
}

impl<const D: usize> Values<D> {
    /// Independent numbers from −1 to 1.
    pub(super) fn draw(generator: &mut ChaCha8Rng, shape: [usize; D]) -> Self {
        Self::between(generator, shape, -1.0, 1.0)
    }

    /// Independent numbers from `low` to `high`.
    pub(super) fn between(generator: &mut ChaCha8Rng, shape: [usize; D], low: f64, high: f64) -> Self {
        let draw = |_| f64::from((low + (high - low) * generator.random::<f64>()) as f32);
        Self { shape, values: (0..shape.iter().product()).map(draw).collect() }
    }

    /// The same numbers after `f`, rounded to f32.
    pub(super) fn map(mut self, f: impl Fn(f64) -> f64) -> Self {
        self.values.iter_mut().for_each(|x| *x = f64::from(f(*x) as f32));
        self
    }

    pub(super) fn place(&self, device: &Device, dtype: DType) -> Tensor<D> {
        Tensor::from_data(TensorData::new(self.values.clone(), self.shape), (device, dtype))
    }
}

/// The numbers of a tensor.
pub(super) fn numbers<const D: usize>(x: Tensor<D>) -> Vec<f64> {
    x.into_data().iter::<f64>().collect()
}

/// Largest difference relative to the largest magnitude of `want`; infinite where something is not finite.
pub(super) fn relative_error(got: &[f64], want: &[f64]) -> f64 {
    let scale = want.iter().fold(1e-30_f64, |m, x| m.max(x.abs()));
    let errors = got.iter().zip(want).map(|(a, b)| if a.is_finite() { (a - b).abs() / scale } else { f64::INFINITY });
    if got.len() == want.len() { errors.fold(0.0, f64::max) } else { f64::INFINITY }
}

/// The number in the middle.
pub(super) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// The mean.
pub(super) fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_relative_to_the_scale_and_see_what_is_not_finite() {
        assert!((relative_error(&[1.0, 9.0], &[1.0, 10.0]) - 0.1).abs() < 1e-12);
        assert_eq!(relative_error(&[f64::NAN], &[1.0]), f64::INFINITY);
        assert_eq!(relative_error(&[1.0], &[1.0, 2.0]), f64::INFINITY);
    }

    #[test]
    fn the_median_is_robust() {
        assert_eq!(median(vec![3.0, 1.0, 100.0]), 3.0);
        assert!(median(Vec::new()).is_nan());
    }
}
