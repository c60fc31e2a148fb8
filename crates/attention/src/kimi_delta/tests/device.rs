//! The kernels for GPUs against the chunkwise form in f64 on the CPU, over random shapes and options, values and every gradient.

use burn::tensor::{DType, Tensor};
use regard_testkit::{Errors, assert_close, cpu, gpu, poison, sweep};

use super::sweep::Case;
use crate::kimi_delta::{KimiDeltaOptions, kimi_delta};

const NAMES: [&str; 8] = ["o", "state", "dq", "dk", "dv", "dg", "dstate", "dbeta"];

/// f32 sums of f32 products, in another order than on the CPU, through the inverse of a chunk.
const F32: f64 = 5e-5;
/// bf16 has 8 bits, so rounding is off by up to 2⁻⁹ of a number. What a chunk takes and writes goes through three products of rounded
/// matrices (decayed rows, the inverse, the state), its gradients through six; errors add up at random. 2⁻⁵ of the largest number leaves
/// room for them.
const BF16: f64 = 3.2e-2;
/// f16 tensors are multiplied in f32: only outputs are rounded, by 2⁻¹² of a number.
const F16: f64 = 1e-3;

/// K and V: less than a tile, no multiple of one, one more than the other, what layers have. Every pair is compiled anew.
const WIDTHS: [[usize; 2]; 5] = [[5, 7], [33, 20], [16, 48], [64, 128], [128, 128]];

fn compare(name: &str, count: u64, longest: usize, widths: &[[usize; 2]], dtype: DType, tolerance: f64) {
    let Some(device) = gpu() else { return };
    let errors = Errors::new(name, &NAMES, tolerance);
    sweep(name, count, |s| {
        let widths = s.pick(widths);
        let case = Case::of_widths(s, longest, widths);
        let want = case.results_rounded(DType::F64, dtype, &cpu(), |x, beta| case.operation(x, beta));
        poison(&device);
        let run = || case.results_rounded(dtype, dtype, &device, |x, beta| case.operation(x, beta));
        let (got, again) = (run(), run());
        let data = |x: Vec<Tensor<1>>| x.into_iter().map(Tensor::into_data);
        errors.add(&case.describe(), data(got), data(again), data(want));
    });
    errors.finish();
}

#[test]
fn gpu_kernels_match_the_chunkwise_form_in_f32_over_random_shapes() {
    compare("kimi_delta on a GPU, f32", 200, 100, &WIDTHS, DType::F32, F32);
}

#[test]
fn gpu_kernels_match_the_chunkwise_form_in_bf16_over_random_shapes() {
    compare("kimi_delta on a GPU, bf16", 200, 300, &WIDTHS, DType::BF16, BF16);
}

#[test]
fn gpu_kernels_match_the_chunkwise_form_in_f16_over_random_shapes() {
    compare("kimi_delta on a GPU, f16", 40, 100, &WIDTHS[1..2], DType::F16, F16);
}

#[test]
fn steps_on_a_gpu_give_the_same_as_the_whole() {
    let Some(device) = gpu() else { return };
    sweep("kimi_delta, token by token on a GPU", 20, |s| {
        let (b, h, t) = (s.size(1, 3), s.size(1, 3), s.size(1, 10));
        let (w, d_k, d_v) = (h * s.size(1, 2), s.size(1, 128), s.size(1, 128));
        let key = 1.0 / (d_k as f64).sqrt();
        let g_width = s.pick(&[1, d_k]);
        let floats = [
            s.tensor([b, t, h, d_k], -1.0, 1.0),
            s.tensor([b, t, h, d_k], -key, key),
            s.tensor([b, t, w, d_v], -1.0, 1.0),
            s.tensor([b, t, w, g_width], -1.0, 0.0),
            s.tensor([b, w, d_k, d_v], -1.0, 1.0),
        ];
        let beta = s.tensor([b, t, w], 0.0, 1.0);
        let options = |state| KimiDeltaOptions { initial_state: Some(state), ..Default::default() };
        let [q, k, v, g, state] = floats.each_ref().map(|x| x.f32(&cpu()));
        let (want, want_state) = kimi_delta(q, k, v, g, beta.f32(&cpu()), options(state)).unwrap();
        let [q, k, v, g, first] = floats.each_ref().map(|x| x.f32(&device));
        let (beta, before) = (beta.f32(&device), first.to_data());
        let mut state = first.clone();
        let mut outs = Vec::new();
        for i in 0..t {
            let [q, k, v, g] = [&q, &k, &v, &g].map(|x| x.clone().narrow(1, i, 1));
            let (o, next) = kimi_delta(q, k, v, g, beta.clone().narrow(1, i, 1), options(state)).unwrap();
            outs.push(o);
            state = next;
        }
        assert_close("o", &Tensor::cat(outs, 1).to_device(&cpu()), &want, 2e-5);
        assert_close("state", &state.to_device(&cpu()), &want_state, 2e-5);
        assert_eq!(first.into_data(), before);
    });
}
