//! The operation against the definition in f64, over random shapes and options, values and every gradient.

use burn::tensor::{Bool, DType, Device, Int, Tensor, TensorData};
use regard_testkit::{Draw, Sampler, assert_close, cpu, devices, sweep};

use crate::softmax_attention::{SoftmaxOptions, reference, softmax_attention};

/// One random problem.
pub(super) struct Case {
    pub(super) q: Draw<4>,
    pub(super) k: Draw<4>,
    pub(super) v: Draw<4>,
    pub(super) bias: Option<Draw<4>>,
    distances: Option<Draw<2>>,
    pub(super) padding: Option<(Vec<bool>, [usize; 2])>,
    pub(super) causal: bool,
    scale: Option<f64>,
    d_o: Draw<4>,
    d_lse: Draw<3>,
    use_o: bool,
    use_lse: bool,
}

impl Case {
    fn draw(s: &mut Sampler, longest: usize, widest: usize) -> Self {
        let (k, v) = (s.size(1, widest), s.size(1, widest));
        Self::draw_widths(s, longest, k, v)
    }

    fn draw_widths(s: &mut Sampler, longest: usize, k: usize, v: usize) -> Self {
        let repeat = s.pick(&[1, 1, 2, 3]);
        let t = s.size(1, longest);
        let n = if s.flip() { t } else { s.size(1, longest) };
        Self::draw_shape(s, repeat, [t, n], k, v)
    }

    /// `repeat` heads to a group, T queries and S keys.
    fn draw_shape(s: &mut Sampler, repeat: usize, [t, n]: [usize; 2], k: usize, v: usize) -> Self {
        let (b, g) = (s.size(1, 3), s.size(1, 3));
        let h = g * repeat;
        let causal = s.flip();
        let bias_dims = [s.pick(&[1, b]), s.pick(&[1, h]), s.pick(&[1, t]), n];
        let padding = s.flip().then(|| {
            let often = s.uniform(0.0, 1.2); // beyond 1: whole rows
            ((0..b * n).map(|_| s.uniform(0.0, 1.0) < often).collect(), [b, n])
        });
        let uses = s.pick(&[(true, false), (true, true), (false, true)]);
        Self {
            q: s.tensor([b, h, t, k], -2.0, 2.0),
            k: s.tensor([b, g, n, k], -2.0, 2.0),
            v: s.tensor([b, g, n, v], -1.0, 1.0),
            bias: s.flip().then(|| s.tensor(bias_dims, -3.0, 3.0)),
            distances: (s.size(0, 2) == 0).then(|| {
                let count = s.size(1, 30);
                s.tensor([h, count], -2.0, 2.0)
            }),
            padding,
            causal,
            scale: s.flip().then(|| s.uniform(0.1, 1.0)),
            d_o: s.tensor([b, h, t, v], -1.0, 1.0),
            d_lse: s.tensor([b, h, t], -1.0, 1.0),
            use_o: uses.0,
            use_lse: uses.1,
        }
    }

    fn padding(&self, device: &Device) -> Option<Tensor<2, Bool>> {
        self.padding.as_ref().map(|(hidden, dims)| Tensor::from_data(TensorData::new(hidden.clone(), *dims), device))
    }

    /// The definition, with keys and values of the groups repeated.
    fn definition(&self, inputs: &[Tensor<4>], distances: Option<Tensor<2>>) -> (Tensor<4>, Tensor<3>) {
        let [q, k, v] = [0, 1, 2].map(|i| inputs[i].clone());
        let ([b, h, t, width], [_, g, s, _]) = (q.dims(), k.dims());
        let repeated = |x: Tensor<4>| {
            let width = x.dims()[3];
            x.unsqueeze_dim::<5>(2).expand([b, g, h / g, s, width]).reshape([b, h, s, width])
        };
        let device = q.device();
        let mut hidden: Tensor<4, Bool> = Tensor::<4>::zeros([b, h, t, s], &device).equal_elem(1.0);
        if self.causal {
            let row = Tensor::<1, Int>::arange(0..t as i64, &device).reshape([1, 1, t, 1]).expand([b, h, t, s]) + (s as i64 - t as i64);
            let column = Tensor::<1, Int>::arange(0..s as i64, &device).reshape([1, 1, 1, s]).expand([b, h, t, s]);
            hidden = hidden.bool_or(column.greater(row));
        }
        if let Some(padding) = self.padding(&device) {
            hidden = hidden.bool_or(padding.reshape([b, 1, 1, s]).expand([b, h, t, s]));
        }
        let scale = self.scale.unwrap_or(1.0 / (width as f64).sqrt());
        let mut bias = inputs.get(3).map(|bias| bias.clone().expand([b, h, t, s]));
        if let Some(distances) = distances {
            let last = distances.dims()[1] - 1;
            let index: Vec<i64> = (0..t * s).map(|at| (at / s + s).abs_diff(t + at % s).min(last) as i64).collect();
            let index = Tensor::<1, Int>::from_data(TensorData::new(index, [t * s]), &device);
            let part = distances.select(1, index).reshape([1, h, t, s]).expand([b, h, t, s]);
            bias = Some(bias.map_or(part.clone(), |bias| bias + part.clone()));
        }
        reference::dense(q, repeated(k), repeated(v), scale, bias, Some(hidden))
    }

    fn operation(&self, inputs: &[Tensor<4>], distance_bias: Option<Tensor<2>>) -> (Tensor<4>, Tensor<3>) {
        let options = SoftmaxOptions {
            causal: self.causal,
            scale: self.scale,
            key_padding: self.padding(&inputs[0].device()),
            bias: inputs.get(3).cloned(),
            distance_bias,
        };
        softmax_attention(inputs[0].clone(), inputs[1].clone(), inputs[2].clone(), options).unwrap()
    }

    /// Output, finite log-sum-exps and the gradients of all inputs, in f64.
    fn results(
        &self,
        device: &Device,
        dtype: DType,
        f: impl Fn(&[Tensor<4>], Option<Tensor<2>>) -> (Tensor<4>, Tensor<3>),
    ) -> (Vec<Tensor<4>>, Tensor<3>) {
        let device = device.clone().autodiff();
        let place = |x: &Draw<4>| if dtype == DType::F64 { x.f64(&device) } else { x.f32(&device).cast(dtype) };
        let inputs: Vec<_> = [&self.q, &self.k, &self.v].into_iter().chain(&self.bias).map(|x| place(x).require_grad()).collect();
        let distances = self.distances.as_ref();
        let distances = distances.map(|x| if dtype == DType::F64 { x.f64(&device) } else { x.f32(&device).cast(dtype) }.require_grad());
        let (o, lse) = f(&inputs, distances.clone());
        let blind = lse.clone().is_inf();
        // Not every GPU has f64; the cotangents are no wider than needed.
        let wide = if dtype == DType::F64 { DType::F64 } else { DType::F32 };
        let lse = lse.mask_fill(blind, 0.0).cast(wide);
        let mut loss = Tensor::<1>::zeros([1], (&device, wide));
        if self.use_o {
            loss = loss + (o.clone().cast(wide) * self.d_o.f64(&cpu()).cast(wide).to_device(&device)).sum();
        }
        if self.use_lse {
            loss = loss + (lse.clone() * self.d_lse.f64(&cpu()).cast(wide).to_device(&device)).sum();
        }
        let grads = loss.backward();
        let zero = |x: &Tensor<4>| Tensor::zeros(x.dims(), (&cpu(), dtype));
        let of_distances = distances.map(|x| x.grad(&grads).map_or(Tensor::zeros([1; 4], (&cpu(), dtype)), Tensor::unsqueeze));
        let grads = inputs.iter().map(|x| x.grad(&grads).unwrap_or_else(|| zero(x))).chain(of_distances);
        let results = std::iter::once(o.inner()).chain(grads).map(|x| x.to_device(&cpu()).cast(DType::F64)).collect();
        (results, lse.inner().to_device(&cpu()).cast(DType::F64))
    }

    fn check(&self, dtype: DType, tolerance: f64) {
        self.check_on(&cpu(), dtype, tolerance);
    }

    fn check_on(&self, device: &Device, dtype: DType, tolerance: f64) {
        let (want, want_lse) = self.results(&cpu(), DType::F64, |x, distances| self.definition(x, distances));
        let (got, got_lse) = self.results(device, dtype, |x, distances| self.operation(x, distances));
        assert_close("lse", &got_lse, &want_lse, tolerance);
        let count = want.len();
        let largest = want.iter().skip(1).map(|x| x.clone().abs().max().into_scalar::<f64>()).fold(1e-3, f64::max);
        for (i, (name, (got, want))) in
            ["o", "dq", "dk", "dv", "d of a bias", "d of the other bias"].iter().zip(got.iter().zip(&want)).enumerate()
        {
            // Gradients that cancel to nearly nothing are compared on the scale of the others.
            let scale = if i == 0 { 1.0 } else { largest };
            let error = (got.clone() - want.clone()).abs().max().into_scalar::<f64>() / scale;
            // On GPUs the gradient of the distance bias takes Burn's products, which round f32 to the 11 bits of TF32, 5e-4 of each number;
            // it sums up to some thousands of them.
            let rounded = *device != cpu() && self.distances.is_some() && i + 1 == count;
            let tolerance = if rounded { tolerance.max(1e-2) } else { tolerance };
            assert!(error <= tolerance, "{name}: error {error:.2e} on the scale {scale:.2e}, allowed {tolerance:.0e}");
        }
    }
}

#[test]
fn fused_kernels_match_the_definition_over_random_shapes() {
    sweep("softmax attention, small", 500, |s| Case::draw(s, 40, 20).check(DType::F32, 5e-6));
}

#[test]
fn fused_kernels_match_the_definition_over_several_tiles_and_chunks() {
    sweep("softmax attention, large", 40, |s| Case::draw(s, 330, 70).check(DType::F32, 1e-5));
}

#[test]
fn blocks_of_queries_in_tensor_operations_match_the_definition() {
    sweep("softmax attention in f64", 200, |s| Case::draw(s, 24, 8).check(DType::F64, 1e-11));
}

#[test]
fn half_precision_matches_the_definition_to_its_own_rounding() {
    sweep("softmax attention in f16", 30, |s| Case::draw(s, 24, 8).check(DType::F16, 2e-2));
    sweep("softmax attention in bf16", 30, |s| Case::draw(s, 24, 8).check(DType::BF16, 6e-2));
}

/// On the GPU that `REGARD_TEST_DEVICE` names. Tests are many because each shape compiles its kernels: they can run side by side.
#[allow(clippy::print_stdout, reason = "a test that proves nothing says so")]
fn check_gpus(name: &str, count: u64, [longest, widest]: [usize; 2], dtype: DType, tolerance: f64) {
    let gpus = &devices()[1..];
    if gpus.is_empty() {
        println!("skipped: set REGARD_TEST_DEVICE to a GPU that this build supports");
    }
    for gpu in gpus {
        sweep(name, count, |s| Case::draw(s, longest, widest).check_on(gpu, dtype, tolerance));
    }
}

/// f32 sums up to 330 products that round to 6e-8 each, on the scale of the largest gradient.
#[test]
fn kernels_for_gpus_match_the_definition_in_f32() {
    check_gpus("softmax attention on a GPU", 80, [40, 20], DType::F32, 1e-5);
}

#[test]
fn kernels_for_gpus_match_the_definition_in_f32_over_several_tiles() {
    check_gpus("softmax attention on a GPU, large", 40, [330, 140], DType::F32, 2e-5);
}

/// f16 rounds inputs, weights and outputs to 2^-11 of their size, and scores of some tens by as much before the exponential.
#[test]
fn kernels_for_gpus_match_the_definition_in_f16() {
    check_gpus("softmax attention on a GPU, f16", 40, [40, 20], DType::F16, 2e-2);
    check_gpus("softmax attention on a GPU, f16, large", 20, [330, 140], DType::F16, 3e-2);
}

/// As f16, by 2^-8.
#[test]
fn kernels_for_gpus_match_the_definition_in_bf16() {
    check_gpus("softmax attention on a GPU, bf16", 40, [40, 20], DType::BF16, 1e-1);
    check_gpus("softmax attention on a GPU, bf16, large", 20, [330, 140], DType::BF16, 2e-1);
}

/// The widths that warpgroups take on Hopper; other devices compute them as any others.
#[test]
fn kernels_for_gpus_match_the_definition_at_widths_of_64_and_128() {
    for gpu in &devices()[1..] {
        for (dtype, tolerance) in [(DType::F16, 3e-2), (DType::BF16, 2e-1)] {
            sweep("softmax attention on a GPU, widths of 64 and 128", 20, |s| {
                let (key, value) = (s.pick(&[64, 128]), s.pick(&[64, 128]));
                Case::draw_widths(s, 330, key, value).check_on(gpu, dtype, tolerance);
            });
        }
    }
}

/// One query of each sequence, whose keys are shared by planes, by cubes where they are many, and by the heads of a group.
#[test]
fn kernels_for_gpus_match_the_definition_in_decoding() {
    for gpu in &devices()[1..] {
        for (dtype, tolerance) in [(DType::F16, 3e-2), (DType::BF16, 2e-1)] {
            sweep("softmax attention on a GPU, decoding", 30, |s| {
                let repeat = s.pick(&[1, 2, 4, 7, 16, 17]);
                let keys = s.size(1, 3000);
                let (key, value) = (s.pick(&[20, 64, 128]), s.pick(&[30, 64, 128]));
                let mut case = Case::draw_shape(s, repeat, [1, keys], key, value);
                if s.size(0, 3) > 0 {
                    (case.bias, case.distances) = (None, None);
                }
                case.check_on(gpu, dtype, tolerance);
            });
        }
    }
}

#[test]
fn kernels_for_gpus_give_the_same_bits_twice() {
    for gpu in &devices()[1..] {
        sweep("softmax attention on a GPU, twice", 10, |s| {
            let case = Case::draw(s, 330, 140);
            for dtype in [DType::F32, DType::BF16] {
                let run = || {
                    let (results, lse) = case.results(gpu, dtype, |x, distances| case.operation(x, distances));
                    results.into_iter().map(|x| x.into_data()).chain([lse.into_data()]).collect::<Vec<_>>()
                };
                assert_eq!(run(), run());
            }
        });
    }
}
