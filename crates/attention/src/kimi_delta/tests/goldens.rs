use burn::tensor::{Bool, DType, Tensor};
use regard_testkit::{Case, run};

use crate::{
    LayerPlace, SequenceMixer,
    blocks::kernel::on_cpu,
    kimi_delta::{DecayGate, KimiDeltaConfig, KimiDeltaOptions, kimi_delta, log_decay, reference},
};

#[test]
fn kimi_linear_goldens_of_operations_and_layer() {
    run("kimi-linear", &["op.", "layer.kda"], &[("op.kda", golden_op), ("op.kda_gate", golden_gate), ("layer.kda", golden_layer)]);
}

fn golden_op(case: &Case) {
    assert!(!case.flag("use_qk_l2norm"));
    let lengths: Option<Vec<usize>> =
        case.config()["seq_lens"].as_array().map(|l| l.iter().map(|n| n.as_u64().expect("a length") as usize).collect());
    let cu_seqlens =
        lengths.as_ref().map(|_| case.int::<1>("in.cu_seqlens").into_data().iter::<i64>().map(|n| n as usize).collect::<Vec<_>>());
    let sequences = lengths.as_ref().map_or(case.size("batch"), Vec::len);
    let scale = case.number("scale");
    for chunk in [None, Some(64), Some(16), Some(4), Some(1)] {
        // The definition is made of Burn's products, which round f32 to the 11 bits of TF32 on a GPU.
        if chunk.is_none() && !on_cpu(case.device(), DType::F32) {
            continue;
        }
        let [q, k, v, g] = ["in.q", "in.k", "in.v", "in.g"].map(|n| case.float::<4>(n));
        let beta = case.float::<3>("in.beta");
        let initial_state = case.flag("initial_state").then(|| case.float::<4>("in.initial_state"));
        let (o, state) = if let Some(chunk) = chunk {
            let options =
                KimiDeltaOptions { scale: Some(scale), chunk, initial_state, cu_seqlens: cu_seqlens.clone(), ..Default::default() };
            kimi_delta(q, k, v, g, beta, options).unwrap()
        } else {
            let [b, t, w, d_v] = v.dims();
            let states = initial_state.unwrap_or_else(|| Tensor::zeros([sequences, w, q.dims()[3], d_v], case.device()));
            let whole: Vec<_> = (0..b).map(|n| (n, 0, t)).collect();
            let rows = cu_seqlens.as_ref().map_or(whole, |bounds| bounds.windows(2).map(|ends| (0, ends[0], ends[1] - ends[0])).collect());
            definition([q, k, v, g], &beta, scale, &states, &rows)
        };
        case.output("o", o);
        case.output("final_state", state);
        case.again();
    }
}

/// The definition for each sequence: which row, from which token on, how many tokens.
fn definition(
    x: [Tensor<4>; 4],
    beta: &Tensor<3>,
    scale: f64,
    states: &Tensor<4>,
    sequences: &[(usize, usize, usize)],
) -> (Tensor<4>, Tensor<4>) {
    let [b, t, w, d_v] = x[2].dims();
    let (mut outs, mut last) = (Vec::new(), Vec::new());
    for (n, &(row, start, len)) in sequences.iter().enumerate() {
        let state = states.clone().narrow(0, n, 1);
        if len == 0 {
            last.push(state);
            continue;
        }
        let [q, k, v, g] = x.each_ref().map(|x| x.clone().narrow(0, row, 1).narrow(1, start, len));
        let beta = beta.clone().narrow(0, row, 1).narrow(1, start, len);
        let (o, state) = reference::recurrent(q, k, v, g, beta, scale, state);
        outs.push(o.reshape([len, w, d_v]));
        last.push(state);
    }
    let o = if outs.is_empty() { x[2].clone() } else { Tensor::cat(outs, 0).reshape([b, t, w, d_v]) };
    (o, Tensor::cat(last, 0))
}

fn golden_gate(case: &Case) {
    let (h, d_k) = (case.size("heads"), case.size("head_dim"));
    assert!((case.number("softplus_threshold") - 20.0).abs() < 1e-12);
    let f = case.float::<4>("in.g");
    let a_log = case.float::<1>("param.A_log");
    let dt_bias = case.float::<1>("param.dt_bias").reshape([h, d_k]);
    case.output("log_decay", log_decay(f.clone(), a_log.clone(), dt_bias.clone(), DecayGate::ExpSoftplus));
    let bounded = DecayGate::Bounded(case.number("lower_bound"));
    case.output("log_decay_lower_bound", log_decay(f, a_log, dt_bias, bounded));
}

fn golden_layer(case: &Case) {
    assert_eq!((case.text("act"), case.text("output_gate"), case.text("gate")), ("silu", "sigmoid", "exp_softplus"));
    assert!((case.number("qk_l2norm_eps") - 1e-6).abs() < 1e-18);
    let config = KimiDeltaConfig {
        head_dim: Some(case.size("head_dim")),
        conv_kernel: case.size("conv_kernel"),
        allow_neg_eigval: case.flag("allow_neg_eigval"),
        norm_epsilon: case.number("rms_norm_eps"),
        ..KimiDeltaConfig::new(case.size("heads"))
    };
    let layer = config.init(case.size("hidden_size"), LayerPlace::ONLY, case.device()).unwrap();
    let layer = case.load(layer, &[("forget_gate.a_log", "forget_gate.A_log"), ("out_proj", "o_proj")]);
    let x = case.float::<3>("in.x");
    let padding = case.flag("attention_mask").then(|| -> Tensor<2, Bool> { case.int::<2>("in.attention_mask").equal_elem(0) });
    case.output("y", layer.forward(x.clone(), padding));
    if case.config()["prefill"].is_null() {
        return;
    }

    // The file keeps one input of the convolution more than is needed: the oldest one is that of the state a token before.
    let [b, t, _] = x.dims();
    let prefill = case.size("prefill");
    let conv = |before: &Tensor<3>, now: &Tensor<3>| Tensor::cat(vec![before.clone().narrow(1, 0, 1), now.clone()], 1).swap_dims(1, 2);
    let mut before = layer.state(b);
    layer.prefill(x.clone().narrow(1, 0, prefill - 1), &mut before);
    let mut state = layer.state(b);
    let mut out = vec![layer.prefill(x.clone().narrow(1, 0, prefill), &mut state)];
    case.output("prefill_conv_state", conv(&before.conv, &state.conv));
    case.output("prefill_recurrent_state", state.memory.clone());
    for i in prefill..t {
        before = state.clone();
        out.push(layer.step(x.clone().narrow(1, i, 1).squeeze_dim(1), &mut state).unsqueeze_dim(1));
    }
    case.output("decode_y", Tensor::cat(out, 1));
    case.output("final_conv_state", conv(&before.conv, &state.conv));
    case.output("final_recurrent_state", state.memory);
}
