use burn::tensor::Tensor;
use regard_testkit::{Case, run};

use super::{DecayGate, KimiDeltaOptions, kimi_delta, log_decay, reference};

#[test]
fn goldens_of_the_operation() {
    run("kimi-linear", &["op."], &[("op.kda", golden_op), ("op.kda_gate", golden_gate)]);
}

fn golden_op(case: &Case) {
    assert!(!case.flag("use_qk_l2norm"));
    let lengths: Option<Vec<usize>> =
        case.config()["seq_lens"].as_array().map(|l| l.iter().map(|n| n.as_u64().expect("a length") as usize).collect());
    let cu_seqlens = lengths.as_ref().map(|_| case.int::<1>("in.cu_seqlens").into_data().iter::<i64>().map(|n| n as usize).collect::<Vec<_>>());
    let sequences = lengths.as_ref().map_or(case.size("batch"), Vec::len);
    let scale = case.number("scale");
    for chunk in [None, Some(64), Some(16), Some(4), Some(1)] {
        let [q, k, v, g] = ["in.q", "in.k", "in.v", "in.g"].map(|n| case.float::<4>(n));
        let beta = case.float::<3>("in.beta");
        let initial_state = case.flag("initial_state").then(|| case.float::<4>("in.initial_state"));
        let (o, state) = match chunk {
            Some(chunk) => {
                let options =
                    KimiDeltaOptions { scale: Some(scale), chunk, initial_state, cu_seqlens: cu_seqlens.clone(), ..Default::default() };
                kimi_delta(q, k, v, g, beta, options).unwrap()
            }
            None => {
                let [_, _, w, d_v] = v.dims();
                let zeros = || Tensor::zeros([sequences, w, q.dims()[3], d_v], case.device());
                let states = initial_state.unwrap_or_else(zeros);
                match &cu_seqlens {
                    None => reference::recurrent(q, k, v, g, beta, scale, states),
                    Some(bounds) => {
                        let parts = bounds.windows(2).enumerate().map(|(n, ends)| {
                            let cut = |x: &Tensor<4>| x.clone().narrow(1, ends[0], ends[1] - ends[0]);
                            let beta = beta.clone().narrow(1, ends[0], ends[1] - ends[0]);
                            reference::recurrent(cut(&q), cut(&k), cut(&v), cut(&g), beta, scale, states.clone().narrow(0, n, 1))
                        });
                        let (o, state): (Vec<_>, Vec<_>) = parts.unzip();
                        (Tensor::cat(o, 1), Tensor::cat(state, 0))
                    }
                }
            }
        };
        case.output("o", o);
        case.output("final_state", state);
        case.again();
    }
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
