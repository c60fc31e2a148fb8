use burn::tensor::{DType, Tensor, TensorData};
use regard_testkit::{Draw, Errors, Sampler, assert_close, cpu, sweep};

use crate::strip_attention::{StripOptions, reference, strip_attention};

fn solve(inputs: &[Draw<4>; 3], cotangent: &Draw<4>, dtype: DType, f: impl Fn([Tensor<4>; 3]) -> Tensor<4>) -> Vec<TensorData> {
    let device = cpu().autodiff();
    let place = |x: &Draw<4>| if dtype == DType::F64 { x.f64(&device) } else { x.f32(&device) };
    let leaves = inputs.each_ref().map(|x| place(x).require_grad());
    let o = f(leaves.clone());
    let grads = (o.clone() * place(cotangent)).sum().backward();
    let gradients = leaves.map(|x| x.grad(&grads).unwrap_or_else(|| x.inner().zeros_like()).into_data());
    std::iter::once(o.into_data()).chain(gradients).collect()
}

fn draw(s: &mut Sampler, e: usize, spread: f64) -> ([Draw<4>; 3], Draw<4>) {
    let [b, h, n, keys, v] = [s.size(1, 2), s.size(1, 3), s.size(1, 90), s.size(1, 90), s.size(1, 20)];
    let q = s.tensor([b, h, n, e], -spread, spread);
    let inputs = [q, s.tensor([b, h, keys, e], -spread, spread), s.tensor([b, h, keys, v], -1.0, 1.0)];
    (inputs, s.tensor([b, h, n, v], -1.0, 1.0))
}

#[test]
fn the_operation_matches_the_definition_over_random_shapes() {
    let errors = Errors::new("strip attention", &["o", "dq", "dk", "dv"], 1e-5);
    sweep("strip attention", 500, |s| {
        let e = s.size(1, 4);
        let (inputs, cotangent) = draw(s, e, 3.0);
        let scale = s.uniform(0.1, 1.0);
        let options = StripOptions { scale: Some(scale), interpolate: None };
        let want = solve(&inputs, &cotangent, DType::F64, |[q, k, v]| reference::dense(q, k, v, scale));
        let got = || solve(&inputs, &cotangent, DType::F32, |[q, k, v]| strip_attention(q, k, v, options).unwrap());
        errors.add(&format!("{:?}", inputs.each_ref().map(Draw::shape)), got(), got(), want);
    });
    errors.finish();
}

/// The error of the output is bounded by what was asked for; a derivative of the interpolant is off by m² times that at most (Markov).
#[test]
fn interpolation_is_as_exact_as_was_asked_for() {
    for (error, allowed) in [(1e-3, 0.1), (1e-9, 1e-6)] {
        let errors = Errors::new("strip attention, interpolated", &["o", "dq", "dk", "dv"], allowed);
        sweep("strip attention, interpolated", 300, |s| {
            let spread = s.pick(&[0.1, 0.5, 1.0, 1.5]);
            let (inputs, cotangent) = draw(s, 1, spread);
            let options = StripOptions { scale: Some(0.8), interpolate: Some(error) };
            let want = solve(&inputs, &cotangent, DType::F64, |[q, k, v]| reference::dense(q, k, v, 0.8));
            let got = || solve(&inputs, &cotangent, DType::F64, |[q, k, v]| strip_attention(q, k, v, options).unwrap());
            let output: Vec<f64> = got()[0].iter::<f64>().collect();
            let off = output.iter().zip(want[0].iter::<f64>()).fold(0.0_f64, |off, (got, want)| off.max((got - want).abs()));
            assert!(off <= error, "off by {off:.1e}, allowed {error:.1e}"); // values are at most 1
            errors.add(&format!("{:?}", inputs.each_ref().map(Draw::shape)), got(), got(), want);
        });
        errors.finish();
    }
}

#[test]
fn equal_queries_or_keys_and_scores_that_are_no_numbers_are_taken() {
    let mut s = Sampler::new(1);
    let options = StripOptions { interpolate: Some(1e-6), ..Default::default() };
    let exact = StripOptions::default();
    let [k, v] = [(); 2].map(|()| s.tensor([1, 2, 50, 1], -1.0, 1.0).f32(&cpu()));
    let same = Tensor::<4>::full([1, 2, 60, 1], 0.3, &cpu());
    let run = |q: &Tensor<4>, k: &Tensor<4>, options| strip_attention(q.clone(), k.clone(), v.clone(), options).unwrap();
    assert_close("equal queries", &run(&same, &k, options), &run(&same, &k, exact), 1e-5);
    let q = s.tensor([1, 2, 60, 1], -1.0, 1.0).f32(&cpu());
    let keys = Tensor::<4>::full([1, 2, 50, 1], 0.3, &cpu());
    assert_close("equal keys", &run(&q, &keys, options), &run(&q, &keys, exact), 1e-5);
    let nan = Tensor::<4>::full([1, 2, 60, 1], f32::NAN, &cpu());
    assert!(run(&nan, &k, options).into_data().iter::<f32>().all(f32::is_nan));
}
