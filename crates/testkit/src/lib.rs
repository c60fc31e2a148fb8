//! What the tests of Regard share: golden files, gradient checks, random sweeps and the three-way test of causal mixers.
//!
//! Functions here fail a test by panicking with a message that says what differed, where and by how much.

mod coverage;
mod devices;
mod golden;
mod gradcheck;
mod sweep;
mod table;
mod three_way;

pub use coverage::{Coverage, Status, coverage, coverage_table};
pub use devices::{cpu, devices, gpu, poison};
pub use golden::{Case, golden_root, run};
pub use gradcheck::gradcheck;
pub use sweep::{Draw, Sampler, sweep};
pub use table::Errors;
pub use three_way::three_way;

use burn::tensor::{Tensor, TensorData};

/// Largest absolute difference of two tensors relative to the largest magnitude of `want` (at least `1e-12`).
///
/// # Panics
/// If the shapes differ or `got` holds a value that is not finite.
pub fn relative_error<const D: usize>(got: &Tensor<D>, want: &Tensor<D>) -> f64 {
    assert_eq!(got.dims(), want.dims(), "shapes differ");
    let [got, want] = [got, want].map(|t| f64s(&t.to_data()));
    let scale = want.iter().fold(1e-12_f64, |m, x| m.max(x.abs()));
    got.iter().zip(&want).fold(0.0, |m, (a, b)| {
        assert!(a.is_finite(), "got {a}, which is not finite");
        m.max((a - b).abs() / scale)
    })
}

/// Fails unless [`relative_error`] is at most `tolerance`.
///
/// # Panics
/// If the tensors differ by more.
#[track_caller]
pub fn assert_close<const D: usize>(what: &str, got: &Tensor<D>, want: &Tensor<D>, tolerance: f64) {
    let error = relative_error(got, want);
    assert!(error <= tolerance, "{what}: relative error {error:.3e} exceeds {tolerance:.1e}");
}

fn f64s(data: &TensorData) -> Vec<f64> {
    data.iter::<f64>().collect()
}
