//! The fused kernel for the CPU against the definition in f64, over random shapes and options, values and every gradient.

use burn::tensor::{DType, Device, Tensor};
use regard_testkit::{Draw, Sampler, cpu, relative_error, sweep};

use crate::lightning_attention::{DecayRule, LightningOpts, Variant, lightning_attention, lightning_step};

/// One random problem.
pub(super) struct Case {
    inputs: [Draw<4>; 4],
    cotangents: [Draw<4>; 2],
    slopes: Vec<f64>,
    options: LightningOpts,
    /// Whether tokens lie before heads in memory.
    token_major: bool,
    use_o: bool,
    use_state: bool,
    tracked: [bool; 4],
}

impl Case {
    fn draw(s: &mut Sampler, longest: usize, widest: usize) -> Self {
        let widths = [s.size(1, widest), s.size(1, widest)];
        Self::of_widths(s, longest, widths)
    }

    /// With K and V as given.
    pub(super) fn of_widths(s: &mut Sampler, longest: usize, [d_k, d_v]: [usize; 2]) -> Self {
        let (h, t) = (s.size(1, 4), s.size(1, longest));
        let bounds = (s.size(0, 2) == 0).then(|| {
            let mut bounds: Vec<usize> = (0..s.size(0, 4)).map(|_| s.size(0, t)).chain([0, t]).collect();
            bounds.sort_unstable();
            bounds
        });
        let b = if bounds.is_some() { 1 } else { s.size(1, 3) };
        let sequences = bounds.as_ref().map_or(b, |bounds| bounds.len() - 1);
        let rule = s.pick(&[DecayRule::Code, DecayRule::Paper, DecayRule::Fla]);
        let layers = s.size(1, 4);
        let mut slopes = rule.slopes(h, layers, s.size(0, layers - 1));
        if s.size(0, 5) == 0 {
            slopes[0] = s.pick(&[0.0, 1e-6, 20.0, 1000.0]);
        }
        let (use_o, use_state) = s.pick(&[(true, true), (true, false), (false, true)]);
        let tracked = if s.flip() { [true; 4] } else { [s.flip(), true, s.flip(), s.flip()] };
        let uniform = |s: &mut Sampler, shape| s.tensor(shape, -1.0, 1.0);
        Self {
            inputs: [[b, h, t, d_k], [b, h, t, d_k], [b, h, t, d_v], [sequences, h, d_k, d_v]].map(|shape| uniform(s, shape)),
            cotangents: [[b, h, t, d_v], [sequences, h, d_k, d_v]].map(|shape| uniform(s, shape)),
            slopes,
            options: LightningOpts {
                scale: if s.flip() { 1.0 } else { s.uniform(-1.0, 1.0) },
                block: s.pick(&[1, 5, 16, 48, 64]),
                cu_seqlens: bounds,
                ..Default::default()
            },
            token_major: s.flip(),
            use_o,
            use_state,
            tracked,
        }
    }

    /// Both results and the gradients, zeros for those that are not tracked.
    fn solve(&self, variant: Variant, dtype: DType, device: &Device) -> [Tensor<4>; 6] {
        self.solve_rounded(variant, dtype, dtype, device)
    }

    /// The same of inputs and cotangents, but for those of the state, rounded to `rounded` before they are of type `dtype`.
    pub(super) fn solve_rounded(&self, variant: Variant, dtype: DType, rounded: DType, device: &Device) -> [Tensor<4>; 6] {
        let device = device.clone().autodiff();
        let wide = if dtype == DType::F64 { DType::F64 } else { DType::F32 };
        let of_state = |x: &Draw<4>| if wide == DType::F64 { x.f64(&device) } else { x.f32(&device) };
        let place = |x: &Draw<4>| of_state(x).cast(rounded).cast(dtype);
        let turned = |x: Tensor<4>| if self.token_major { x.swap_dims(1, 2).mul_scalar(1.0).swap_dims(1, 2) } else { x };
        let track = |i: usize, x: Tensor<4>| if self.tracked[i] { x.require_grad() } else { x };
        let inputs: [_; 4] = std::array::from_fn(|i| track(i, if i < 3 { place(&self.inputs[i]) } else { of_state(&self.inputs[i]) }));
        let [q, k, v, state] = inputs.clone();
        let [q, k, v] = [q, k, v].map(turned);
        let options = LightningOpts { variant, initial_state: Some(state), ..self.options.clone() };
        let (o, state) = lightning_attention(q, k, v, &self.slopes, options).unwrap();
        let mut loss = Tensor::<1>::zeros([1], (&device, wide));
        if self.use_o {
            loss = loss + (o.clone().cast(wide) * place(&self.cotangents[0]).cast(wide)).sum();
        }
        if self.use_state {
            loss = loss + (state.clone() * of_state(&self.cotangents[1])).sum();
        }
        let grads = loss.backward();
        let [dq, dk, dv, ds] = inputs.map(|x| x.grad(&grads).unwrap_or_else(|| x.clone().inner().zeros_like()));
        [o.inner(), state.inner(), dq, dk, dv, ds]
    }

    pub(super) fn describe(&self) -> String {
        let Self { inputs: [q, _, v, _], options: LightningOpts { scale, cu_seqlens, .. }, slopes, .. } = self;
        let (tokens_first, uses, tracked) = (self.token_major, [self.use_o, self.use_state], self.tracked);
        format!(
            "q {:?} v {:?} slopes {slopes:.3?} scale {scale:.2} {cu_seqlens:?} {tokens_first} {uses:?} {tracked:?}",
            q.shape(),
            v.shape()
        )
    }

    fn check(&self, tolerance: f64) {
        let want = self.solve(Variant::LeftProduct, DType::F64, &cpu());
        let got = self.solve(Variant::Tiled, DType::F32, &cpu());
        for ((name, got), want) in ["o", "state", "dq", "dk", "dv", "dstate"].iter().zip(got).zip(&want) {
            // What decays to nearly nothing is compared on the scale of what it comes from.
            let scale = want.clone().abs().max().into_scalar::<f64>().max(1e-3);
            let error = relative_error(&got.cast(DType::F64), want) * (want.clone().abs().max().into_scalar::<f64>().max(1e-12) / scale);
            assert!(error <= tolerance, "{name}: error {error:.2e} on the scale {scale:.2e}, allowed {tolerance:.0e}");
        }
    }
}

/// How often the count of the sweeps is multiplied.
fn more() -> u64 {
    std::env::var("REGARD_SWEEP").map_or(1, |n| n.parse().expect("REGARD_SWEEP must be a whole number"))
}

#[test]
fn the_fused_kernel_matches_the_definition_over_random_shapes() {
    sweep("lightning_attention kernel, small", 440 * more(), |s| Case::draw(s, 40, 20).check(2e-6));
}

#[test]
fn the_fused_kernel_matches_the_definition_over_several_blocks_and_wide_heads() {
    sweep("lightning_attention kernel, large", 60 * more(), |s| Case::draw(s, 200, 130).check(1e-5));
}

#[test]
fn the_fused_kernel_matches_the_definition_where_threads_share_a_sequence() {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(32).build().unwrap();
    sweep("lightning_attention kernel, in parts", 20, |s| {
        let case = Case::draw(s, 700, 40);
        let want = case.solve(Variant::LeftProduct, DType::F64, &cpu());
        let got = pool.install(|| case.solve(Variant::Tiled, DType::F32, &cpu()));
        let again = pool.install(|| case.solve(Variant::Tiled, DType::F32, &cpu()));
        for ((got, again), want) in got.into_iter().zip(again).zip(&want) {
            assert_eq!(got.to_data(), again.to_data());
            let error = relative_error(&got.cast(DType::F64), want) * want.clone().abs().max().into_scalar::<f64>().min(1.0);
            assert!(error <= 1e-5, "error {error:.2e}");
        }
    });
}

#[test]
fn repeats_give_the_same_bits() {
    sweep("lightning_attention repeats", 10, |s| {
        let case = Case::draw(s, 300, 70);
        let [first, second] = [(); 2].map(|()| case.solve(Variant::Tiled, DType::F32, &cpu()));
        for (a, b) in first.into_iter().zip(second) {
            assert_eq!(a.into_data(), b.into_data());
        }
    });
}

#[test]
fn later_tokens_however_large_leave_every_bit_of_earlier_ones() {
    let mut s = Sampler::new(8);
    for (t, cut) in [(100, 37), (3, 1), (48, 47), (130, 96)] {
        let [q, k] = [(); 2].map(|()| s.tensor([1, 2, t, 9], -1.0, 1.0).f32(&cpu()));
        let v = s.tensor([1, 2, t, 11], -1.0, 1.0).f32(&cpu());
        let run = |q, k, v| lightning_attention(q, k, v, &[0.1, 0.0], LightningOpts::default()).unwrap().0;
        let enlarged = |x: &Tensor<4>| {
            let [b, h, t, width] = x.dims();
            x.clone().slice_assign([0..b, 0..h, cut..t, 0..width], Tensor::full([b, h, t - cut, width], 1e30_f32, &cpu()))
        };
        let want = run(q.clone(), k.clone(), v.clone()).narrow(2, 0, cut).into_data();
        let got = run(enlarged(&q), enlarged(&k), enlarged(&v)).narrow(2, 0, cut).into_data();
        assert_eq!(got, want);
    }
}

#[test]
fn steps_give_the_same_as_the_whole_and_leave_other_holders_of_the_state_alone() {
    sweep("lightning_step", 60, |s| {
        let (b, h, t) = (s.size(1, 3), s.size(1, 4), s.size(1, 60));
        let (d_k, d_v, scale) = (s.size(1, 70), s.size(1, 70), s.uniform(-1.0, 1.0));
        let slopes = DecayRule::Code.slopes(h, 2, s.size(0, 1));
        let [q, k] = [(); 2].map(|()| s.tensor([b, h, t, d_k], -1.0, 1.0).f32(&cpu()));
        let v = s.tensor([b, h, t, d_v], -1.0, 1.0).f32(&cpu());
        let first = s.tensor([b, h, d_k, d_v], -1.0, 1.0).f32(&cpu());
        let options = LightningOpts { scale, initial_state: Some(first.clone()), ..Default::default() };
        let (want, want_state) = lightning_attention(q.clone(), k.clone(), v.clone(), &slopes, options).unwrap();
        let before = first.to_data();
        let mut state = first.clone();
        let outs = (0..t).map(|i| {
            let [q, k, v] = [&q, &k, &v].map(|x| x.clone().narrow(2, i, 1).squeeze_dim::<3>(2));
            lightning_step(q, k, v, &slopes, scale, &mut state).unwrap().unsqueeze_dim::<4>(2)
        });
        assert!(relative_error(&Tensor::cat(outs.collect(), 2), &want) < 5e-6);
        assert!(relative_error(&state, &want_state) < 5e-6);
        assert_eq!(first.into_data(), before);
    });
}

#[test]
fn a_refused_step_leaves_the_state_as_it_was() {
    let zeros = |shape| Tensor::<3>::zeros(shape, &cpu());
    let mut state = Tensor::<4>::ones([1, 2, 3, 4], &cpu());
    let error = lightning_step(zeros([1, 2, 3]), zeros([1, 2, 3]), zeros([1, 2, 5]), &[0.1; 2], 1.0, &mut state).unwrap_err();
    assert_eq!(error.to_string(), "lightning_attention: `initial_state` must be of shape [1, 2, 3, 5], got [1, 2, 3, 4]");
    assert_eq!(state.sum().into_scalar::<f32>(), 24.0);
}
