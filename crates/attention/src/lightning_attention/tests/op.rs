use burn::tensor::{DType, Device, Tensor};
use regard_testkit::{Draw, Sampler, assert_close, cpu, devices, gradcheck, relative_error, sweep};

use super::VARIANTS;
use crate::lightning_attention::{DecayRule, LightningOpts, Variant, lightning_attention};

/// Queries, keys, values, initial state and the cotangents of both results.
struct Problem {
    q: Draw<4>,
    k: Draw<4>,
    v: Draw<4>,
    state: Draw<4>,
    cotangent_o: Draw<4>,
    cotangent_state: Draw<4>,
    slopes: Vec<f64>,
}

impl Problem {
    fn draw(s: &mut Sampler, [b, h, t, d_k, d_v]: [usize; 5], slopes: Vec<f64>) -> Self {
        Self {
            q: s.tensor([b, h, t, d_k], -1.0, 1.0),
            k: s.tensor([b, h, t, d_k], -1.0, 1.0),
            v: s.tensor([b, h, t, d_v], -1.0, 1.0),
            state: s.tensor([b, h, d_k, d_v], -1.0, 1.0),
            cotangent_o: s.tensor([b, h, t, d_v], -1.0, 1.0),
            cotangent_state: s.tensor([b, h, d_k, d_v], -1.0, 1.0),
            slopes,
        }
    }

    /// Both results and the four gradients.
    fn solve(&self, variant: Variant, block: usize, dtype: DType, device: &Device) -> [Tensor<4>; 6] {
        let device = device.clone().autodiff();
        let place = |x: &Draw<4>| if dtype == DType::F64 { x.f64(&device) } else { x.f32(&device) };
        let inputs = [&self.q, &self.k, &self.v, &self.state].map(|x| place(x).require_grad());
        let [q, k, v, state] = inputs.clone();
        let options = LightningOpts { block, variant, initial_state: Some(state), ..Default::default() };
        let (o, state) = lightning_attention(q, k, v, &self.slopes, options).unwrap();
        let loss = (o.clone() * place(&self.cotangent_o)).sum() + (state.clone() * place(&self.cotangent_state)).sum();
        let grads = loss.backward();
        let [dq, dk, dv, ds] = inputs.map(|x| x.grad(&grads).expect("tracked"));
        [o.inner(), state.inner(), dq, dk, dv, ds]
    }
}

const NAMES: [&str; 6] = ["o", "state", "dq", "dk", "dv", "dstate"];

fn rates(s: &mut Sampler, heads: usize) -> Vec<f64> {
    let layers = s.size(1, 8);
    let layer = s.size(0, layers - 1);
    s.pick(&[DecayRule::Code, DecayRule::Paper, DecayRule::Fla]).slopes(heads, layers, layer)
}

#[test]
fn all_algorithms_agree_in_results_and_gradients_over_random_shapes() {
    for device in devices() {
        sweep("lightning_attention", 200, |s| {
            let longest = s.pick(&[8, 40, 70, 130, 700]);
            // The token loop keeps every state for its gradients.
            let h = s.size(1, if longest > 200 { 2 } else { 12 });
            let shape = [s.size(1, 2), h, s.size(1, longest), s.size(1, 130), s.size(1, 130)];
            let slopes = rates(s, h);
            let block = s.pick(&[1, 7, 16, 64]).max(shape[2] / 40);
            let problem = Problem::draw(s, shape, slopes);
            let want = problem.solve(Variant::Recurrent, block, DType::F64, &device);
            for variant in [Variant::Tiled, Variant::ParallelScan, Variant::LeftProduct] {
                for (dtype, tolerance) in [(DType::F64, 1e-12), (DType::F32, 1e-5)] {
                    let got = problem.solve(variant, block, dtype, &device);
                    for ((name, got), want) in NAMES.iter().zip(got).zip(&want) {
                        let what = format!("{variant:?} {dtype:?} {shape:?} block {block}: {name}");
                        assert_close(&what, &got.cast(DType::F64), want, tolerance);
                    }
                }
            }
        });
    }
}

#[test]
fn every_split_into_prefills_gives_the_whole() {
    sweep("lightning_attention prefill", 40, |s| {
        let h = s.size(1, 4);
        let shape = [s.size(1, 2), h, s.size(1, 150), s.size(1, 20), s.size(1, 20)];
        let slopes = rates(s, h);
        let problem = Problem::draw(s, shape, slopes);
        let [q, k, v] = [&problem.q, &problem.k, &problem.v].map(|x| x.f64(&cpu()));
        for variant in VARIANTS {
            let options = |initial_state| LightningOpts { block: 16, variant, initial_state, ..Default::default() };
            let (want, want_state) = lightning_attention(q.clone(), k.clone(), v.clone(), &problem.slopes, options(None)).unwrap();
            let (mut outs, mut state, mut start) = (Vec::new(), None, 0);
            while start < shape[2] {
                let length = s.size(1, shape[2] - start);
                let [q, k, v] = [&q, &k, &v].map(|x| x.clone().narrow(2, start, length));
                let (o, next) = lightning_attention(q, k, v, &problem.slopes, options(state)).unwrap();
                outs.push(o);
                state = Some(next);
                start += length;
            }
            assert_close("outputs", &Tensor::cat(outs, 2), &want, 1e-12);
            assert_close("state", &state.unwrap(), &want_state, 1e-12);
        }
    });
}

#[test]
fn gradients_match_central_differences() {
    let mut s = Sampler::new(3);
    let p = Problem::draw(&mut s, [1, 2, 7, 3, 2], vec![0.3, 0.0]);
    let weights = [p.cotangent_o.f64(&cpu()), p.cotangent_state.f64(&cpu())];
    let inputs = [p.q, p.k, p.v, p.state];
    gradcheck("lightning_attention", &inputs, 1e-8, |x| {
        let [q, k, v, state] = [0, 1, 2, 3].map(|i| x[i].clone());
        let options = LightningOpts { block: 3, scale: 0.7, initial_state: Some(state), ..Default::default() };
        let (o, state) = lightning_attention(q, k, v, &[0.3, 0.0], options).unwrap();
        let [wo, ws] = weights.clone().map(|w| Tensor::from_data(w.into_data(), (&o.device(), DType::F64)));
        (o * wo).sum() + (state * ws).sum()
    });
}

#[test]
fn a_slope_of_8_and_one_of_a_hundred_thousandth_keep_full_precision() {
    let problem = Problem::draw(&mut Sampler::new(8), [1, 2, 300, 16, 16], vec![8.0, 1e-5]);
    let want = problem.solve(Variant::Recurrent, 64, DType::F64, &cpu());
    for variant in [Variant::Tiled, Variant::ParallelScan, Variant::LeftProduct] {
        for ((name, got), want) in NAMES.iter().zip(problem.solve(variant, 64, DType::F32, &cpu())).zip(&want) {
            for head in 0..2 {
                let [got, want] = [&got.clone().cast(DType::F64), want].map(|x| x.clone().narrow(1, head, 1));
                let error = relative_error(&got, &want);
                assert!(error < 2e-6, "{variant:?}: {name} of head {head} is off by {error:.1e}");
            }
        }
    }
}

#[test]
fn packed_sequences_do_not_see_one_another() {
    let p = Problem::draw(&mut Sampler::new(4), [1, 2, 40, 5, 3], vec![0.1, 0.02]);
    let states: Draw<4> = Sampler::new(5).tensor([6, 2, 5, 3], -1.0, 1.0);
    let [q, k, v] = [&p.q, &p.k, &p.v].map(|x| x.f64(&cpu()));
    let states = states.f64(&cpu());
    let bounds = [0, 0, 17, 17, 18, 40, 40];
    for variant in VARIANTS {
        let options = |cu_seqlens, state| LightningOpts { block: 8, variant, cu_seqlens, initial_state: Some(state), ..Default::default() };
        let all = lightning_attention(q.clone(), k.clone(), v.clone(), &p.slopes, options(Some(bounds.to_vec()), states.clone())).unwrap();
        for (i, bound) in bounds.windows(2).enumerate() {
            let length = bound[1] - bound[0];
            let (first, last) = (states.clone().narrow(0, i, 1), all.1.clone().narrow(0, i, 1));
            if length == 0 {
                assert_close("state without tokens", &last, &first, 0.0);
                continue;
            }
            let [q, k, v] = [&q, &k, &v].map(|x| x.clone().narrow(2, bound[0], length));
            let alone = lightning_attention(q, k, v, &p.slopes, options(None, first)).unwrap();
            assert_close("o", &all.0.clone().narrow(2, bound[0], length), &alone.0, 1e-14);
            assert_close("state", &last, &alone.1, 1e-14);
        }
    }
}

#[test]
fn a_sequence_without_tokens_returns_its_initial_state() {
    let empty = |shape| Tensor::<4>::zeros(shape, &cpu());
    let state: Draw<4> = Sampler::new(1).tensor([2, 3, 4, 5], -1.0, 1.0);
    for variant in VARIANTS {
        let options = LightningOpts { variant, initial_state: Some(state.f32(&cpu())), ..Default::default() };
        let (o, last) = lightning_attention(empty([2, 3, 0, 4]), empty([2, 3, 0, 4]), empty([2, 3, 0, 5]), &[0.1; 3], options).unwrap();
        assert_eq!(o.dims(), [2, 3, 0, 5]);
        assert_close("state", &last, &state.f32(&cpu()), 0.0);
        let options = LightningOpts { variant, cu_seqlens: Some(vec![0, 0]), ..Default::default() };
        let (o, last) = lightning_attention(empty([1, 3, 0, 4]), empty([1, 3, 0, 4]), empty([1, 3, 0, 5]), &[0.1; 3], options).unwrap();
        assert_eq!((o.dims(), last.dims()), ([1, 3, 0, 5], [1, 3, 4, 5]));
        for [b, h] in [[0, 3], [2, 0]] {
            let options = LightningOpts { variant, ..Default::default() };
            let (q, v) = (empty([b, h, 6, 4]), empty([b, h, 6, 5]));
            let (o, last) = lightning_attention(q.clone(), q, v, &vec![0.1; h], options).unwrap();
            assert_eq!((o.dims(), last.dims()), ([b, h, 6, 5], [b, h, 4, 5]));
        }
    }
}

#[test]
fn the_future_and_the_batch_mates_change_nothing() {
    let mut s = Sampler::new(6);
    let p = Problem::draw(&mut s, [2, 2, 50, 6, 6], vec![0.05, 0.0]);
    let [q, k, v] = [&p.q, &p.k, &p.v].map(|x| x.f32(&cpu()));
    let run = |k: Tensor<4>, v: Tensor<4>, variant| {
        let options = LightningOpts { block: 16, variant, ..Default::default() };
        lightning_attention(q.clone(), k, v, &p.slopes, options).unwrap().0
    };
    for variant in VARIANTS {
        let before = run(k.clone(), v.clone(), variant);
        let later = |x: &Tensor<4>| x.clone().slice_assign([0..2, 0..2, 23..50, 0..6], Tensor::full([2, 2, 27, 6], 9.0, &cpu()));
        let after = run(later(&k), later(&v), variant);
        let first = |x: &Tensor<4>| x.clone().narrow(2, 0, 23).into_data();
        assert_eq!(first(&before), first(&after), "{variant:?}: the future");
        assert!(relative_error(&after, &before) > 0.1, "{variant:?}: nothing changed at all");
        let mate = |x: &Tensor<4>| x.clone().slice_assign([1..2, 0..2, 0..50, 0..6], Tensor::full([1, 2, 50, 6], f64::NAN, &cpu()));
        let poisoned = run(mate(&k), mate(&v), variant);
        let own = |x: Tensor<4>| x.narrow(0, 0, 1).into_data();
        assert_eq!(own(before), own(poisoned), "{variant:?}: the batch mate");
    }
}

#[test]
fn a_row_whose_past_is_masked_gives_exactly_zero() {
    let p = Problem::draw(&mut Sampler::new(7), [1, 2, 40, 6, 6], vec![0.05, 0.0]);
    let [q, k, v] = [&p.q, &p.k, &p.v].map(|x| x.f32(&cpu()));
    let v = v.slice_assign([0..1, 0..2, 0..30, 0..6], Tensor::zeros([1, 2, 30, 6], &cpu()));
    for variant in VARIANTS {
        let options = LightningOpts { block: 16, variant, ..Default::default() };
        let (o, _) = lightning_attention(q.clone(), k.clone(), v.clone(), &p.slopes, options).unwrap();
        assert!(o.narrow(2, 0, 30).into_data().iter::<f32>().all(|x| x == 0.0), "{variant:?}");
    }
}

#[test]
fn half_precision_is_computed_in_f32() {
    let p = Problem::draw(&mut Sampler::new(9), [1, 1, 100, 8, 8], vec![1e-5]);
    let cast = [&p.q, &p.k, &p.v].map(|x| x.f32(&cpu()).cast(DType::BF16));
    let wide = cast.clone().map(|x| x.cast(DType::F32));
    let run = |[q, k, v]: [Tensor<4>; 3]| lightning_attention(q, k, v, &p.slopes, LightningOpts::default()).unwrap();
    let ((o, state), (want, want_state)) = (run(cast), run(wide));
    assert_eq!((o.dtype(), state.dtype()), (DType::BF16, DType::F32));
    assert_close("state", &state, &want_state, 0.0);
    assert_close("o", &o.cast(DType::F32), &want, 1.0 / 256.0);
}
