use burn::tensor::{Bool, DType, Int, Tensor, TensorData};
use regard_testkit::{Sampler, assert_close, cpu, gradcheck, sweep};

use super::{any_mask, any_options, assert_all_close, pick_tokens, with_gradients};
use crate::{
    MixerMemory,
    flow_attention::{
        FlowOptions, FlowState, flow_attention_causal, flow_weights_causal,
        runs::{StateGradient, advance_by_runs, run_length},
    },
};

fn inputs(s: &mut Sampler, t: usize) -> [Tensor<4>; 3] {
    let (b, h, d, e) = (s.size(1, 3), s.size(1, 3), s.size(1, 9), s.size(1, 9));
    [[b, h, t, d], [b, h, t, d], [b, h, t, e]].map(|shape| s.tensor(shape, -3.0, 3.0).f64(&cpu()))
}

#[test]
fn operation_equals_its_weights_times_values_over_odd_lengths_with_gradients() {
    sweep("flow_attention_causal", 60, |s| {
        // Shorter than, equal to and around multiples of the blocks of the sums (32) and of the product (64).
        let t = s.pick(&[1, 2, 5, 31, 32, 33, 63, 64, 65, 100, 128, 150]);
        let inputs = inputs(s, t);
        let [b, h, _, e] = inputs[2].dims();
        let mut options = any_options(s);
        if s.flip() {
            options.key_mask = Some(any_mask(s, b, t).0);
        }
        let cotangent = s.tensor([b, h, t, e], -1.0, 1.0);
        let by_weights = |q: Tensor<4>, k, v| flow_weights_causal(q, k, &options).unwrap().matmul(v);
        let by_operation = |q, k, v| flow_attention_causal(q, k, v, &options).unwrap();
        let want = with_gradients(&inputs, &cotangent, by_weights);
        assert_all_close(&format!("in f64, T = {t}"), &with_gradients(&inputs, &cotangent, by_operation), &want, 1e-10);
        let narrow = inputs.map(|x| x.cast(DType::F32));
        assert_all_close(&format!("in f32, T = {t}"), &with_gradients(&narrow, &cotangent, by_operation), &want, 1e-4);
    });
}

#[test]
fn gradients_are_those_of_central_differences() {
    let mut s = Sampler::new(3);
    let draws = [[1, 2, 6, 3]; 3].map(|shape| s.tensor(shape, -2.0, 2.0));
    for clamp in [None, Some([-1.0, 1.0])] {
        let options = FlowOptions { clamp, ..FlowOptions::default() };
        gradcheck("flow_attention_causal", &draws, 1e-7, |x| {
            flow_attention_causal(x[0].clone(), x[1].clone(), x[2].clone(), &options).unwrap().square().sum()
        });
    }
}

#[test]
fn an_output_does_not_change_when_later_tokens_do() {
    let mut s = Sampler::new(4);
    for at in [1, 40, 64, 99] {
        let inputs = inputs(&mut s, 100);
        let changed = inputs.clone().map(|x| {
            let [b, h, t, d] = x.dims();
            Tensor::cat(vec![x.narrow(2, 0, at), s.tensor([b, h, t - at, d], -9.0, 9.0).f64(&cpu())], 2)
        });
        for clamp in [None, Some([-1.0, 1.0])] {
            let options = FlowOptions { clamp, ..FlowOptions::default() };
            let [before, after] = [inputs.clone(), changed.clone()].map(|[q, k, v]| flow_attention_causal(q, k, v, &options).unwrap());
            assert!(before.clone().sub(after.clone()).abs().max().into_scalar::<f64>() > 1e-3, "the changed tokens have no influence");
            let [before, after] = [before, after].map(|o| o.narrow(2, 0, at));
            assert_close(&format!("changed from {at}"), &after, &before, 1e-14);
        }
    }
}

#[test]
fn any_split_into_prefills_and_steps_gives_the_whole_and_its_gradients() {
    sweep("splits", 25, |s| {
        let t = s.size(1, 140);
        let inputs = inputs(s, t);
        let [b, h, _, e] = inputs[2].dims();
        let options = any_options(s);
        let mut cuts = vec![0, s.size(0, t), s.size(0, t), t];
        cuts.sort_unstable();
        let cotangent = s.tensor([b, h, t, e], -1.0, 1.0);
        let whole = with_gradients(&inputs, &cotangent, |q, k, v| flow_attention_causal(q, k, v, &options).unwrap());
        let parts = with_gradients(&inputs, &cotangent, |q, k, v| {
            let mut state = FlowState::new(b, h, q.dims()[3], e, &q.device());
            state = state.map(|x| x.cast(DType::F64));
            let outputs = cuts.windows(2).filter(|w| w[0] < w[1]).map(|w| {
                let [q, k, v] = [&q, &k, &v].map(|x| x.clone().narrow(2, w[0], w[1] - w[0]));
                state.prefill(q, k, v, &options).unwrap()
            });
            Tensor::cat(outputs.collect(), 2)
        });
        assert_all_close(&format!("cut at {cuts:?}"), &parts, &whole, 1e-10);
    });
}

#[test]
fn runs_of_any_length_give_the_whole_and_all_its_gradients() {
    sweep("runs", 25, |s| {
        let t = s.size(2, 140);
        let run = s.pick(&[1, 7, 64, 100, 200]);
        let [q, k, v] = inputs(s, t);
        let [b, h, _, d] = q.dims();
        let e = v.dims()[3];
        let options = any_options(s);
        let hidden = s.flip().then(|| any_mask(s, b, t).0.reshape([b, 1, t, 1]));
        // The state after some tokens, so that its gradients are checked too, and a loss that sees the state at the end.
        let mut start = FlowState::new(b, h, d, e, &cpu()).map(|x| x.cast(DType::F64));
        let earlier = [&q, &k, &v].map(|x| s.tensor([b, h, 3, x.dims()[3]], -1.0, 1.0).f64(&cpu()));
        start.advance(earlier, None, &options);
        let cotangents = [e, d, d, d, d, 1, e].map(|width| s.tensor([b, h, 200, width], -1.0, 1.0).f64(&cpu()));

        let results = |advance: &dyn Fn(&mut FlowState, [Tensor<4>; 3], Option<Tensor<4, Bool>>) -> Tensor<4>| {
            let leaf = |x: Tensor<4>| x.autodiff().require_grad();
            let qkv = [&q, &k, &v].map(|x| leaf(x.clone()));
            let before = start.map(Tensor::autodiff);
            let before = before.with_sums(before.sums().map(|x| x.clone().inner().autodiff().require_grad()));
            let mut after = before.clone();
            let o = advance(&mut after, qkv.clone(), hidden.clone());
            let outputs: Vec<_> = std::iter::once(&o).chain(after.sums()).cloned().collect();
            let parts = outputs.iter().zip(&cotangents).map(|(x, c)| (x.clone() * c.clone().narrow(2, 0, x.dims()[2]).autodiff()).sum());
            let grads = parts.reduce(|a, b| a + b).unwrap().backward();
            let gradients = qkv.iter().chain(before.sums()).map(|x| x.grad(&grads).unwrap());
            let mut all: Vec<_> = outputs.iter().map(|x| x.clone().inner()).chain(gradients).collect();
            all.push(after.tokens.inner());
            all
        };
        let names = "o sum_k sum_q sum_k_outgoing sum_q_incoming log_sum_exp kv dq dk dv dsum_k dsum_q dsum_k_outgoing dsum_q_incoming dlog_sum_exp dkv tokens";
        let named = |tensors: Vec<Tensor<4>>| names.split(' ').zip(tensors).collect::<Vec<_>>();
        let whole = results(&|state, qkv, hidden| state.advance(qkv, hidden.as_ref(), &options));
        let by_runs = results(&|state, qkv, hidden| advance_by_runs(state, qkv, hidden, &options, run, StateGradient::Computed));
        assert_all_close(&format!("T = {t}, runs of {run}"), &named(by_runs), &named(whole), 1e-10);
    });
}

#[test]
fn runs_without_the_gradient_of_the_state_give_the_gradients_of_the_whole() {
    sweep("runs, output alone", 10, |s| {
        let t = s.size(2, 140);
        let inputs = inputs(s, t);
        let [b, h, _, e] = inputs[2].dims();
        let (run, options) = (s.pick(&[7, 64]), any_options(s));
        let cotangent = s.tensor([b, h, t, e], -1.0, 1.0);
        let new = |q: &Tensor<4>| FlowState::new(b, h, q.dims()[3], e, &q.device()).map(|x| x.cast(DType::F64));
        let whole = with_gradients(&inputs, &cotangent, |q, k, v| new(&q).advance([q, k, v], None, &options));
        let by_runs = with_gradients(&inputs, &cotangent, |q, k, v| {
            advance_by_runs(&mut new(&q), [q, k, v], None, &options, run, StateGradient::Left)
        });
        assert_all_close(&format!("T = {t}, runs of {run}"), &by_runs, &whole, 1e-10);
    });
}

#[test]
fn long_sequences_with_few_heads_go_by_runs() {
    let mut s = Sampler::new(11);
    let [q, k, v] = [3, 3, 2].map(|d| s.tensor([1, 1, 5000, d], -1.0, 1.0).f64(&cpu()));
    assert!(run_length(1) < 5000);
    let options = FlowOptions::default();
    let by_runs = flow_attention_causal(q.clone(), k.clone(), v.clone(), &options).unwrap();
    let whole = FlowState::new(1, 1, 3, 2, &cpu()).map(|x| x.cast(DType::F64)).advance([q, k, v], None, &options);
    assert_close("5000 tokens", &by_runs, &whole, 1e-10);
}

#[test]
fn steps_keep_a_state_of_constant_size_in_f32() {
    let mut s = Sampler::new(5);
    let mut state = FlowState::new(2, 3, 4, 5, &cpu());
    let bytes = state.bytes();
    assert_eq!(bytes, 4 * (2 * 3 * (4 * 4 + 1 + 4 * 5) + 2));
    for dtype in [DType::F32, DType::BF16, DType::F64] {
        let [q, k, v] = [4, 4, 5].map(|d| s.tensor([2, 3, d], -1.0, 1.0).f32(&cpu()).cast(dtype));
        let o = state.step(q, k, v, &FlowOptions::default()).unwrap();
        assert_eq!((o.dtype(), state.kv.dtype(), state.bytes()), (dtype, DType::F32, bytes));
    }
    assert_eq!(state.tokens.into_data(), TensorData::from([[[[3.0_f32]]], [[[3.0]]]]));
}

#[test]
fn hidden_tokens_are_as_if_absent_wherever_they_stand() {
    sweep("masks", 40, |s| {
        let t = s.pick(&[1, 2, 9, 40, 70]);
        let inputs = inputs(s, t);
        let [b, h, _, e] = inputs[2].dims();
        let (mask, kept) = any_mask(s, b, t);
        let plain = any_options(s);
        let options = FlowOptions { key_mask: Some(mask.clone()), ..plain.clone() };
        let hidden = |d: usize| mask.clone().reshape([b, 1, t, 1]).expand([b, h, t, d]);
        let poisoned = inputs.clone().map(|x| {
            let d = x.dims()[3];
            x.mask_fill(hidden(d), f64::NAN)
        });
        let cotangent = s.tensor([b, h, t, e], -1.0, 1.0);
        let results = with_gradients(&poisoned, &cotangent, |q, k, v| flow_attention_causal(q, k, v, &options).unwrap());
        for (name, x) in &results {
            let d = x.dims()[3];
            assert!(x.to_data().iter::<f64>().all(f64::is_finite), "{name} has NaN");
            let there = x.clone().mask_fill(hidden(d).bool_not(), 0.0);
            assert!(there.abs().max().into_scalar::<f64>() == 0.0, "{name} of a hidden token is not zero");
        }
        for (i, kept) in kept.iter().enumerate().filter(|(_, kept)| !kept.is_empty()) {
            let [q, k, v] = [0, 1, 2].map(|x| pick_tokens(&inputs[x], i, kept));
            let want = flow_attention_causal(q, k, v, &plain).unwrap();
            assert_close("outputs of tokens", &pick_tokens(&results[0].1, i, kept), &want, 1e-12);
        }
    });
}

#[test]
fn prompts_of_different_lengths_prefilled_together_go_on_as_if_alone() {
    let mut s = Sampler::new(6);
    let [q, k, v] = [4, 4, 3].map(|d| s.tensor([2, 2, 7, d], -1.0, 1.0).f32(&cpu()));
    let options = FlowOptions::default();
    let hidden = [[false, false, false, false, false, false], [false, false, true, true, true, true]];
    let masked = FlowOptions { key_mask: Some(Tensor::<2, Bool>::from_data(hidden, &cpu())), ..options.clone() };
    let cut = |start, len| [&q, &k, &v].map(|x| x.clone().narrow(2, start, len));
    let mut state = FlowState::new(2, 2, 4, 3, &cpu());
    let [a, b, c] = cut(0, 6);
    state.prefill(a, b, c, &masked).unwrap();
    let [a, b, c] = cut(6, 1);
    let together = state.prefill(a, b, c, &options).unwrap();

    let kept = [0, 1, 6];
    let [a, b, c] = [&q, &k, &v].map(|x| pick_tokens(x, 1, &kept));
    let alone = flow_attention_causal(a, b, c, &options).unwrap();
    assert_close("the shorter prompt", &together.narrow(0, 1, 1), &alone.narrow(2, 2, 1), 1e-6);
}

#[test]
fn selected_states_go_on_in_the_order_asked_for() {
    let mut s = Sampler::new(7);
    let token = |s: &mut Sampler| [4, 4, 3].map(|d| s.tensor([2, 2, d], -1.0, 1.0).f32(&cpu()));
    let options = FlowOptions::default();
    let mut state = FlowState::new(2, 2, 4, 3, &cpu());
    let [q, k, v] = token(&mut s);
    state.step(q, k, v, &options).unwrap();
    let mut swapped = state.select(&Tensor::<1, Int>::from_data([1, 0, 1], &cpu()));
    let next = token(&mut s);
    let [q, k, v] = next.clone();
    let want = state.step(q, k, v, &options).unwrap();
    let order = Tensor::<1, Int>::from_data([1, 0, 1], &cpu());
    let [q, k, v] = next.map(|x| x.select(0, order.clone()));
    let got = swapped.step(q, k, v, &options).unwrap();
    assert_eq!(got.into_data(), want.select(0, order).into_data());
}

#[test]
fn without_bounds_early_sinks_with_tiny_capacities_neither_overflow_nor_vanish() {
    let mut s = Sampler::new(8);
    // The conserved outgoing flow of the first sources is tens of thousands, that of the later ones about 1.
    let wide = [-14.0, 2.0, 0.0].map(|shift| s.tensor([1, 1, 80, 4], -2.0, 2.0).f64(&cpu()) + shift);
    let [q, k, v] = wide;
    let early = Tensor::<1, Int>::arange(0..80, &cpu()).float().cast(DType::F64).lower_elem(20.0).float().cast(DType::F64);
    let k = k - early.reshape([1, 1, 80, 1]) * 16.0;
    let options = FlowOptions { clamp: None, ..FlowOptions::default() };
    let want = flow_weights_causal(q.clone(), k.clone(), &options).unwrap().matmul(v.clone());
    let inputs = [q, k, v].map(|x| x.cast(DType::F32));
    let cotangent = s.tensor([1, 1, 80, 4], -1.0, 1.0);
    let got = with_gradients(&inputs, &cotangent, |q, k, v| flow_attention_causal(q, k, v, &options).unwrap());
    for (name, x) in &got {
        assert!(x.to_data().iter::<f64>().all(f64::is_finite), "{name} has NaN");
    }
    assert_close("outputs", &got[0].1, &want.cast(DType::F32), 1e-3);
}

#[test]
fn capacities_that_vanish_give_finite_outputs_and_gradients() {
    let mut s = Sampler::new(9);
    let inputs = [[1, 1, 70, 4]; 3].map(|shape| s.tensor(shape, -200.0, -120.0).f32(&cpu()));
    let cotangent = s.tensor([1, 1, 70, 4], -1.0, 1.0);
    for clamp in [None, Some([-1.0, 1.0])] {
        let options = FlowOptions { clamp, ..FlowOptions::default() };
        for (name, x) in with_gradients(&inputs, &cotangent, |q, k, v| flow_attention_causal(q, k, v, &options).unwrap()) {
            assert!(x.to_data().iter::<f64>().all(f64::is_finite), "{name} has NaN");
        }
    }
}

#[test]
fn the_first_output_is_the_first_value_times_its_allocation() {
    let mut s = Sampler::new(10);
    let [q, k, v] = inputs(&mut s, 1);
    let o = flow_attention_causal(q.clone(), k.clone(), v.clone(), &FlowOptions::default()).unwrap();
    let r = flow_weights_causal(q, k, &FlowOptions::default()).unwrap(); // [B, H, 1, 1]
    assert!(r.clone().min().into_scalar::<f64>() > 0.5, "sigmoid of a positive flow");
    assert_close("value times allocation", &o, &(v * r), 1e-12);
}

#[test]
fn empty_inputs_give_empty_outputs_and_leave_the_state() {
    let zeros = |shape: [usize; 4]| Tensor::<4>::zeros(shape, &cpu());
    for (b, t) in [(0, 3), (2, 0), (0, 0)] {
        let o = flow_attention_causal(zeros([b, 1, t, 3]), zeros([b, 1, t, 3]), zeros([b, 1, t, 5]), &FlowOptions::default());
        assert_eq!(o.unwrap().dims(), [b, 1, t, 5]);
    }
    let mut state = FlowState::new(2, 1, 3, 5, &cpu());
    state.prefill(zeros([2, 1, 0, 3]), zeros([2, 1, 0, 3]), zeros([2, 1, 0, 5]), &FlowOptions::default()).unwrap();
    assert!(state.tokens.max().into_scalar::<f32>() == 0.0);
}

#[test]
fn bad_arguments_are_named() {
    let zeros = |shape: [usize; 4]| Tensor::<4>::zeros(shape, &cpu());
    let ok = [1, 2, 4, 3];
    let cross = flow_attention_causal(zeros(ok), zeros([1, 2, 5, 3]), zeros([1, 2, 5, 3]), &FlowOptions::default()).unwrap_err();
    assert_eq!(
        cross.to_string(),
        "flow_attention_causal: `q` and `k` must agree in tokens, as each is query and key in one, got [1, 2, 4, 3] and [1, 2, 5, 3]"
    );
    let query_mask = Some(Tensor::<2>::zeros([1, 4], &cpu()).equal_elem(1.0));
    let masked = flow_attention_causal(zeros(ok), zeros(ok), zeros(ok), &FlowOptions { query_mask, ..FlowOptions::default() }).unwrap_err();
    assert_eq!(
        masked.to_string(),
        "flow_attention_causal: `query_mask` must be None, as `key_mask` hides a token as query and as key, got a mask of shape [1, 4]"
    );
    let foreign = FlowState::new(2, 2, 3, 3, &cpu()).prefill(zeros(ok), zeros(ok), zeros(ok), &FlowOptions::default()).unwrap_err();
    assert_eq!(
        foreign.to_string(),
        "flow_attention_causal: `state` and `v` must agree in batch, heads, key width and value width, got [2, 2, 3, 3] and [1, 2, 3, 3]"
    );
    let no_token = flow_weights_causal(zeros([1, 1, 0, 3]), zeros([1, 1, 0, 3]), &FlowOptions::default()).unwrap_err();
    assert_eq!(no_token.to_string(), "flow_weights: `k` must be of at least one token, got 0");
}
