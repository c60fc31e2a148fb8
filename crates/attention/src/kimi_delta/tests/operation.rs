use burn::tensor::{DType, Device, Tensor, TensorData};
use regard_testkit::{Draw, Sampler, assert_close, cpu, gradcheck, relative_error, sweep};

use crate::kimi_delta::{KimiDeltaOptions, kimi_delta, reference};

/// The inputs of one problem, drawn once for every float type.
struct Problem {
    /// q, k, v, g, state.
    floats: [Draw<4>; 5],
    beta: Draw<3>,
}

impl Problem {
    /// Log decays in `low..0`; keys of a norm of at most 1, as after normalisation: longer ones let states grow.
    fn new(sampler: &mut Sampler, [b, t, h, w]: [usize; 4], [d_k, d_v]: [usize; 2], low: f64) -> Self {
        let bound = 1.0 / (d_k as f64).sqrt();
        Self {
            floats: [
                sampler.tensor([b, t, h, d_k], -1.0, 1.0),
                sampler.tensor([b, t, h, d_k], -bound, bound),
                sampler.tensor([b, t, w, d_v], -1.0, 1.0),
                sampler.tensor([b, t, w, d_k], low, 0.0),
                sampler.tensor([b, w, d_k, d_v], -1.0, 1.0),
            ],
            beta: sampler.tensor([b, t, w], 0.0, 1.0),
        }
    }

    fn inputs(&self, dtype: DType, device: &Device) -> ([Tensor<4>; 5], Tensor<3>) {
        if dtype == DType::F64 {
            (self.floats.each_ref().map(|x| x.f64(device)), self.beta.f64(device))
        } else {
            (self.floats.each_ref().map(|x| x.f32(device)), self.beta.f32(device))
        }
    }
}

/// By chunks of a size, or by the definition.
fn compute(([q, k, v, g, state], beta): ([Tensor<4>; 5], Tensor<3>), chunk: Option<usize>) -> (Tensor<4>, Tensor<4>) {
    let Some(chunk) = chunk else {
        let scale = 1.0 / (q.dims()[3] as f64).sqrt();
        return reference::recurrent(q, k, v, g, beta, scale, state);
    };
    let options = KimiDeltaOptions { chunk, initial_state: Some(state), ..Default::default() };
    kimi_delta(q, k, v, g, beta, options).unwrap()
}

/// A scalar that depends on every element of both outputs in its own way.
fn loss(o: Tensor<4>, state: Tensor<4>) -> Tensor<1> {
    let weights = |x: &Tensor<4>| {
        let values: Vec<f64> = (0..x.dims().iter().product()).map(|i: usize| (0.7 * i as f64).sin()).collect();
        Tensor::<4>::from_data(TensorData::new(values, x.dims()), (&x.device(), x.dtype()))
    };
    let (a, b) = (weights(&o), weights(&state));
    (o * a).sum() + (state * b).sum()
}

/// Outputs and all gradients, each as a row.
fn everything(problem: &Problem, dtype: DType, chunk: Option<usize>) -> Vec<(&'static str, Tensor<1>)> {
    let (floats, beta) = problem.inputs(dtype, &cpu().autodiff());
    let (floats, beta) = (floats.map(Tensor::require_grad), beta.require_grad());
    let (o, state) = compute((floats.clone(), beta.clone()), chunk);
    let mut all = vec![("o", o.clone().inner().reshape([-1])), ("state", state.clone().inner().reshape([-1]))];
    let grads = loss(o, state).backward();
    for (name, x) in ["dq", "dk", "dv", "dg", "dstate"].into_iter().zip(floats) {
        all.push((name, x.grad(&grads).expect(name).reshape([-1])));
    }
    all.push(("dbeta", beta.grad(&grads).expect("dbeta").reshape([-1])));
    all
}

fn agree(problem: &Problem, chunk: usize) {
    let want = everything(problem, DType::F64, None);
    for (dtype, tolerance) in [(DType::F64, 1e-10), (DType::F32, 1e-4)] {
        for ((name, got), (_, want)) in everything(problem, dtype, Some(chunk)).into_iter().zip(&want) {
            assert_close(&format!("{name}, {dtype:?}, chunks of {chunk}"), &got.cast(DType::F64), want, tolerance);
        }
    }
}

#[test]
fn chunks_of_any_size_agree_with_the_definition_in_outputs_and_all_gradients() {
    sweep("kimi_delta against its definition", 20, |sampler| {
        let chunk = sampler.pick(&[1, 16, 32, 64, 128]);
        let t = sampler.size(1, 300);
        let h = sampler.size(1, 2);
        let w = h * sampler.size(1, 2);
        let widths = [sampler.size(1, 9), sampler.size(1, 9)];
        let low = sampler.pick(&[-1e-4, -0.1, -1.0, -30.0]);
        let batch = sampler.size(1, 2);
        agree(&Problem::new(sampler, [batch, t, h, w], widths, low), chunk);
    });
}

#[test]
fn lengths_around_a_chunk_and_several_runs_of_chunks_agree_with_the_definition() {
    for t in [1, 2, 15, 16, 17, 31, 32, 33] {
        agree(&Problem::new(&mut Sampler::new(t as u64), [1, t, 1, 1], [3, 2], -1.0), 16);
    }
    agree(&Problem::new(&mut Sampler::new(7), [2, 300, 4, 8], [3, 2], -0.5), 16);
}

#[test]
#[allow(clippy::print_stdout, reason = "names the case that failed")]
fn extreme_decays_strengths_and_keys_agree_with_the_definition() {
    for (name, decay, beta, key) in [
        ("no decay", 0.0, 0.5, 1.0),
        ("everything forgotten", -1000.0, 0.5, 1.0),
        ("nothing written", -0.1, 0.0, 1.0),
        ("everything corrected", -0.1, 1.0, 1.0),
        ("no key", -0.1, 0.5, 0.0),
    ] {
        for t in [1, 40] {
            let mut problem = Problem::new(&mut Sampler::new(3), [1, t, 2, 2], [4, 3], -1.0);
            let mut sampler = Sampler::new(4);
            problem.floats[3] = sampler.tensor([1, t, 2, 4], decay, decay);
            problem.beta = sampler.tensor([1, t, 2], beta, beta);
            if key == 0.0 {
                problem.floats[1] = sampler.tensor([1, t, 2, 4], 0.0, 0.0);
            }
            println!("{name}, {t} tokens");
            agree(&problem, 16);
        }
    }
}

#[test]
fn gradients_are_those_of_central_differences() {
    let mut sampler = Sampler::new(11);
    let problem = Problem::new(&mut sampler, [1, 5, 1, 2], [2, 3], -1.0);
    gradcheck("kimi_delta", &problem.floats, 1e-7, |x| {
        let beta = problem.beta.f64(&x[0].device());
        let (o, state) = compute(([x[0].clone(), x[1].clone(), x[2].clone(), x[3].clone().abs().neg(), x[4].clone()], beta), Some(4));
        loss(o, state)
    });
    gradcheck("kimi_delta, beta", std::slice::from_ref(&problem.beta), 1e-7, |x| {
        let floats = problem.floats.each_ref().map(|f| f.f64(&x[0].device()));
        let (o, state) = compute((floats, x[0].clone()), Some(4));
        loss(o, state)
    });
}

#[test]
fn without_decay_it_is_deltanet_and_one_decay_per_head_is_gated_deltanet() {
    let problem = Problem::new(&mut Sampler::new(5), [2, 37, 2, 2], [4, 4], 0.0);
    let ([q, k, v, _, state], beta) = problem.inputs(DType::F64, &cpu());
    // S ← S (I − β k kᵀ) + β v kᵀ, with S [V, K] as in the DeltaNet paper.
    let delta_net = |alpha: Option<&Tensor<3>>| {
        let mut s = state.clone().swap_dims(2, 3);
        let mut out = Vec::new();
        for t in 0..37 {
            let at = |x: &Tensor<4>| x.clone().narrow(1, t, 1).reshape([2, 2, 4, 1]);
            let scalar = |x: &Tensor<3>| x.clone().narrow(1, t, 1).reshape([2, 2, 1, 1]);
            let (q, k, v, beta) = (at(&q), at(&k), at(&v), scalar(&beta));
            if let Some(alpha) = alpha {
                s = s * scalar(alpha);
            }
            s = s.clone() - s.matmul(k.clone()).matmul(k.clone().swap_dims(2, 3)) * beta.clone() + v.matmul(k.swap_dims(2, 3)) * beta;
            out.push(s.clone().matmul(q * 0.5).reshape([2, 1, 2, 4]));
        }
        Tensor::<4>::cat(out, 1)
    };
    let run = |g: Tensor<4>| {
        let options = KimiDeltaOptions { chunk: 16, initial_state: Some(state.clone()), ..Default::default() };
        kimi_delta(q.clone(), k.clone(), v.clone(), g, beta.clone(), options).unwrap().0
    };
    assert_close("DeltaNet", &run(k.zeros_like()), &delta_net(None), 1e-12);
    let g = Sampler::new(6).tensor([2, 37, 2, 1], -2.0, 0.0).f64(&cpu());
    assert_close("Gated DeltaNet", &run(g.clone()), &delta_net(Some(&g.exp().squeeze_dim(3))), 1e-12);
}

#[test]
fn the_gradient_of_one_decay_per_head_is_summed_over_the_channels() {
    let problem = Problem::new(&mut Sampler::new(8), [1, 20, 1, 2], [3, 2], 0.0);
    let ([q, k, v, _, _], beta) = problem.inputs(DType::F64, &cpu().autodiff());
    let g = Sampler::new(9).tensor([1, 20, 2, 1], -2.0, 0.0).f64(&cpu().autodiff()).require_grad();
    let (o, state) = kimi_delta(q.clone(), k.clone(), v.clone(), g.clone(), beta.clone(), KimiDeltaOptions::default()).unwrap();
    let got = g.grad(&loss(o, state).backward()).unwrap();
    let wide = Tensor::<4>::from_data(g.to_data(), (&g.device(), DType::F64)).expand([1, 20, 2, 3]) * 1.0;
    let wide = wide.detach().require_grad();
    let (o, state) = kimi_delta(q, k, v, wide.clone(), beta, KimiDeltaOptions::default()).unwrap();
    assert_close("dg", &got, &wide.grad(&loss(o, state).backward()).unwrap().sum_dim(3), 1e-12);
}

#[test]
fn gradients_do_not_depend_on_checkpointing_and_flow_through_the_state_alone() {
    let problem = Problem::new(&mut Sampler::new(15), [1, 40, 2, 2], [3, 2], -1.0);
    let [plain, balanced] = [cpu().autodiff(), cpu().autodiff().gradient_checkpointing()].map(|device| {
        let (floats, beta) = problem.inputs(DType::F64, &device);
        let floats = floats.map(Tensor::require_grad);
        let (_, state) = compute((floats.clone(), beta), Some(16));
        let grads = state.square().sum().backward();
        floats.map(|x| x.grad(&grads).unwrap())
    });
    for (plain, balanced) in plain.iter().zip(&balanced) {
        assert_close("gradient", balanced, plain, 0.0);
    }
    assert!(plain[0].clone().abs().max().into_scalar::<f64>() == 0.0, "the state does not depend on the queries");
    assert!(plain[1].clone().abs().max().into_scalar::<f64>() > 1e-3);
}

#[test]
fn outputs_stay_on_the_device_of_untracked_inputs() {
    let device = cpu().autodiff();
    let (inputs, beta) = Problem::new(&mut Sampler::new(16), [1, 5, 1, 1], [3, 2], -1.0).inputs(DType::F32, &device);
    let (o, state) = compute((inputs, beta), Some(16));
    assert_eq!((o.device(), state.device()), (device.clone(), device));
    assert!(!o.is_tracked());
}

#[test]
fn no_token_leaves_the_state_as_it_is() {
    let problem = Problem::new(&mut Sampler::new(1), [2, 0, 1, 1], [3, 2], -1.0);
    let (inputs, beta) = problem.inputs(DType::F32, &cpu());
    let before = inputs[4].clone();
    let (o, state) = compute((inputs, beta), Some(64));
    assert_eq!(o.dims(), [2, 0, 1, 2]);
    assert_close("state", &state, &before, 0.0);
}

#[test]
fn packed_sequences_are_computed_as_if_alone() {
    let bounds = [0, 5, 5, 6, 40];
    let mut sampler = Sampler::new(12);
    let mut problem = Problem::new(&mut sampler, [1, 40, 1, 2], [3, 2], -1.0);
    problem.floats[4] = sampler.tensor([4, 2, 3, 2], -1.0, 1.0);
    let (floats, beta) = problem.inputs(DType::F64, &cpu().autodiff());
    let (floats, beta) = (floats.map(Tensor::require_grad), beta.require_grad());
    let options = |state, cu_seqlens| KimiDeltaOptions { chunk: 16, initial_state: Some(state), cu_seqlens, ..Default::default() };
    let [q, k, v, g, states] = floats.clone();
    let (o, state) =
        kimi_delta(q.clone(), k.clone(), v.clone(), g.clone(), beta.clone(), options(states.clone(), Some(bounds.to_vec()))).unwrap();
    let grads = loss(o.clone(), state.clone()).backward();
    let packed: Vec<_> = floats.iter().map(|x| x.grad(&grads).unwrap()).collect();

    let (mut outs, mut last) = (Vec::new(), Vec::new());
    for (n, ends) in bounds.windows(2).enumerate() {
        if ends[0] == ends[1] {
            last.push(states.clone().narrow(0, n, 1));
            continue;
        }
        let cut = |x: &Tensor<4>| x.clone().narrow(1, ends[0], ends[1] - ends[0]);
        let beta = beta.clone().narrow(1, ends[0], ends[1] - ends[0]);
        let (o, state) = kimi_delta(cut(&q), cut(&k), cut(&v), cut(&g), beta, options(states.clone().narrow(0, n, 1), None)).unwrap();
        outs.push(o);
        last.push(state);
    }
    let (alone, alone_state) = (Tensor::cat(outs, 1), Tensor::cat(last, 0));
    assert_close("o", &o.inner(), &alone.clone().inner(), 0.0);
    assert_close("state", &state.inner(), &alone_state.clone().inner(), 0.0);
    let grads = loss(alone, alone_state).backward();
    for (x, packed) in floats.iter().zip(&packed) {
        assert_close("gradient", packed, &x.grad(&grads).unwrap(), 0.0);
    }
}

#[test]
fn a_sample_does_not_depend_on_its_batch_mates_nor_on_the_future() {
    let problem = Problem::new(&mut Sampler::new(13), [3, 50, 2, 2], [4, 3], -0.5);
    let (inputs, beta) = problem.inputs(DType::F32, &cpu());
    let (o, state) = compute((inputs.clone(), beta.clone()), Some(16));
    let alone = (inputs.clone().map(|x| x.narrow(0, 1, 1)), beta.clone().narrow(0, 1, 1));
    let (o_alone, state_alone) = compute(alone, Some(16));
    assert_close("o", &o.clone().narrow(0, 1, 1), &o_alone, 0.0);
    assert_close("state", &state.narrow(0, 1, 1), &state_alone, 0.0);

    let [q, k, v, g, s] = inputs;
    let changed = |x: Tensor<4>| Tensor::cat(vec![x.clone().narrow(1, 0, 21), x.narrow(1, 21, 29) * 7.0], 1);
    let (o_changed, _) = compute(([changed(q), changed(k), changed(v), changed(g), s], beta), Some(16));
    assert_close("the past", &o_changed.clone().narrow(1, 0, 21), &o.clone().narrow(1, 0, 21), 0.0);
    assert!(relative_error(&o_changed.narrow(1, 21, 1), &o.narrow(1, 21, 1)) > 0.1);
}

#[test]
fn sixteen_bit_inputs_keep_their_state_in_32_bits() {
    let problem = Problem::new(&mut Sampler::new(14), [1, 70, 1, 1], [4, 4], -0.1);
    let ([q, k, v, g, state], beta) = problem.inputs(DType::F32, &cpu());
    let half = |x: &Tensor<4>| x.clone().cast(DType::F16);
    let wide = |x: &Tensor<4>| half(x).cast(DType::F32);
    let options = || KimiDeltaOptions { initial_state: Some(state.clone()), ..Default::default() };
    let beta = beta.cast(DType::F16);
    let (o, last) = kimi_delta(half(&q), half(&k), half(&v), half(&g), beta.clone(), options()).unwrap();
    assert_eq!((o.dtype(), last.dtype()), (DType::F16, DType::F32));
    let (want, want_last) = kimi_delta(wide(&q), wide(&k), wide(&v), wide(&g), beta.cast(DType::F32), options()).unwrap();
    assert_close("o", &o.cast(DType::F32), &want, 1e-3);
    assert_close("state", &last, &want_last, 1e-6);
}

#[test]
fn wrong_arguments_are_refused_by_name() {
    let device = cpu();
    let zeros = |dims| Tensor::<4>::zeros(dims, &device);
    let call = |q: [usize; 4], k: [usize; 4], v: [usize; 4], g: [usize; 4], beta: [usize; 3], options: KimiDeltaOptions| {
        kimi_delta(zeros(q), zeros(k), zeros(v), zeros(g), Tensor::zeros(beta, &device), options).unwrap_err().to_string()
    };
    let (qk, v, g, beta) = ([1, 5, 2, 3], [1, 5, 4, 6], [1, 5, 4, 3], [1, 5, 4]);
    let with = |change: fn(&mut KimiDeltaOptions)| {
        let mut options = KimiDeltaOptions::default();
        change(&mut options);
        call(qk, qk, v, g, beta, options)
    };
    let plain = KimiDeltaOptions::default;
    assert_eq!(
        call(qk, [1, 5, 2, 4], v, g, beta, plain()),
        "kimi_delta: `q` and `k` must agree in all axes, got [1, 5, 2, 3] and [1, 5, 2, 4]"
    );
    assert_eq!(
        call(qk, qk, [1, 4, 4, 6], g, beta, plain()),
        "kimi_delta: `q` and `v` must agree in batch and tokens, got [1, 5, 2, 3] and [1, 4, 4, 6]"
    );
    assert_eq!(
        call(qk, qk, [1, 5, 3, 6], g, beta, plain()),
        "kimi_delta: `v` must be of a number of heads that is a multiple of H = 2, got 3"
    );
    assert_eq!(
        call(qk, qk, v, [1, 5, 2, 3], beta, plain()),
        "kimi_delta: `v` and `g` must agree in batch, tokens and heads, got [1, 5, 4, 6] and [1, 5, 2, 3]"
    );
    assert_eq!(call(qk, qk, v, [1, 5, 4, 2], beta, plain()), "kimi_delta: `g` must be of width K = 3 or 1, got 2");
    assert_eq!(
        call(qk, qk, v, g, [1, 5, 2], plain()),
        "kimi_delta: `v` and `beta` must agree in batch, tokens and heads, got [1, 5, 4, 6] and [1, 5, 2]"
    );
    for chunk in [0, 48, 512] {
        let error = call(qk, qk, v, g, beta, KimiDeltaOptions { chunk, ..plain() });
        assert_eq!(error, format!("kimi_delta: `chunk` must be a power of two up to 256, got {chunk}"));
    }
    assert_eq!(
        with(|o| o.cu_seqlens = Some(vec![0, 4])),
        "kimi_delta: `cu_seqlens` must be boundaries that rise from 0 to T = 5, got [0, 4]"
    );
    assert_eq!(
        with(|o| o.initial_state = Some(Tensor::zeros([1, 2, 3, 6], &cpu()))),
        "kimi_delta: `initial_state` must be of shape [1, 4, 3, 6], got [1, 2, 3, 6]"
    );
    assert_eq!(
        with(|o| o.initial_state = Some(Tensor::zeros([1, 4, 3, 6], (&cpu(), DType::F64)))),
        "kimi_delta: `initial_state` must be in F32, got F64"
    );
    let packed = KimiDeltaOptions { cu_seqlens: Some(vec![0, 5]), ..plain() };
    let two = kimi_delta(
        zeros([2, 5, 1, 3]),
        zeros([2, 5, 1, 3]),
        zeros([2, 5, 1, 3]),
        zeros([2, 5, 1, 3]),
        Tensor::zeros([2, 5, 1], &device),
        packed,
    );
    assert_eq!(
        two.unwrap_err().to_string(),
        "kimi_delta: `cu_seqlens` must be absent or the batch 1: packed sequences lie in one row, got a batch of 2"
    );
    let growing = kimi_delta(zeros(qk), zeros(qk), zeros(v), zeros(g) + 0.5, Tensor::zeros(beta, &device), plain());
    assert_eq!(growing.unwrap_err().to_string(), "kimi_delta: `g` must be ≤ 0, the logarithm of a decay, got 0.5");
    let double = kimi_delta(zeros(qk).cast(DType::F64), zeros(qk), zeros(v), zeros(g), Tensor::zeros(beta, &device), plain());
    assert_eq!(double.unwrap_err().to_string(), "kimi_delta: `q` must be as precise as v, which is F32, got F64");
}
