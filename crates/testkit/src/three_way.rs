use burn::tensor::Tensor;

use crate::assert_close;

/// The three-way test of a causal mixer: the whole sequence at once, any split into a prefill and single steps, and step by step must
/// give the same output to within `tolerance` of its scale.
///
/// `prefill` continues from a state (it is also called twice in a row), `step` takes one token `[B, D]`.
///
/// # Panics
/// If two of the three differ.
#[track_caller]
pub fn three_way<S>(
    name: &str,
    x: &Tensor<3>,
    tolerance: f64,
    forward: impl Fn(Tensor<3>) -> Tensor<3>,
    state: impl Fn() -> S,
    prefill: impl Fn(Tensor<3>, &mut S) -> Tensor<3>,
    step: impl Fn(Tensor<2>, &mut S) -> Tensor<2>,
) {
    let [_, t, _] = x.dims();
    let want = forward(x.clone());
    let steps = |range: std::ops::Range<usize>, state: &mut S| -> Vec<Tensor<3>> {
        range.map(|i| step(x.clone().narrow(1, i, 1).squeeze_dim(1), state).unsqueeze_dim(1)).collect()
    };
    let by_step = Tensor::cat(steps(0..t, &mut state()), 1);
    assert_close(&format!("{name}: step by step"), &by_step, &want, tolerance);
    for split in [1, t / 3, t / 2, t - 1, t].into_iter().filter(|&s| s > 0) {
        let mut s = state();
        let mut parts = vec![prefill(x.clone().narrow(1, 0, split), &mut s)];
        parts.extend(steps(split..t, &mut s));
        assert_close(&format!("{name}: prefill of {split}, then steps"), &Tensor::cat(parts, 1), &want, tolerance);
        if split < t {
            let mut s = state();
            let parts = vec![prefill(x.clone().narrow(1, 0, split), &mut s), prefill(x.clone().narrow(1, split, t - split), &mut s)];
            assert_close(&format!("{name}: two prefills, split at {split}"), &Tensor::cat(parts, 1), &want, tolerance);
        }
    }
}
