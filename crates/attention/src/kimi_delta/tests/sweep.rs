//! The fused kernels against the definition in f64, over random shapes and options, values and every gradient.
//!
//! Their scratch memory and outputs are full of NaN in this crate's tests: what is read before it is written shows.

use burn::tensor::{DType, Device, Tensor};
use regard_testkit::{Draw, Sampler, assert_close, cpu, sweep};

use crate::kimi_delta::{KimiDeltaOptions, kimi_delta, reference};

/// One random problem.
pub(super) struct Case {
    /// q, k, v, g, state.
    floats: [Draw<4>; 5],
    beta: Draw<3>,
    /// Cotangents of the output and of the state.
    d_o: Draw<4>,
    d_state: Draw<4>,
    use_o: bool,
    use_state: bool,
    scale: f64,
    chunk: usize,
    boundaries: Option<Vec<usize>>,
}

impl Case {
    fn draw(s: &mut Sampler, longest: usize, widest: usize) -> Self {
        let widths = [s.size(1, widest), s.size(1, widest)];
        Self::of_widths(s, longest, widths)
    }

    /// With K and V as given.
    pub(super) fn of_widths(s: &mut Sampler, longest: usize, [d_k, d_v]: [usize; 2]) -> Self {
        let packed = s.size(0, 3) == 0;
        let (b, h) = (if packed { 1 } else { s.size(1, 2) }, s.size(1, 3));
        let w = h * s.pick(&[1, 1, 2, 3]);
        let t = s.size(1, longest);
        let boundaries = packed.then(|| {
            let mut inner: Vec<usize> = (0..s.size(0, 3)).map(|_| s.size(0, t)).collect();
            inner.extend([0, t]);
            inner.sort_unstable();
            inner
        });
        let sequences = boundaries.as_ref().map_or(b, |bounds| bounds.len() - 1);
        let low = s.pick(&[-1e-4, -0.1, -1.0, -4.0, -30.0, -1000.0]);
        let key = 1.0 / (d_k as f64).sqrt();
        let uses = s.pick(&[(true, false), (true, true), (false, true)]);
        let g_width = s.pick(&[1, d_k, d_k, d_k]);
        let beta = s.pick(&[1.0, 1.0, 2.0]);
        Self {
            floats: [
                s.tensor([b, t, h, d_k], -1.0, 1.0),
                s.tensor([b, t, h, d_k], -key, key),
                s.tensor([b, t, w, d_v], -1.0, 1.0),
                s.tensor([b, t, w, g_width], low, 0.0),
                s.tensor([sequences, w, d_k, d_v], -1.0, 1.0),
            ],
            beta: s.tensor([b, t, w], 0.0, beta),
            d_o: s.tensor([b, t, w, d_v], -1.0, 1.0),
            d_state: s.tensor([sequences, w, d_k, d_v], -1.0, 1.0),
            use_o: uses.0,
            use_state: uses.1,
            scale: s.uniform(0.1, 1.0),
            chunk: s.pick(&[1, 4, 16, 32, 64, 64, 128]),
            boundaries,
        }
    }

    /// Sequence by sequence.
    fn definition(&self, [q, k, v, g, states]: [Tensor<4>; 5], beta: Tensor<3>) -> (Tensor<4>, Tensor<4>) {
        let [b, t, w, _] = v.dims();
        let g = g.expand([b, t, w, q.dims()[3]]);
        let Some(bounds) = &self.boundaries else { return reference::recurrent(q, k, v, g, beta, self.scale, states) };
        let (mut outs, mut last) = (Vec::new(), Vec::new());
        for (n, ends) in bounds.windows(2).enumerate() {
            let state = states.clone().narrow(0, n, 1);
            if ends[0] == ends[1] {
                last.push(state);
                continue;
            }
            let (start, len) = (ends[0], ends[1] - ends[0]);
            let [q, k, v, g] = [&q, &k, &v, &g].map(|x| x.clone().narrow(1, start, len));
            let (o, state) = reference::recurrent(q, k, v, g, beta.clone().narrow(1, start, len), self.scale, state);
            outs.push(o);
            last.push(state);
        }
        (Tensor::cat(outs, 1), Tensor::cat(last, 0))
    }

    pub(super) fn operation(&self, [q, k, v, g, state]: [Tensor<4>; 5], beta: Tensor<3>) -> (Tensor<4>, Tensor<4>) {
        let options = KimiDeltaOptions {
            scale: Some(self.scale),
            chunk: self.chunk,
            initial_state: Some(state),
            cu_seqlens: self.boundaries.clone(),
            ..Default::default()
        };
        kimi_delta(q, k, v, g, beta, options).unwrap()
    }

    /// Output, state and the gradients of all inputs, as rows in f64.
    fn results(&self, dtype: DType, f: impl Fn([Tensor<4>; 5], Tensor<3>) -> (Tensor<4>, Tensor<4>)) -> Vec<Tensor<1>> {
        self.results_rounded(dtype, dtype, &cpu(), f)
    }

    /// The same on any device, of queries, keys, values and the cotangent of the output rounded to `rounded` before they are of type
    /// `dtype`.
    pub(super) fn results_rounded(
        &self,
        dtype: DType,
        rounded: DType,
        device: &Device,
        f: impl Fn([Tensor<4>; 5], Tensor<3>) -> (Tensor<4>, Tensor<4>),
    ) -> Vec<Tensor<1>> {
        let device = device.clone().autodiff();
        let wide = if dtype == DType::F64 { DType::F64 } else { DType::F32 };
        let exact = |x: &Draw<4>| if wide == DType::F64 { x.f64(&device) } else { x.f32(&device) };
        let place = |x: &Draw<4>| exact(x).cast(rounded).cast(dtype);
        let [q, k, v, g, state] = &self.floats;
        let floats = [place(q), place(k), place(v), exact(g), exact(state)].map(Tensor::require_grad);
        let beta = if wide == DType::F64 { self.beta.f64(&device) } else { self.beta.f32(&device) }.require_grad();
        let (o, state) = f(floats.clone(), beta.clone());
        let mut loss = Tensor::<1>::zeros([1], (&device, wide));
        if self.use_o {
            loss = loss + (o.clone().cast(wide) * place(&self.d_o).cast(wide)).sum();
        }
        if self.use_state {
            loss = loss + (state.clone() * exact(&self.d_state)).sum();
        }
        let grads = loss.backward();
        let row = |x: Tensor<4>| x.to_device(&cpu()).cast(DType::F64).reshape([-1]);
        let mut all = vec![row(o.inner()), row(state.inner())];
        all.extend(floats.iter().map(|x| row(x.grad(&grads).unwrap_or_else(|| x.clone().inner().zeros_like()))));
        let d_beta = beta.grad(&grads).unwrap_or_else(|| beta.clone().inner().zeros_like());
        all.push(d_beta.to_device(&cpu()).cast(DType::F64).reshape([-1]));
        all
    }

    pub(super) fn describe(&self) -> String {
        let Self { floats: [q, _, v, g, _], scale, boundaries, use_o, use_state, .. } = self;
        format!("q {:?} v {:?} g {:?} scale {scale:.2} {boundaries:?} {use_o} {use_state}", q.shape(), v.shape(), g.shape())
    }

    fn check(&self, tolerance: f64) {
        let want = self.results(DType::F64, |x, beta| self.definition(x, beta));
        let got = self.results(DType::F32, |x, beta| self.operation(x, beta));
        let largest = want.iter().skip(2).map(|x| x.clone().abs().max().into_scalar::<f64>()).fold(1e-3, f64::max);
        for (i, (name, (got, want))) in
            ["o", "state", "dq", "dk", "dv", "dg", "dstate", "dbeta"].iter().zip(got.iter().zip(&want)).enumerate()
        {
            // Gradients that cancel to little are compared on a scale near that of the others.
            let own = want.clone().abs().max().into_scalar::<f64>();
            let scale = own.max(if i < 2 { 1e-2 } else { 0.05 * largest });
            let error = (got.clone() - want.clone()).abs().max().into_scalar::<f64>() / scale;
            assert!(error <= tolerance, "{name}: error {error:.2e} on the scale {scale:.2e}, allowed {tolerance:.0e}");
        }
    }
}

#[test]
fn fused_kernels_match_the_definition_over_random_shapes() {
    sweep("kimi_delta, small", 100, |s| Case::draw(s, 40, 20).check(2e-5));
}

#[test]
fn fused_kernels_match_the_definition_over_several_chunks() {
    sweep("kimi_delta, large", 12, |s| Case::draw(s, 280, 70).check(5e-5));
}

#[test]
fn results_are_the_same_bits_in_every_run_and_with_any_number_of_threads() {
    let mut sampler = Sampler::new(21);
    for boundaries in [None, Some(vec![0, 250, 250, 777])] {
        let mut case = Case::draw(&mut sampler, 1, 1);
        let sequences = boundaries.as_ref().map_or(1, |b: &Vec<usize>| b.len() - 1);
        case.floats = [
            sampler.tensor([1, 777, 1, 20], -1.0, 1.0),
            sampler.tensor([1, 777, 1, 20], -0.2, 0.2),
            sampler.tensor([1, 777, 3, 40], -1.0, 1.0),
            sampler.tensor([1, 777, 3, 20], -0.5, 0.0),
            sampler.tensor([sequences, 3, 20, 40], -1.0, 1.0),
        ];
        case.beta = sampler.tensor([1, 777, 3], 0.0, 1.0);
        case.d_o = sampler.tensor([1, 777, 3, 40], -1.0, 1.0);
        case.d_state = sampler.tensor([sequences, 3, 20, 40], -1.0, 1.0);
        (case.use_o, case.use_state, case.chunk) = (true, true, 64);
        case.boundaries = boundaries;
        let run = || case.results(DType::F32, |x, beta| case.operation(x, beta));
        let want = run();
        case.check(5e-5);
        for threads in [1, 2, 2, 5] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            for (got, want) in pool.install(run).iter().zip(&want) {
                assert_close(&format!("{threads} threads"), got, want, 0.0);
            }
        }
    }
}

#[test]
fn a_single_token_leaves_the_callers_state_alone() {
    let mut case = Case::draw(&mut Sampler::new(22), 1, 1);
    let mut sampler = Sampler::new(23);
    case.floats = [
        sampler.tensor([2, 1, 2, 20], -1.0, 1.0),
        sampler.tensor([2, 1, 2, 20], -0.2, 0.2),
        sampler.tensor([2, 1, 4, 70], -1.0, 1.0),
        sampler.tensor([2, 1, 4, 20], -0.5, 0.0),
        sampler.tensor([2, 4, 20, 70], -1.0, 1.0),
    ];
    case.beta = sampler.tensor([2, 1, 4], 0.0, 1.0);
    case.boundaries = None;
    let inputs = case.floats.each_ref().map(|x| x.f32(&cpu()));
    let before = inputs[4].clone();
    let (o, state) = case.operation(inputs, case.beta.f32(&cpu()));
    let (want, want_state) = case.definition(case.floats.each_ref().map(|x| x.f64(&cpu())), case.beta.f64(&cpu()));
    assert_close("o", &o.cast(DType::F64), &want, 1e-6);
    assert_close("state", &state.cast(DType::F64), &want_state, 1e-6);
    assert_close("the state given", &before, &case.floats[4].f32(&cpu()), 0.0);
}
