//! The fused kernels in f32 against the definition in f64, over random shapes and options, outputs and every gradient.
//!
//! Its scratch memory and outputs are full of NaN in this crate's tests: what is read before it is written shows.

use burn::tensor::{DType, Tensor};
use regard_testkit::{Sampler, assert_close, cpu, sweep};

use super::{any_mask, any_options, assert_all_close, with_gradients};
use crate::flow_attention::{FlowOptions, FlowState, flow_attention, flow_attention_causal, flow_weights, flow_weights_causal};

fn check(s: &mut Sampler, longest: usize, widest: usize, tolerance: f64) {
    let (b, h, t) = (s.size(1, 2), s.size(1, 3), s.size(1, longest));
    let (d, e) = (s.size(1, widest), s.size(1, widest));
    let inputs = [d, d, e].map(|width| s.tensor([b, h, t, width], -3.0, 3.0).f64(&cpu()));
    let mut options = any_options(s);
    options.key_mask = s.flip().then(|| any_mask(s, b, t).0);
    let cotangent = s.tensor([b, h, t, e], -1.0, 1.0);
    // Where the sequence is handed from one prefill to the next; every part starts from a state, and gradients go through it.
    let mut cuts = vec![0, s.size(0, t), t];
    if s.flip() {
        cuts = vec![0, t];
    }
    let heads_last = s.flip();
    let want = with_gradients(&inputs, &cotangent, |q, k, v| flow_weights_causal(q, k, &options).unwrap().matmul(v));
    let narrow = inputs.map(|x| x.cast(DType::F32));
    let got = with_gradients(&narrow, &cotangent, |q, k, v| {
        // Tokens before heads in memory, as layers have them.
        let [q, k, v] = [q, k, v].map(|x| if heads_last { x.swap_dims(1, 2).mul_scalar(1.0).swap_dims(1, 2) } else { x });
        if cuts.len() == 2 {
            return flow_attention_causal(q, k, v, &options).unwrap();
        }
        let mut state = FlowState::new(b, h, d, e, &q.device());
        let outputs = cuts.windows(2).filter(|w| w[0] < w[1]).map(|w| {
            let cut = |x: &Tensor<4>| x.clone().narrow(2, w[0], w[1] - w[0]);
            let key_mask = options.key_mask.clone().map(|mask| mask.narrow(1, w[0], w[1] - w[0]));
            state.prefill(cut(&q), cut(&k), cut(&v), &FlowOptions { key_mask, ..options.clone() }).unwrap()
        });
        Tensor::cat(outputs.collect(), 2)
    });
    assert_all_close(&format!("{b} x {h} heads, T = {t}, D = {d}, E = {e}, cut at {cuts:?}"), &got, &want, tolerance);
}

#[test]
fn the_fused_kernel_matches_the_definition_over_random_shapes() {
    sweep("flow, fused, small", 100, |s| check(s, 80, 20, 1e-4));
}

#[test]
fn the_fused_kernel_matches_the_definition_over_several_blocks() {
    sweep("flow, fused, large", 12, |s| check(s, 300, 80, 1e-4));
}

fn check_bidirectional(s: &mut Sampler, longest: usize, widest: usize, tolerance: f64) {
    let (b, h, l, t) = (s.size(1, 2), s.size(1, 3), s.size(1, longest), s.size(1, longest));
    let (d, e) = (s.size(1, widest), s.size(1, widest));
    let inputs = [[b, h, l, d], [b, h, t, d], [b, h, t, e]].map(|shape| s.tensor(shape, -3.0, 3.0).f64(&cpu()));
    let mut options = any_options(s);
    options.key_mask = s.flip().then(|| any_mask(s, b, t).0);
    options.query_mask = s.flip().then(|| any_mask(s, b, l).0);
    let cotangent = s.tensor([b, h, l, e], -1.0, 1.0);
    let heads_last = s.flip();
    let want = with_gradients(&inputs, &cotangent, |q, k, v| flow_weights(q, k, &options).unwrap().matmul(v));
    let narrow = inputs.map(|x| x.cast(DType::F32));
    let got = with_gradients(&narrow, &cotangent, |q, k, v| {
        // Tokens before heads in memory, as layers have them.
        let [q, k, v] = [q, k, v].map(|x| if heads_last { x.swap_dims(1, 2).mul_scalar(1.0).swap_dims(1, 2) } else { x });
        flow_attention(q, k, v, &options).unwrap()
    });
    assert_all_close(&format!("{b} x {h} heads, L = {l}, S = {t}, D = {d}, E = {e}"), &got, &want, tolerance);
}

#[test]
fn the_fused_bidirectional_kernel_matches_the_definition_over_random_shapes() {
    sweep("flow, bidirectional, small", 100, |s| check_bidirectional(s, 80, 20, 1e-4));
}

#[test]
fn the_fused_bidirectional_kernel_matches_the_definition_over_several_blocks() {
    sweep("flow, bidirectional, large", 12, |s| check_bidirectional(s, 300, 80, 1e-4));
}

#[test]
fn what_stands_at_hidden_tokens_is_not_read() {
    let mut s = Sampler::new(33);
    let (b, h, l, t) = (2, 2, 70, 90);
    let inputs = [[b, h, l, 5], [b, h, t, 5], [b, h, t, 7]].map(|shape| s.tensor(shape, -2.0, 2.0).f32(&cpu()));
    let (queries, keys) = (any_mask(&mut s, b, l).0, any_mask(&mut s, b, t).0);
    let options = FlowOptions { query_mask: Some(queries.clone()), key_mask: Some(keys.clone()), ..FlowOptions::default() };
    let cotangent = s.tensor([b, h, l, 7], -1.0, 1.0);
    let run = |x: &[Tensor<4>; 3]| with_gradients(x, &cotangent, |q, k, v| flow_attention(q, k, v, &options).unwrap());
    let [q, k, v] = inputs.clone();
    let poisoned = [(q, &queries), (k, &keys), (v, &keys)].map(|(x, mask)| {
        let shape = x.dims();
        x.mask_fill(mask.clone().reshape([b, 1, shape[2], 1]).expand(shape), f32::NAN)
    });
    assert_all_close("poisoned", &run(&poisoned), &run(&inputs), 0.0);
    let all = FlowOptions { key_mask: Some(keys.clone().bool_or(keys.bool_not())), ..FlowOptions::default() };
    let nothing = with_gradients(&inputs, &cotangent, |q, k, v| flow_attention(q, k, v, &all).unwrap());
    for (name, x) in nothing {
        assert_eq!(x.abs().max().into_scalar::<f32>(), 0.0, "{name} with no key to be seen");
    }
}

#[test]
fn steps_after_a_prefill_give_the_whole() {
    sweep("flow, steps", 20, |s| {
        let (b, h, d, e, t) = (s.size(1, 2), s.size(1, 3), s.size(1, 40), s.size(1, 70), s.size(6, 90));
        let [q, k, v] = [d, d, e].map(|width| s.tensor([b, h, t, width], -2.0, 2.0).f32(&cpu()));
        let options = any_options(s);
        let whole = flow_attention_causal(q.clone(), k.clone(), v.clone(), &options).unwrap();
        let first = s.size(1, t - 1);
        let mut state = FlowState::new(b, h, d, e, &cpu());
        let part = |x: &Tensor<4>, start, len| x.clone().narrow(2, start, len);
        let mut outputs = vec![state.prefill(part(&q, 0, first), part(&k, 0, first), part(&v, 0, first), &options).unwrap()];
        for i in first..t {
            let [q, k, v] = [&q, &k, &v].map(|x| part(x, i, 1).squeeze_dim::<3>(2));
            outputs.push(state.step(q, k, v, &options).unwrap().unsqueeze_dim(2));
        }
        let scale = whole.clone().abs().max().into_scalar::<f32>().max(1e-12);
        assert_close("steps", &(Tensor::cat(outputs, 2) / scale), &(whole / scale), 2e-5);
    });
}

#[test]
fn a_step_leaves_a_state_that_somebody_else_holds_alone() {
    let mut s = Sampler::new(31);
    let [q, k, v] = [20, 20, 70].map(|width| s.tensor([2, 2, width], -1.0, 1.0).f32(&cpu()));
    let mut state = FlowState::new(2, 2, 20, 70, &cpu());
    let options = FlowOptions::default();
    state.step(q.clone(), k.clone(), v.clone(), &options).unwrap();
    let (held, before) = (state.clone(), state.kv.to_data());
    state.step(q, k, v, &options).unwrap();
    assert_eq!(held.kv.into_data(), before);
    assert_ne!(state.kv.into_data(), before);
}

#[test]
fn results_are_the_same_bits_with_any_number_of_threads() {
    let mut s = Sampler::new(32);
    let inputs = [20, 20, 40].map(|width| s.tensor([1, 3, 333, width], -1.0, 1.0).f32(&cpu()));
    let cotangent = s.tensor([1, 3, 333, 40], -1.0, 1.0);
    let run = || with_gradients(&inputs, &cotangent, |q, k, v| flow_attention_causal(q, k, v, &FlowOptions::default()).unwrap());
    let want = run();
    let bidirectional = || with_gradients(&inputs, &cotangent, |q, k, v| flow_attention(q, k, v, &FlowOptions::default()).unwrap());
    let want_bidirectional = bidirectional();
    for threads in [1, 2, 5] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        assert_all_close(&format!("{threads} threads"), &pool.install(run), &want, 0.0);
        assert_all_close(&format!("{threads} threads, bidirectional"), &pool.install(bidirectional), &want_bidirectional, 0.0);
    }
}
