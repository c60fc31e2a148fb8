use burn::tensor::{DType, Int, Tensor, TensorData};
use regard_testkit::{Sampler, assert_close, cpu, gradcheck, sweep};

use super::{any_mask, any_options, assert_all_close, pick_tokens, with_gradients};
use crate::flow_attention::{FlowOptions, flow_attention, flow_weights};

fn inputs(s: &mut Sampler, l: usize, t: usize) -> [Tensor<4>; 3] {
    let (b, h, d, e) = (s.size(1, 3), s.size(1, 3), s.size(1, 9), s.size(1, 9));
    [[b, h, l, d], [b, h, t, d], [b, h, t, e]].map(|shape| s.tensor(shape, -3.0, 3.0).f64(&cpu()))
}

#[test]
fn operation_equals_its_weights_times_values_over_odd_shapes_with_gradients() {
    sweep("flow_attention", 60, |s| {
        let (l, t) = (s.pick(&[1, 2, 7, 33, 70]), s.pick(&[1, 2, 8, 31, 65]));
        let inputs = inputs(s, l, t);
        let [b, h, _, e] = inputs[2].dims();
        let mut options = any_options(s);
        if s.flip() {
            options.key_mask = Some(any_mask(s, b, t).0);
            options.query_mask = Some(any_mask(s, b, l).0);
        }
        let cotangent = s.tensor([b, h, l, e], -1.0, 1.0);
        let by_weights = |q: Tensor<4>, k, v| flow_weights(q, k, &options).unwrap().matmul(v);
        let by_operation = |q, k, v| flow_attention(q, k, v, &options).unwrap();
        let want = with_gradients(&inputs, &cotangent, by_weights);
        assert_all_close("in f64", &with_gradients(&inputs, &cotangent, by_operation), &want, 1e-10);
        let narrow = inputs.map(|x| x.cast(DType::F32));
        assert_all_close("in f32", &with_gradients(&narrow, &cotangent, by_operation), &want, 1e-4);
    });
}

#[test]
fn gradients_are_those_of_central_differences() {
    let mut s = Sampler::new(3);
    let draws = [[1, 2, 5, 3]; 3].map(|shape| s.tensor(shape, -2.0, 2.0));
    for clamp in [None, Some([-1.0, 1.0])] {
        let options = FlowOptions { clamp, ..FlowOptions::default() };
        gradcheck("flow_attention", &draws, 1e-7, |x| {
            flow_attention(x[0].clone(), x[1].clone(), x[2].clone(), &options).unwrap().square().sum()
        });
    }
}

#[test]
fn hidden_tokens_are_as_if_absent_whatever_stands_there() {
    sweep("masks", 40, |s| {
        let (l, t) = (s.size(1, 9), s.size(1, 9));
        let [q, k, v] = inputs(s, l, t);
        let [b, h, _, e] = v.dims();
        let (key_mask, keys) = any_mask(s, b, t);
        let (query_mask, queries) = any_mask(s, b, l);
        let plain = any_options(s);
        let options = FlowOptions { key_mask: Some(key_mask.clone()), query_mask: Some(query_mask.clone()), ..plain.clone() };
        let poison = |x: Tensor<4>, mask: &Tensor<2, burn::tensor::Bool>| {
            let shape = x.dims();
            x.mask_fill(mask.clone().reshape([shape[0], 1, shape[2], 1]).expand(shape), f64::NAN)
        };
        let inputs = [poison(q.clone(), &query_mask), poison(k.clone(), &key_mask), poison(v.clone(), &key_mask)];
        let cotangent = s.tensor([b, h, l, e], -1.0, 1.0);
        let results = with_gradients(&inputs, &cotangent, |q, k, v| flow_attention(q, k, v, &options).unwrap());
        for (name, x) in &results {
            assert!(x.to_data().iter::<f64>().all(f64::is_finite), "{name} has NaN");
        }
        let o = &results[0].1;
        for i in 0..b {
            let [q, k, v] = [pick_tokens(&q, i, &queries[i]), pick_tokens(&k, i, &keys[i]), pick_tokens(&v, i, &keys[i])];
            if queries[i].is_empty() {
                continue;
            }
            let got = pick_tokens(o, i, &queries[i]);
            let want = if keys[i].is_empty() { got.zeros_like() } else { flow_attention(q, k, v, &plain).unwrap() };
            assert_close("rows of tokens", &got, &want, 1e-12);
        }
        let hidden_rows = o.clone() * query_mask.float().cast(DType::F64).reshape([b, 1, l, 1]);
        assert!(hidden_rows.abs().max().into_scalar::<f64>() == 0.0, "a hidden query has an output");
        let hidden_grads = results[2].1.clone() * key_mask.float().cast(DType::F64).reshape([b, 1, t, 1]);
        assert!(hidden_grads.abs().max().into_scalar::<f64>() == 0.0, "a hidden key has a gradient");
    });
}

#[test]
fn permuting_sources_changes_nothing_and_permuting_sinks_permutes_results() {
    let mut s = Sampler::new(4);
    let [q, k, v] = inputs(&mut s, 6, 5);
    let options = FlowOptions::default();
    let o = flow_attention(q.clone(), k.clone(), v.clone(), &options).unwrap();
    let sources = Tensor::<1, Int>::from_data([3, 0, 4, 1, 2], &cpu());
    let sinks = Tensor::<1, Int>::from_data([5, 2, 0, 1, 4, 3], &cpu());
    let [k_moved, v_moved] = [k.clone(), v.clone()].map(|x| x.select(2, sources.clone()));
    assert_close("sources", &flow_attention(q.clone(), k_moved, v_moved, &options).unwrap(), &o, 1e-13);
    let moved = flow_attention(q.select(2, sinks.clone()), k, v, &options).unwrap();
    assert_close("sinks", &moved, &o.select(2, sinks), 1e-13);
}

#[test]
fn the_flow_into_every_sink_and_out_of_every_source_is_1() {
    let options = FlowOptions { competition: false, allocation: false, ..FlowOptions::default() };
    let mut s = Sampler::new(5);
    let [q, k, _] = inputs(&mut s, 20, 30);
    for (what, weights) in [
        ("into sinks", flow_weights(q.clone(), k.clone(), &options).unwrap()),
        // Seen from the other side a source is a sink: O of (q, k) is I of (k, q).
        ("out of sources", flow_weights(k, q, &options).unwrap()),
    ] {
        let total = weights.sum_dim(3);
        assert_close(what, &total, &total.ones_like(), 1e-4);
    }
}

#[test]
fn equal_keys_give_the_mean_times_the_allocation() {
    let mut s = Sampler::new(6);
    let [q, k, v] = inputs(&mut s, 9, 9);
    let k = k.clone().narrow(2, 0, 1).expand(k.dims());
    let shape = v.dims();
    let mean = v.clone().mean_dim(2).expand(shape);
    let options = FlowOptions { allocation: false, ..FlowOptions::default() };
    assert_close("mean", &flow_attention(q.clone(), k.clone(), v.clone(), &options).unwrap(), &mean, 1e-5);
    let options = FlowOptions::default();
    let allocation = flow_weights(q.clone(), k.clone(), &options).unwrap().sum_dim(3);
    assert!(allocation.clone().max().into_scalar::<f64>() < 1.0 && allocation.clone().min().into_scalar::<f64>() > 0.0);
    assert_close("mean times allocation", &flow_attention(q, k, v, &options).unwrap(), &(mean * allocation), 1e-5);
}

#[test]
fn sequences_of_a_batch_do_not_see_each_other() {
    let mut s = Sampler::new(7);
    let [q, k, v] = [[2, 2, 6, 4], [2, 2, 7, 4], [2, 2, 7, 3]].map(|shape| s.tensor(shape, -1.0, 1.0).f32(&cpu()));
    let both = flow_attention(q.clone(), k.clone(), v.clone(), &FlowOptions::default()).unwrap();
    let [q, k, v] = [q, k, v].map(|x| x.narrow(0, 1, 1));
    let alone = flow_attention(q, k, v, &FlowOptions::default()).unwrap();
    assert_eq!(both.narrow(0, 1, 1).into_data(), alone.into_data());
}

#[test]
fn half_precision_inputs_are_summed_in_f32() {
    let mut s = Sampler::new(8);
    // Capacities of 1e-6 and less: their flows underflow in f16 and their reciprocals overflow.
    let draws = [[1, 1, 40, 4], [1, 1, 40, 4], [1, 1, 40, 4]].map(|shape| s.tensor(shape, -16.0, -12.0).f32(&cpu()));
    for dtype in [DType::F16, DType::BF16] {
        let [q, k, v] = draws.clone().map(|x| x.cast(dtype));
        let want =
            flow_attention(q.clone().cast(DType::F32), k.clone().cast(DType::F32), v.clone().cast(DType::F32), &FlowOptions::default());
        let got = flow_attention(q, k, v, &FlowOptions::default()).unwrap();
        assert_eq!(got.dtype(), dtype);
        assert_close("half", &got.cast(DType::F32), &want.unwrap(), 1e-2);
    }
}

#[test]
fn capacities_that_vanish_give_finite_outputs_and_gradients() {
    let mut s = Sampler::new(9);
    let inputs = [[1, 1, 9, 4]; 3].map(|shape| s.tensor(shape, -200.0, -120.0).f32(&cpu()));
    let cotangent = s.tensor([1, 1, 9, 4], -1.0, 1.0);
    for clamp in [None, Some([-1.0, 1.0])] {
        let options = FlowOptions { clamp, ..FlowOptions::default() };
        for (name, x) in with_gradients(&inputs, &cotangent, |q, k, v| flow_attention(q, k, v, &options).unwrap()) {
            assert!(x.to_data().iter::<f64>().all(f64::is_finite), "{name} has NaN");
        }
    }
}

#[test]
fn a_flow_at_its_bound_keeps_its_gradient() {
    let flow = Tensor::<4>::from_data([[[[-1.5_f32, -1.0, 0.0, 1.0, 1.5]]]], &cpu().autodiff()).require_grad();
    let grads = FlowOptions::default().bounded(flow.clone()).sum().backward();
    assert_eq!(flow.grad(&grads).unwrap().into_data(), TensorData::from([[[[0.0_f32, 1.0, 1.0, 1.0, 0.0]]]]));
}

#[test]
fn empty_inputs_give_empty_outputs_and_no_keys_are_an_error() {
    let zeros = |shape: [usize; 4]| Tensor::<4>::zeros(shape, &cpu());
    let flow = |q, k, v| flow_attention(zeros(q), zeros(k), zeros(v), &FlowOptions::default());
    assert_eq!(flow([2, 1, 0, 3], [2, 1, 4, 3], [2, 1, 4, 5]).unwrap().dims(), [2, 1, 0, 5]);
    assert_eq!(flow([0, 1, 2, 3], [0, 1, 4, 3], [0, 1, 4, 5]).unwrap().dims(), [0, 1, 2, 5]);
    assert_eq!(flow([1, 1, 2, 3], [1, 1, 4, 3], [1, 1, 4, 0]).unwrap().dims(), [1, 1, 2, 0]);
    let error = flow([1, 1, 2, 3], [1, 1, 0, 3], [1, 1, 0, 5]).unwrap_err();
    assert_eq!(error.to_string(), "flow_attention: `k` must be of at least one token, got 0");
}

#[test]
fn one_source_gives_its_value_times_the_allocation() {
    let mut s = Sampler::new(10);
    let [q, k, v] = [[1, 1, 4, 3], [1, 1, 1, 3], [1, 1, 1, 2]].map(|shape| s.tensor(shape, -1.0, 1.0).f64(&cpu()));
    let options = FlowOptions { allocation: false, ..FlowOptions::default() };
    let o = flow_attention(q, k, v.clone(), &options).unwrap();
    assert_close("value", &o, &v.expand([1, 1, 4, 2]), 1e-5);
}

#[test]
fn bad_arguments_are_named() {
    let error = |q: [usize; 4], k: [usize; 4], v: [usize; 4], options: FlowOptions| {
        let [q, k, v] = [q, k, v].map(|shape| Tensor::zeros(shape, &cpu()));
        flow_attention(q, k, v, &options).unwrap_err().to_string()
    };
    let plain = FlowOptions::default;
    let mask = |shape: [usize; 2]| Some(Tensor::<2>::zeros(shape, &cpu()).equal_elem(1.0));
    let ok = [1, 2, 4, 3];
    for (got, want) in [
        (
            error([1, 2, 4, 5], ok, ok, plain()),
            "flow_attention: `q` and `k` must agree in batch, heads and key width, got [1, 2, 4, 5] and [1, 2, 4, 3]",
        ),
        (
            error(ok, ok, [1, 2, 5, 3], plain()),
            "flow_attention: `k` and `v` must agree in batch, heads and tokens, got [1, 2, 4, 3] and [1, 2, 5, 3]",
        ),
        (error([1, 2, 4, 0], [1, 2, 4, 0], ok, plain()), "flow_attention: `q` must be of at least one channel per head, got 0"),
        (error(ok, ok, ok, FlowOptions { eps: 0.0, ..plain() }), "flow_attention: `eps` must be a positive number, got 0"),
        (error(ok, ok, ok, FlowOptions { eps: -1.0, ..plain() }), "flow_attention: `eps` must be a positive number, got -1"),
        (error(ok, ok, ok, FlowOptions { eps: f64::NAN, ..plain() }), "flow_attention: `eps` must be a positive number, got NaN"),
        (
            error(ok, ok, ok, FlowOptions { extra_eps: -1e-6, ..plain() }),
            "flow_attention: `extra_eps` must be 0 or a positive number, got -0.000001",
        ),
        (
            error(ok, ok, ok, FlowOptions { clamp: Some([1.0, -1.0]), ..plain() }),
            "flow_attention: `clamp` must be a lower and an upper bound, in that order, got [1, -1]",
        ),
        (
            error(ok, ok, ok, FlowOptions { key_mask: mask([1, 3]), ..plain() }),
            "flow_attention: `key_mask` must be of shape [B, T] = [1, 4], got [1, 3]",
        ),
        (
            error(ok, ok, ok, FlowOptions { query_mask: mask([2, 4]), ..plain() }),
            "flow_attention: `query_mask` must be of shape [B, T] = [1, 4], got [2, 4]",
        ),
    ] {
        assert_eq!(got, want);
    }
}
