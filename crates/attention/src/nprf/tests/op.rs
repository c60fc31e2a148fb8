use burn::tensor::{DType, Tensor, TensorData};
use regard_testkit::{Sampler, assert_close, cpu, relative_error, sweep};

use super::{Inputs, any_mask, assert_all_close, by_definition, by_operation, with_gradients};
use crate::nprf::{NprfAlgorithm, NprfOptions, nprf, reference};

const BOTH: [NprfAlgorithm; 2] = [NprfAlgorithm::Dense, NprfAlgorithm::Fft];

fn any_options(s: &mut Sampler, inputs: &Inputs) -> NprfOptions {
    let [b, _, n, width] = inputs.q.dims();
    let key_mask = s.flip().then(|| any_mask(s, b, n));
    // A single channel divided by its norm is a sign: its gradient is 0, and what is computed of it nothing but rounding.
    let normalised = s.flip() && width > 1;
    NprfOptions { causal: s.flip(), normalised, key_mask, ..NprfOptions::default() }
}

#[test]
fn both_algorithms_equal_the_definition_over_odd_shapes_with_gradients() {
    sweep("nprf", 100, |s| {
        let (b, h, n) = (s.size(1, 3), s.size(1, 3), s.pick(&[1, 2, 3, 7, 33, 64, 65, 100]));
        let inputs = Inputs::any(s, [b, h, n]);
        let options = any_options(s, &inputs);
        let seed = s.size(0, 1000) as u64;
        let want = with_gradients(&inputs, seed, |x| by_definition(x, &options, true));
        for algorithm in BOTH {
            let options = NprfOptions { algorithm, ..options.clone() };
            let run = |x: &Inputs| with_gradients(x, seed, |x| by_operation(x, &options, true));
            assert_all_close(&format!("{algorithm:?} in f64"), &run(&inputs), &want, 1e-9);
            assert_all_close(&format!("{algorithm:?} in f32"), &run(&inputs.clone().f32()), &want, 3e-4);
        }
    });
}

#[test]
fn a_single_channel_divided_by_its_norm_is_a_sign() {
    let mut s = Sampler::new(31);
    for algorithm in BOTH {
        let mut inputs = Inputs::any(&mut s, [2, 2, 33]);
        let first = |x: &Tensor<4>| x.clone().narrow(3, 0, 1);
        (inputs.q, inputs.k) = (first(&inputs.q), first(&inputs.k));
        inputs.projection = inputs.projection.clone().narrow(2, 0, 1);
        let options = NprfOptions { algorithm, normalised: true, ..NprfOptions::default() };
        let want = with_gradients(&inputs, 5, |x| by_definition(x, &options, true));
        let got = with_gradients(&inputs.clone().f32(), 5, |x| by_operation(x, &options, true));
        // The gradients of queries and keys are 0, and what is computed of them rounding.
        let (zero, rest): (Vec<_>, Vec<_>) = got.into_iter().partition(|(name, _)| ["dq", "dk"].contains(name));
        let want: Vec<_> = want.into_iter().filter(|(name, _)| !["dq", "dk"].contains(name)).collect();
        assert_all_close(&format!("{algorithm:?}"), &rest, &want, 3e-4);
        for (name, x) in zero {
            let largest = x.abs().max().into_scalar::<f64>();
            assert!(largest < 1e-4, "{algorithm:?}: {name} is {largest:e}");
        }
    }
}

#[test]
fn without_a_bias_the_operation_equals_the_definition_with_gradients() {
    sweep("nprf without bias", 40, |s| {
        let (b, n) = (s.size(1, 3), s.pick(&[1, 2, 7, 65, 100]));
        let h = s.size(1, 3);
        let inputs = Inputs::any(s, [b, h, n]);
        let options = any_options(s, &inputs);
        let want = with_gradients(&inputs, 1, |x| by_definition(x, &options, false));
        assert_all_close("in f64", &with_gradients(&inputs, 1, |x| by_operation(x, &options, false)), &want, 1e-9);
    });
}

/// Claim 1 of the specification: to 1e-5 in f32, forward and backward.
#[test]
fn transforms_agree_with_matrix_products_to_one_part_in_a_hundred_thousand() {
    let mut s = Sampler::new(5);
    for n in [1, 2, 5, 16, 31, 64, 100, 129, 200, 256, 257] {
        for causal in [false, true] {
            let inputs = Inputs::draw(&mut s, [2, 2, n, 8, 8, 8]).f32();
            let key_mask = s.flip().then(|| any_mask(&mut s, 2, n));
            let [dense, fft] = BOTH.map(|algorithm| {
                let options = NprfOptions { causal, algorithm, key_mask: key_mask.clone(), ..NprfOptions::default() };
                with_gradients(&inputs, 2, |x| by_operation(x, &options, true))
            });
            assert_all_close(&format!("n = {n}, causal {causal}"), &fft, &dense, 1e-5);
        }
    }
}

#[test]
fn rows_that_transforms_would_drown_are_exact() {
    let mut s = Sampler::new(6);
    let n = 300;
    let x = Inputs::draw(&mut s, [1, 1, n, 4, 4, 6]).f32();
    // Far keys weigh e^12 times as much as near ones: the first rows of the causal form see near ones alone.
    let bias: Vec<f32> = (0..2 * n - 1).map(|i| if i.abs_diff(n - 1) < 40 { -12.0 } else { 12.0 }).collect();
    let x = Inputs { bias: Tensor::from_data(TensorData::new(bias, [1, 2 * n - 1]), &cpu()), ..x };
    let [dense, fft] = BOTH.map(|algorithm| {
        let options = NprfOptions { causal: true, algorithm, ..NprfOptions::default() };
        by_operation(x.clone(), &options, true).0
    });
    for (row, error) in (0..n).map(|i| (i, relative_error(&fft.clone().narrow(2, i, 1), &dense.clone().narrow(2, i, 1)))) {
        assert!(error < 2e-5, "row {row} is off by {error:.1e}");
    }
}

#[test]
fn the_estimate_converges_to_softmax_attention() {
    let mut s = Sampler::new(7);
    let x = Inputs::draw(&mut s, [1, 2, 12, 4, 3, 1]);
    let want = reference::exact(x.q.clone(), x.k.clone(), x.v.clone(), Some(reference::bias_matrix(x.bias.clone())), None, true);
    let errors = [64, 4096, 65_536].map(|m| {
        let projection = super::super::draw_projection(crate::nprf::ProjectionKind::Gaussian, [2, m, 4], 3, &cpu()).cast(DType::F64);
        let (o, _) = nprf(x.q.clone(), x.k.clone(), x.v.clone(), projection, Some(x.bias.clone()), &NprfOptions::default()).unwrap();
        relative_error(&o, &want)
    });
    assert!(errors[1] < errors[0] && errors[2] < errors[1] && errors[2] < 0.02, "errors {errors:?}");
}

#[test]
fn changing_the_future_moves_nothing() {
    let mut s = Sampler::new(8);
    let (n, from) = (70, 40);
    let x = Inputs::draw(&mut s, [2, 2, n, 4, 3, 5]);
    for algorithm in BOTH {
        for with_bias in [true, false] {
            let options = NprfOptions { causal: true, algorithm, ..NprfOptions::default() };
            let (want, _) = by_operation(x.clone(), &options, with_bias);
            let change = |x: Tensor<4>| Tensor::cat(vec![x.clone().narrow(2, 0, from), x.narrow(2, from, n - from) * -1.5 + 0.3], 2);
            let moved = Inputs { q: change(x.q.clone()), k: change(x.k.clone()), v: change(x.v.clone()), ..x.clone() };
            let (got, _) = by_operation(moved, &options, with_bias);
            assert_close("the past", &got.clone().narrow(2, 0, from), &want.clone().narrow(2, 0, from), 1e-10);
            assert!(relative_error(&got.narrow(2, from, n - from), &want.narrow(2, from, n - from)) > 1e-3);
        }
    }
}

#[test]
fn later_entries_of_the_table_have_no_gradient_in_the_causal_form() {
    let mut s = Sampler::new(9);
    let x = Inputs::draw(&mut s, [1, 2, 20, 4, 3, 5]).f32();
    for algorithm in BOTH {
        let options = NprfOptions { causal: true, algorithm, ..NprfOptions::default() };
        let all = with_gradients(&x, 3, |x| by_operation(x, &options, true));
        let gradient = all[6].1.clone().reshape([2, 39]);
        assert_eq!(gradient.clone().narrow(1, 20, 19).abs().max().into_scalar::<f64>(), 0.0);
        assert!(gradient.narrow(1, 0, 20).abs().max().into_scalar::<f64>() > 0.0);
    }
}

#[test]
fn hidden_keys_are_as_if_absent_whatever_stands_there() {
    let mut s = Sampler::new(10);
    let x = Inputs::draw(&mut s, [2, 2, 9, 4, 3, 5]).f32();
    let mask = Tensor::from_data([[true, true, false, false, true, false, false, false, true], [true; 9]], &cpu());
    let poison = |x: &Tensor<4>| {
        let shape = x.dims();
        x.clone().mask_fill(mask.clone().reshape([2, 1, 9, 1]).expand(shape), f64::NAN)
    };
    let poisoned = Inputs { k: poison(&x.k), v: poison(&x.v), ..x.clone() };
    for algorithm in BOTH {
        for causal in [false, true] {
            let options = NprfOptions { causal, algorithm, key_mask: Some(mask.clone()), ..NprfOptions::default() };
            let got = with_gradients(&poisoned, 4, |x| by_operation(x, &options, true));
            let want = with_gradients(&x, 4, |x| by_definition(x, &options, true));
            assert_all_close(&format!("{algorithm:?}, causal {causal}"), &got, &want, 1e-4);
            let (o, lse) = by_operation(poisoned.clone(), &options, true);
            let blind = if causal { 2 } else { 0 };
            for x in [o.clone().narrow(0, 1, 1), o.narrow(0, 0, 1).narrow(2, 0, blind.max(1)) * f64::from(u8::from(causal))] {
                assert_eq!(x.abs().max().into_scalar::<f32>(), 0.0, "a query that sees nothing has an output");
            }
            assert!(lse.narrow(0, 1, 1).to_data().iter::<f64>().all(|x| x == f64::NEG_INFINITY));
        }
    }
}

#[test]
fn sequences_and_heads_do_not_see_each_other() {
    let mut s = Sampler::new(11);
    let x = Inputs::draw(&mut s, [2, 3, 30, 4, 3, 5]).f32();
    for algorithm in BOTH {
        let options = NprfOptions { algorithm, ..NprfOptions::default() };
        let (all, _) = by_operation(x.clone(), &options, true);
        let part = |x: Tensor<4>| x.narrow(0, 1, 1).narrow(1, 2, 1);
        let alone = x.clone().map(part, |x| x.narrow(0, 2, 1), |x| x.narrow(0, 2, 1));
        assert_close("alone", &by_operation(alone, &options, true).0, &part(all), 1e-5);
    }
}

#[test]
fn a_shift_of_all_biases_and_a_longer_table_change_nothing() {
    let mut s = Sampler::new(12);
    let x = Inputs::draw(&mut s, [1, 2, 10, 4, 3, 5]);
    let options = NprfOptions { causal: true, ..NprfOptions::default() };
    let (want, _) = by_operation(x.clone(), &options, true);
    let shifted = Inputs { bias: x.bias.clone() + 5.0, ..x.clone() };
    assert_close("shifted", &by_operation(shifted, &options, true).0, &want, 1e-12);
    let ends = Tensor::full([2, 3], 9.0, (&cpu(), DType::F64));
    let longer = Inputs { bias: Tensor::cat(vec![ends.clone(), x.bias.clone(), ends], 1), ..x };
    assert_close("longer", &by_operation(longer, &options, true).0, &want, 1e-12);
}

#[test]
fn a_bias_of_minus_infinity_is_a_window() {
    let mut s = Sampler::new(13);
    let x = Inputs::draw(&mut s, [1, 1, 12, 4, 3, 5]);
    let window: Vec<bool> = (0..23_usize).map(|i| i.abs_diff(11) > 3).collect();
    let window = Tensor::from_data(TensorData::new(window, [1, 23]), &cpu());
    let x = Inputs { bias: x.bias.mask_fill(window, f64::NEG_INFINITY), ..x };
    for algorithm in BOTH {
        let options = NprfOptions { algorithm, ..NprfOptions::default() };
        let (got, _) = by_operation(x.clone(), &options, true);
        assert_close("window", &got, &by_definition(x.clone(), &options, true).0, 1e-10);
        let all = with_gradients(&x, 5, |x| by_operation(x, &options, true));
        assert!(all.iter().all(|(_, x)| x.to_data().iter::<f64>().all(f64::is_finite)));
    }
}

#[test]
fn a_bias_beyond_the_bound_counts_as_the_bound() {
    let mut s = Sampler::new(14);
    let x = Inputs::draw(&mut s, [1, 1, 6, 4, 3, 5]);
    let options = NprfOptions { clamp: Some(1.0), ..NprfOptions::default() };
    let bounded = Inputs { bias: x.bias.clone().clamp(-1.0, 1.0), ..x.clone() };
    let unbounded = NprfOptions { clamp: None, ..options.clone() };
    assert_close("bounded", &by_operation(x.clone(), &options, true).0, &by_operation(bounded, &unbounded, true).0, 1e-12);
    assert!(relative_error(&by_operation(x.clone(), &options, true).0, &by_operation(x, &unbounded, true).0) > 1e-3);
}

#[test]
fn zero_vectors_and_huge_ones_give_finite_outputs_and_gradients() {
    let mut s = Sampler::new(15);
    for (scale, normalised) in [(0.0, true), (0.0, false), (1e3, true), (30.0, false)] {
        let x = Inputs::draw(&mut s, [1, 2, 9, 4, 3, 5]).f32();
        let x = Inputs { q: x.q * scale, k: x.k * scale, ..x };
        for algorithm in BOTH {
            let options = NprfOptions { normalised, algorithm, ..NprfOptions::default() };
            for (name, x) in with_gradients(&x, 6, |x| by_operation(x, &options, true)) {
                assert!(x.to_data().iter::<f64>().all(f64::is_finite), "{name} is not finite at scale {scale}");
            }
        }
    }
}

#[test]
fn half_precision_is_computed_in_f32() {
    let mut s = Sampler::new(16);
    let x = Inputs::draw(&mut s, [1, 2, 40, 8, 4, 8]).f32();
    for dtype in [DType::F16, DType::BF16] {
        let half = x.clone().map(|x| x.cast(dtype), |x| x.cast(dtype), |x| x.cast(dtype));
        let same = half.clone().f32();
        let (got, _) = by_operation(half, &NprfOptions::default(), true);
        assert_eq!(got.dtype(), dtype);
        assert_close("half", &got.cast(DType::F32), &by_operation(same, &NprfOptions::default(), true).0, 1e-2);
    }
}

#[test]
fn attention_to_other_sequences_and_empty_ones_works_without_a_bias() {
    let mut s = Sampler::new(17);
    let x = Inputs::draw(&mut s, [1, 2, 9, 4, 3, 5]);
    let (k, v) = (x.k.clone().narrow(2, 0, 4), x.v.clone().narrow(2, 0, 4));
    let (got, _) = nprf(x.q.clone(), k.clone(), v.clone(), x.projection.clone(), None, &NprfOptions::default()).unwrap();
    let (want, _) = reference::dense(x.q.clone(), k, v, x.projection.clone(), None, None, true);
    assert_close("four keys", &got, &want, 1e-12);
    for [b, n] in [[0, 9], [1, 0]] {
        let zeros = |width| Tensor::zeros([b, 2, n, width], (&cpu(), DType::F64));
        let (o, lse) = nprf(zeros(4), zeros(4), zeros(3), x.projection.clone(), None, &NprfOptions::default()).unwrap();
        assert_eq!((o.dims(), lse.dims()), ([b, 2, n, 3], [b, 2, n]));
    }
    let nothing = |width| Tensor::zeros([1, 2, 0, width], (&cpu(), DType::F64));
    let (o, lse) = nprf(x.q, nothing(4), nothing(3), x.projection, None, &NprfOptions::default()).unwrap();
    assert_eq!(o.abs().max().into_scalar::<f64>(), 0.0);
    assert!(lse.to_data().iter::<f64>().all(|x| x == f64::NEG_INFINITY));
}

#[test]
fn results_are_the_same_in_every_run() {
    let mut s = Sampler::new(18);
    let x = Inputs::draw(&mut s, [1, 1, 200, 8, 8, 8]).f32();
    for algorithm in BOTH {
        let options = NprfOptions { causal: true, algorithm, ..NprfOptions::default() };
        let run = || with_gradients(&x, 7, |x| by_operation(x, &options, true));
        let first = run();
        for _ in 0..3 {
            assert!(run().iter().zip(&first).all(|((_, a), (_, b))| a.to_data() == b.to_data()));
        }
    }
}
