use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use burn::tensor::{DType, Device, Tensor, TensorData};
use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Draws shapes and tensors of one case of a [`sweep`].
pub struct Sampler(ChaCha8Rng);

impl Sampler {
    /// A sampler of its own, for tests that are not sweeps.
    pub fn new(seed: u64) -> Self {
        Self(ChaCha8Rng::seed_from_u64(seed))
    }

    /// A whole number in `low..=high`.
    pub fn size(&mut self, low: usize, high: usize) -> usize {
        self.0.random_range(low..=high)
    }

    /// One of the given values.
    pub fn pick<T: Copy>(&mut self, values: &[T]) -> T {
        values[self.0.random_range(0..values.len())]
    }

    /// `true` half of the time.
    pub fn flip(&mut self) -> bool {
        self.0.random_bool(0.5)
    }

    /// A number from the uniform distribution over `low..high`.
    pub fn uniform(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * self.0.random::<f64>()
    }

    /// A tensor of independent numbers from the uniform distribution over `low..high`, each exact in f32, so that the same draw in
    /// f32 and in f64 holds the same numbers.
    pub fn tensor<const D: usize>(&mut self, shape: [usize; D], low: f64, high: f64) -> Draw<D> {
        let values = (0..shape.iter().product()).map(|_| self.uniform(low, high) as f32).collect();
        Draw { shape, values }
    }

    /// The random generator itself.
    pub fn rng(&mut self) -> &mut impl Rng {
        &mut self.0
    }
}

/// Numbers drawn once, to be placed on any device in any float type.
#[derive(Clone, Debug)]
pub struct Draw<const D: usize> {
    shape: [usize; D],
    values: Vec<f32>,
}

impl<const D: usize> Draw<D> {
    /// The numbers as an f32 tensor.
    pub fn f32(&self, device: &Device) -> Tensor<D> {
        Tensor::from_data(TensorData::new(self.values.clone(), self.shape), (device, DType::F32))
    }

    /// The axes.
    pub fn shape(&self) -> [usize; D] {
        self.shape
    }

    /// The numbers as an f64 tensor.
    pub fn f64(&self, device: &Device) -> Tensor<D> {
        let values: Vec<f64> = self.values.iter().map(|&x| f64::from(x)).collect();
        Tensor::from_data(TensorData::new(values, self.shape), (device, DType::F64))
    }
}

/// Runs `case` on `count` random draws, times `REGARD_SWEEP` if that is set. The seed is `REGARD_SEED` or a fixed one; it is printed,
/// and a failure prints the number of the failing case, which alone `REGARD_CASE` repeats.
///
/// # Panics
/// If a case panics.
#[allow(clippy::print_stdout)]
pub fn sweep(name: &str, count: u64, case: impl Fn(&mut Sampler)) {
    let number =
        |key: &str| std::env::var(key).ok().map(|v| v.parse::<u64>().unwrap_or_else(|_| panic!("{key} must be a whole number, got {v}")));
    let seed = number("REGARD_SEED").unwrap_or(0x5eed);
    let only = number("REGARD_CASE");
    let count = count * number("REGARD_SWEEP").unwrap_or(1);
    println!("{name}: {count} random cases, REGARD_SEED={seed}");
    for i in (0..count).filter(|&i| only.is_none_or(|o| o == i)) {
        let mut sampler = Sampler::new(seed ^ i.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| case(&mut sampler))) {
            println!("{name}: case {i} failed; repeat with REGARD_SEED={seed} REGARD_CASE={i}");
            resume_unwind(panic);
        }
    }
}
