use burn::tensor::{DType, Device, Tensor};
use regard_testkit::{Draw, Sampler, assert_close, cpu, sweep};

use super::{DplrOptions, dplr, recurrent};
use crate::kimi_delta::{KimiDeltaOptions, kimi_delta, reference};

/// One random problem.
struct Case {
    /// B, T, H.
    sizes: [usize; 3],
    /// q, k, g, a, b.
    keys: [Draw<4>; 5],
    v: Draw<4>,
    state: Draw<4>,
    /// Cotangents of the output and of the state.
    cotangents: [Draw<4>; 2],
    scale: f64,
    chunk: usize,
}

impl Case {
    fn draw(s: &mut Sampler, longest: usize, widest: usize) -> Self {
        let [b, t, h] = [s.size(1, 2), s.size(1, longest), s.size(1, 3)];
        let [k, v] = [s.size(1, widest), s.size(1, widest)];
        let low = s.pick(&[-1e-4, -0.1, -1.0, -30.0, -1000.0]);
        // Of a norm of at most 1 each, so that the state stays of the size of the values.
        let unit = 1.0 / (k as f64).sqrt();
        let mut keys = |low, high| s.tensor([b, t, h, k], low, high);
        Self {
            sizes: [b, t, h],
            keys: [keys(-1.0, 1.0), keys(-unit, unit), keys(low, 0.0), keys(-unit, unit), keys(-unit, unit)],
            v: s.tensor([b, t, h, v], -1.0, 1.0),
            state: s.tensor([b, h, k, v], -1.0, 1.0),
            cotangents: [s.tensor([b, t, h, v], -1.0, 1.0), s.tensor([b, h, k, v], -1.0, 1.0)],
            scale: s.uniform(0.1, 1.0),
            chunk: s.pick(&[1, 4, 16, 32, 64, 128]),
        }
    }

    fn place(&self, device: &Device, dtype: DType) -> ([Tensor<4>; 5], Tensor<4>, Tensor<4>) {
        let place = |x: &Draw<4>| if dtype == DType::F64 { x.f64(device) } else { x.f32(device) };
        (self.keys.each_ref().map(place), place(&self.v), place(&self.state))
    }

    fn operation(&self, (keys, v, state): ([Tensor<4>; 5], Tensor<4>, Tensor<4>)) -> [Tensor<4>; 2] {
        let options = DplrOptions { scale: Some(self.scale), chunk: self.chunk, initial_state: Some(state), ..Default::default() };
        let (o, state) = dplr(keys, v, options).unwrap();
        [o, state]
    }

    fn definition(&self, (keys, v, state): ([Tensor<4>; 5], Tensor<4>, Tensor<4>)) -> [Tensor<4>; 2] {
        let (o, state) = recurrent(keys, v, self.scale, state);
        [o, state]
    }

    /// Outputs and the gradients of all inputs in f64.
    fn with_gradients(&self, f: impl Fn(&Self, ([Tensor<4>; 5], Tensor<4>, Tensor<4>)) -> [Tensor<4>; 2]) -> Vec<Tensor<4>> {
        let device = cpu().autodiff();
        let (keys, v, state) = self.place(&device, DType::F64);
        let (keys, v, state) = (keys.map(Tensor::require_grad), v.require_grad(), state.require_grad());
        let outputs = f(self, (keys.clone(), v.clone(), state.clone()));
        let [o, last] = [0, 1].map(|i| (outputs[i].clone() * self.cotangents[i].f64(&device)).sum());
        let gradients = (o + last).backward();
        let inputs = keys.into_iter().chain([v, state]);
        let gradients = inputs.map(|x| x.grad(&gradients).unwrap_or_else(|| x.inner().zeros_like()));
        outputs.into_iter().map(Tensor::inner).chain(gradients).collect()
    }
}

#[test]
fn chunks_of_any_size_agree_with_the_recurrence_in_outputs_and_all_gradients() {
    sweep("dplr against its recurrence", 25, |s| {
        let case = Case::draw(s, 150, 9);
        let (want, got) = (case.with_gradients(Case::definition), case.with_gradients(Case::operation));
        let largest = want[2..].iter().map(|x| x.clone().abs().max().into_scalar::<f64>()).fold(1e-3, f64::max);
        for (name, (got, want)) in ["o", "state", "dq", "dk", "dg", "da", "db", "dv", "dstate"].iter().zip(got.iter().zip(&want)) {
            // Gradients that cancel to little are as exact as the others.
            let scale = want.clone().abs().max().into_scalar::<f64>().max(1e-3 * largest);
            let error = (got.clone() - want.clone()).abs().max().into_scalar::<f64>() / scale;
            assert!(error < 1e-10, "{name}: {error:.1e} in chunks of {}", case.chunk);
        }
    });
}

#[test]
fn the_fused_kernel_agrees_with_the_recurrence_over_random_shapes() {
    let check = |case: &Case| {
        let want = case.definition(case.place(&cpu(), DType::F64));
        let got = case.operation(case.place(&cpu(), DType::F32));
        for (name, (got, want)) in ["o", "state"].iter().zip(got.into_iter().zip(&want)) {
            assert_close(&format!("{name} in chunks of {}", case.chunk), &got.cast(DType::F64), want, 5e-5);
        }
    };
    sweep("dplr, small", 100, |s| check(&Case::draw(s, 40, 20)));
    sweep("dplr, large", 12, |s| check(&Case::draw(s, 280, 70)));
}

#[test]
fn the_fused_kernel_gives_the_same_bits_with_any_number_of_threads() {
    let mut s = Sampler::new(5);
    let mut case = Case::draw(&mut s, 1, 1);
    let unit = 0.2;
    case.keys =
        [(-1.0, 1.0), (-unit, unit), (-0.5, 0.0), (-unit, unit), (-unit, unit)].map(|(low, high)| s.tensor([1, 777, 3, 20], low, high));
    (case.v, case.state, case.chunk) = (s.tensor([1, 777, 3, 40], -1.0, 1.0), s.tensor([1, 3, 20, 40], -1.0, 1.0), 64);
    let run = || case.operation(case.place(&cpu(), DType::F32));
    let want = run();
    for threads in [1, 2, 5] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        for (got, want) in pool.install(run).iter().zip(&want) {
            assert_close(&format!("{threads} threads"), got, want, 0.0);
        }
    }
}

#[test]
fn tied_to_the_key_it_is_kimi_delta_attention() {
    sweep("dplr against kimi_delta", 20, |s| {
        let case = Case::draw(s, 100, 20);
        let beta = s.tensor(case.sizes, 0.0, 1.0);
        for (dtype, tolerance) in [(DType::F64, 1e-12), (DType::F32, 2e-5)] {
            let ([q, k, g, _, _], v, state) = case.place(&cpu(), dtype);
            let beta = if dtype == DType::F64 { beta.f64(&cpu()) } else { beta.f32(&cpu()) };
            let column = beta.clone().unsqueeze_dim::<4>(3);
            let tied = [q.clone(), k.clone(), g.clone(), k.clone() * column.clone(), k.clone() * g.clone().exp()];
            let got = case.operation((tied, v.clone() * column, state.clone()));
            let options =
                KimiDeltaOptions { scale: Some(case.scale), chunk: case.chunk, initial_state: Some(state.clone()), ..Default::default() };
            let (o, last) = kimi_delta(q.clone(), k.clone(), v.clone(), g.clone(), beta.clone(), options).unwrap();
            let (o_definition, last_definition) = reference::recurrent(q, k, v, g, beta, case.scale, state);
            for want in [[o, last], [o_definition, last_definition]] {
                for (name, (got, want)) in ["o", "state"].iter().zip(got.iter().zip(&want)) {
                    assert_close(&format!("{name}, {dtype:?}"), got, want, tolerance);
                }
            }
        }
    });
}

#[test]
fn no_tokens_leave_the_state() {
    let keys = || Tensor::<4>::zeros([1, 0, 2, 3], &cpu());
    let state = Tensor::<4>::ones([1, 2, 3, 4], &cpu());
    let options = DplrOptions { initial_state: Some(state.clone()), ..Default::default() };
    let (o, last) = dplr([(); 5].map(|()| keys()), Tensor::zeros([1, 0, 2, 4], &cpu()), options).unwrap();
    assert_eq!(o.dims(), [1, 0, 2, 4]);
    assert_close("state", &last, &state, 0.0);
}

#[test]
fn what_does_not_fit_is_one_clear_error() {
    let zeros = |shape: [usize; 4]| Tensor::<4>::zeros(shape, &cpu());
    let error = |change: fn(&mut [Tensor<4>; 5], &mut Tensor<4>, &mut DplrOptions)| {
        let mut keys = [(); 5].map(|()| zeros([1, 5, 2, 3]));
        let (mut v, mut options) = (zeros([1, 5, 2, 4]), DplrOptions::default());
        change(&mut keys, &mut v, &mut options);
        dplr(keys, v, options).unwrap_err().to_string()
    };
    assert_eq!(
        error(|keys, _, _| keys[3] = Tensor::zeros([1, 5, 2, 4], &cpu())),
        "dplr: `q` and `a` must agree in all axes, got [1, 5, 2, 3] and [1, 5, 2, 4]"
    );
    assert_eq!(
        error(|_, v, _| *v = Tensor::zeros([1, 5, 1, 4], &cpu())),
        "dplr: `q` and `v` must agree in batch, tokens and heads, got [1, 5, 2, 3] and [1, 5, 1, 4]"
    );
    assert_eq!(error(|keys, _, _| keys[2] = Tensor::ones([1, 5, 2, 3], &cpu())), "dplr: `g` must be ≤ 0, the logarithm of a decay, got 1");
    assert_eq!(error(|_, _, options| options.chunk = 3), "dplr: `chunk` must be a power of two up to 256, got 3");
    assert_eq!(
        error(|_, _, options| options.initial_state = Some(Tensor::zeros([1, 2, 4, 3], &cpu()))),
        "dplr: `initial_state` must be of shape [1, 2, 3, 4] in F32, got [1, 2, 4, 3] in F32"
    );
    assert_eq!(error(|keys, _, _| keys[1] = keys[1].clone().cast(DType::F64)), "dplr: `k` must be as precise as v, which is F32, got F64");
}
