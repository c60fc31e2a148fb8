use burn::tensor::{DType, Tensor, TensorData};

use crate::{f64s, sweep::Draw};

/// Compares the gradient of a scalar function with central differences in f64: `(f(x + εe) − f(x − εe)) / 2ε` for each element of
/// each input, ε = 1e-5.
///
/// # Panics
/// If an element differs by more than `tolerance · max(1, |difference quotient|)`, or if the gradient is missing.
#[track_caller]
pub fn gradcheck<const D: usize>(what: &str, inputs: &[Draw<D>], tolerance: f64, f: impl Fn(&[Tensor<D>]) -> Tensor<1>) {
    const EPSILON: f64 = 1e-5;
    let device = crate::cpu();
    let tracked: Vec<_> = inputs.iter().map(|x| x.f64(&device.clone().autodiff()).require_grad()).collect();
    let grads = f(&tracked).backward();
    for (i, x) in tracked.iter().enumerate() {
        let analytic = f64s(&x.grad(&grads).unwrap_or_else(|| panic!("{what}: input {i} has no gradient")).into_data());
        let base = f64s(&inputs[i].f64(&device).into_data());
        for j in 0..base.len() {
            let at = |delta: f64| {
                let mut values = base.clone();
                values[j] += delta;
                let moved = Tensor::<D>::from_data(TensorData::new(values, inputs[i].f64(&device).dims()), (&device, DType::F64));
                let args: Vec<_> = (0..inputs.len()).map(|k| if k == i { moved.clone() } else { inputs[k].f64(&device) }).collect();
                f64s(&f(&args).into_data())[0]
            };
            let numeric = (at(EPSILON) - at(-EPSILON)) / (2.0 * EPSILON);
            let error = (analytic[j] - numeric).abs();
            assert!(
                error <= tolerance * numeric.abs().max(1.0),
                "{what}: gradient of input {i} at {j} is {}, central difference {numeric}",
                analytic[j]
            );
        }
    }
}
