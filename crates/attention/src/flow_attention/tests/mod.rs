mod bidirectional;
mod causal;
mod layer;
mod sweep;

use burn::tensor::{Tensor, TensorData};
use regard_testkit::{Case, Draw, Sampler, cpu, run};

use super::{
    FlowAttentionConfig, FlowFeatureMap, FlowOptions, FlowState, FlowWidths, flow_attention, flow_attention_causal, flow_weights,
    flow_weights_causal,
};
use crate::{SequenceMixer, blocks::matmul};

#[test]
fn goldens_of_flow_attention_pass_through_definition_and_operation() {
    run(
        "flowformer",
        &["op.", "layer."],
        &[
            ("op.flow_attention", golden_op),
            ("op.flow_attention_streaming", golden_streaming),
            ("layer.flow_attention", golden_layer),
            ("layer.flow_attention_vision", golden_vision),
        ],
    );
}

fn golden_op(case: &Case) {
    let options = golden_options(case);
    let inputs = || ["in.q", "in.k", "in.v"].map(|name| case.float::<4>(name));
    let [q, k, v] = inputs();
    let weights = if case.flag("causal") { flow_weights_causal(q, k, &options) } else { flow_weights(q, k, &options) };
    case.output("o", matmul(weights.unwrap(), v));
    case.again();
    let [q, k, v] = inputs();
    let o = if case.flag("causal") { flow_attention_causal(q, k, v, &options) } else { flow_attention(q, k, v, &options) };
    case.output("o", o.unwrap());
    if case.flag("causal") {
        case.again();
        let [q, k, v] = inputs();
        let ([b, h, _, d], e) = (q.dims(), v.dims()[3]);
        let mut state = FlowState::new(b, h, d, e, case.device()).map(|x| x.cast(q.dtype()));
        case.output("o", state.advance([q, k, v], None, &options));
    }
}

fn golden_streaming(case: &Case) {
    let options = golden_options(case);
    let n = case.size("len_q");
    for part in [n, 1, 4] {
        let [q, k, v] = ["in.q", "in.k", "in.v"].map(|name| case.float::<4>(name));
        let [b, h, _, d] = q.dims();
        let mut state = FlowState::new(b, h, d, v.dims()[3], case.device());
        let outputs: Vec<_> = (0..n)
            .step_by(part)
            .map(|start| {
                let [q, k, v] = [&q, &k, &v].map(|x| x.clone().narrow(2, start, part.min(n - start)));
                state.prefill(q, k, v, &options).unwrap()
            })
            .collect();
        case.output("o", Tensor::cat(outputs, 2));
        case.output("state_sum_k", state.sum_k);
        case.output("state_sum_q", state.sum_q);
        case.output("state_sum_k_outgoing", state.sum_k_outgoing);
        case.output("state_sum_q_incoming", state.sum_q_incoming);
        case.output("state_sum_exp", state.log_sum_exp.exp());
        case.output("state_kv", state.kv);
        case.again();
    }
}

fn golden_vision(case: &Case) {
    assert!(!case.flag("causal"));
    let FlowOptions { feature_map, eps, extra_eps, clamp, .. } = golden_options(case);
    let config =
        FlowAttentionConfig { bias: case.flag("bias"), feature_map, eps, extra_eps, clamp, ..FlowAttentionConfig::new(case.size("heads")) };
    let layer = case.load(config.init_fused(case.size("dim"), case.device()).unwrap(), &[("out_proj", "proj")]);
    case.output("y", layer.forward(case.float("in.x")).unwrap());
}

fn golden_layer(case: &Case) {
    let FlowOptions { feature_map, eps, extra_eps, clamp, .. } = golden_options(case);
    assert!(case.number("dropout") == 0.0, "dropout belongs to the block around the layer");
    let config =
        FlowAttentionConfig { bias: case.flag("bias"), feature_map, eps, extra_eps, clamp, ..FlowAttentionConfig::new(case.size("heads")) };
    let widths = FlowWidths { input: case.size("d_input"), model: case.size("d_model"), output: case.size("d_output") };
    let layer = config.init_widths(widths, case.device()).unwrap();
    let layer = case.load(layer, &[("out_proj", "out_projection")]);
    let queries = case.float::<3>("in.queries");
    let y = match (case.flag("causal"), case.flag("self_attention")) {
        (true, true) => layer.forward(queries, None),
        (false, true) => layer.attend(queries.clone(), queries.clone(), queries, None, None).unwrap(),
        (false, false) => layer.attend(queries, case.float("in.keys"), case.float("in.values"), None, None).unwrap(),
        (true, false) => panic!("the causal form has no cross attention"),
    };
    case.output("y", y);
}

fn golden_options(case: &Case) -> FlowOptions {
    let clamp = match &case.config()["clamp"] {
        serde_json::Value::Null => None,
        bounds => Some(serde_json::from_value(bounds.clone()).expect("config.clamp must be two numbers or null")),
    };
    let feature_map = serde_json::from_value(case.config()["feature_map"].clone()).expect("config.feature_map must be a known map");
    FlowOptions { feature_map, eps: case.number("eps"), extra_eps: case.number("extra_eps"), clamp, ..FlowOptions::default() }
}

/// One of the variants of the official code and of the ablations.
fn any_options(s: &mut Sampler) -> FlowOptions {
    FlowOptions {
        feature_map: s.pick(&[FlowFeatureMap::Sigmoid, FlowFeatureMap::Relu, FlowFeatureMap::Elu]),
        extra_eps: s.pick(&[0.0, 1e-6]),
        clamp: s.pick(&[None, Some([-1.0, 1.0]), Some([-10.0, 10.0])]),
        competition: s.flip() || s.flip(),
        allocation: s.flip() || s.flip(),
        ..FlowOptions::default()
    }
}

/// A mask of `[B, T]` and, for each sequence, the positions that are not hidden.
fn any_mask(s: &mut Sampler, b: usize, t: usize) -> (Tensor<2, burn::tensor::Bool>, Vec<Vec<i32>>) {
    let hidden: Vec<bool> = (0..b * t).map(|_| s.flip()).collect();
    let kept = hidden.chunks(t).map(|row| (0..t as i32).filter(|&i| !row[i as usize]).collect()).collect();
    (Tensor::from_data(TensorData::new(hidden, [b, t]), &cpu()), kept)
}

/// Sequence `b` of the batch, its tokens `kept` alone.
fn pick_tokens(x: &Tensor<4>, b: usize, kept: &[i32]) -> Tensor<4> {
    let [_, h, _, d] = x.dims();
    if kept.is_empty() {
        return Tensor::zeros([1, h, 0, d], (&x.device(), x.dtype()));
    }
    x.clone().narrow(0, b, 1).select(2, Tensor::from_data(kept, &x.device()))
}

/// Output and gradients of `(o · cotangent).sum()`, all in f64 precision if the inputs are.
fn with_gradients(
    inputs: &[Tensor<4>; 3],
    cotangent: &Draw<4>,
    f: impl Fn(Tensor<4>, Tensor<4>, Tensor<4>) -> Tensor<4>,
) -> Vec<(&'static str, Tensor<4>)> {
    let leaves = inputs.clone().map(|x| Tensor::from_data(x.to_data(), (&cpu().autodiff(), x.dtype())).require_grad());
    let [q, k, v] = leaves.clone();
    let o = f(q, k, v);
    let cotangent = cotangent.f64(&o.device()).cast(o.dtype());
    let grads = (o.clone() * cotangent).sum().backward();
    let mut all = vec![("o", Tensor::from_data(o.into_data(), (&cpu(), inputs[0].dtype())))];
    for (name, leaf, input) in [("dq", &leaves[0], &inputs[0]), ("dk", &leaves[1], &inputs[1]), ("dv", &leaves[2], &inputs[2])] {
        all.push((name, leaf.grad(&grads).unwrap_or_else(|| input.zeros_like())));
    }
    all
}

/// Fails unless output and gradients of two ways of computing them agree to within `tolerance` of the largest number among them: a
/// gradient may cancel to nearly nothing (that of q does with one channel and one key), and then only rounding of its terms is left.
#[track_caller]
fn assert_all_close(what: &str, got: &[(&str, Tensor<4>)], want: &[(&str, Tensor<4>)], tolerance: f64) {
    let largest =
        |x: &Tensor<4>| x.to_data().iter::<f64>().fold(0.0, |m: f64, x| if x.is_finite() { m.max(x.abs()) } else { f64::INFINITY });
    let scale = want.iter().map(|(_, x)| largest(x)).fold(1e-12, f64::max);
    for ((name, got), (_, want)) in got.iter().zip(want) {
        let error = largest(&(got.clone() - want.clone().cast(got.dtype()))) / scale;
        assert!(error <= tolerance, "{what}: {name} is off by {error:.3e} of the scale, more than {tolerance:.1e}");
    }
}
