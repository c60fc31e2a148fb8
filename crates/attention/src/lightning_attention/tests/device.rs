//! The kernels for GPUs against the definition in f64 on the CPU, over random shapes and options, values and every gradient.

use burn::tensor::{DType, Tensor};
use regard_testkit::{Errors, Sampler, cpu, gpu, poison, sweep};

use super::kernel::Case;
use crate::lightning_attention::{DecayRule, LightningOpts, Variant, lightning_attention, lightning_step};

const NAMES: [&str; 6] = ["o", "state", "dq", "dk", "dv", "dstate"];

/// f32 sums of f32 products, in another order than on the CPU.
const F32: f64 = 1e-5;
/// bf16 has 8 bits, so rounding is off by up to 2⁻⁹ of a number: inputs of products (scores, decayed keys, states) are rounded once or
/// twice and outputs once, and errors add up at random. 2⁻⁶ of the largest number leaves room for that of all of them at once.
const BF16: f64 = 1.6e-2;
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
        let want = case.solve_rounded(Variant::LeftProduct, DType::F64, dtype, &cpu());
        poison(&device);
        let got = case.solve_rounded(Variant::Tiled, dtype, dtype, &device);
        let again = case.solve_rounded(Variant::Tiled, dtype, dtype, &device);
        errors.add(&case.describe(), got.map(|x| x.to_data()), again.map(|x| x.to_data()), want.map(|x| x.to_data()));
    });
    errors.finish();
}

#[test]
fn gpu_kernels_match_the_definition_in_f32_over_random_shapes() {
    compare("lightning_attention on a GPU, f32", 200, 150, &WIDTHS, DType::F32, F32);
}

#[test]
fn gpu_kernels_match_the_definition_in_f32_where_segments_share_a_sequence() {
    compare("lightning_attention on a GPU, f32, segments", 20, 900, &WIDTHS[..3], DType::F32, F32);
}

#[test]
fn gpu_kernels_match_the_definition_in_bf16_over_random_shapes() {
    compare("lightning_attention on a GPU, bf16", 200, 600, &WIDTHS, DType::BF16, BF16);
}

#[test]
fn gpu_kernels_match_the_definition_in_f16_over_random_shapes() {
    compare("lightning_attention on a GPU, f16", 40, 150, &WIDTHS[1..2], DType::F16, F16);
}

#[test]
fn steps_on_a_gpu_give_the_same_as_the_whole_and_leave_other_holders_of_the_state_alone() {
    let Some(device) = gpu() else { return };
    sweep("lightning_step on a GPU", 20, |s: &mut Sampler| {
        let (b, h, t) = (s.size(1, 3), s.size(1, 4), s.size(1, 12));
        let (d_k, d_v, scale) = (s.pick(&[5, 40, 128]), s.pick(&[7, 33, 128]), s.uniform(-1.0, 1.0));
        let slopes = DecayRule::Code.slopes(h, 2, s.size(0, 1));
        let [q, k] = [(); 2].map(|()| s.tensor([b, h, t, d_k], -1.0, 1.0));
        let v = s.tensor([b, h, t, d_v], -1.0, 1.0);
        let first = s.tensor([b, h, d_k, d_v], -1.0, 1.0);
        let options = LightningOpts { scale, initial_state: Some(first.f32(&cpu())), ..Default::default() };
        let (want, want_state) = lightning_attention(q.f32(&cpu()), k.f32(&cpu()), v.f32(&cpu()), &slopes, options).unwrap();
        let [q, k, v, first] = [q, k, v, first].map(|x| x.f32(&device));
        let (mut state, before) = (first.clone(), first.to_data());
        let outs = (0..t).map(|i| {
            let [q, k, v] = [&q, &k, &v].map(|x| x.clone().narrow(2, i, 1).squeeze_dim::<3>(2));
            lightning_step(q, k, v, &slopes, scale, &mut state).unwrap().unsqueeze_dim::<4>(2)
        });
        let o = Tensor::cat(outs.collect(), 2).to_device(&cpu());
        regard_testkit::assert_close("o", &o, &want, 5e-6);
        regard_testkit::assert_close("state", &state.to_device(&cpu()), &want_state, 5e-6);
        assert_eq!(first.into_data(), before);
    });
}
