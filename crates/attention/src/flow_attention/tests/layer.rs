use burn::{
    module::Module,
    tensor::{Bool, Tensor},
};
use regard_testkit::{Sampler, assert_close, cpu, three_way};

use crate::{
    LayerPlace, MixerConfig, SequenceMixer,
    flow_attention::{FlowAttention, FlowAttentionConfig, FlowFeatureMap, FlowWidths},
};

fn layer(config: &FlowAttentionConfig, d_model: usize) -> FlowAttention {
    config.init(d_model, LayerPlace::ONLY, &cpu()).unwrap()
}

#[test]
fn forward_prefill_and_steps_agree() {
    let mut s = Sampler::new(1);
    for clamp in [None, Some([-1.0, 1.0])] {
        let layer = layer(&FlowAttentionConfig { clamp, ..FlowAttentionConfig::new(4) }, 24);
        for t in [1, 2, 5, 70] {
            let x = s.tensor([2, t, 24], -2.0, 2.0).f32(&cpu());
            three_way("flow", &x, 1e-5, |x| layer.forward(x, None), || layer.state(2), |x, s| layer.prefill(x, s), |x, s| layer.step(x, s));
        }
    }
}

#[test]
fn padding_on_either_side_does_not_change_the_outputs_of_tokens() {
    let mut s = Sampler::new(2);
    let layer = layer(&FlowAttentionConfig::new(2), 8);
    let x = s.tensor([1, 9, 8], -1.0, 1.0).f32(&cpu());
    for range in [0..6, 3..9] {
        let padding: Vec<bool> = (0..9).map(|i| !range.contains(&i)).collect();
        let padding = Tensor::<2, Bool>::from_data([<[bool; 9]>::try_from(padding).unwrap()], &cpu());
        let cut = |x: Tensor<3>| x.narrow(1, range.start, range.len());
        let got = cut(layer.forward(x.clone(), Some(padding)));
        assert_close(&format!("{range:?}"), &got, &layer.forward(cut(x.clone()), None), 1e-6);
    }
}

#[test]
fn a_layer_attends_from_one_sequence_to_another() {
    let mut s = Sampler::new(3);
    let widths = FlowWidths { input: 6, model: 8, output: 5 };
    let layer = FlowAttentionConfig::new(2).init_widths(widths, &cpu()).unwrap();
    let (queries, keys) = (s.tensor([2, 3, 6], -1.0, 1.0).f32(&cpu()), s.tensor([2, 4, 6], -1.0, 1.0).f32(&cpu()));
    let y = layer.attend(queries.clone(), keys.clone(), keys.clone(), None, None).unwrap();
    assert_eq!(y.dims(), [2, 3, 5]);
    let key_mask = Tensor::<2, Bool>::from_data([[false, false, true, true], [false, false, false, false]], &cpu());
    let masked = layer.attend(queries.clone(), keys.clone(), keys.clone(), None, Some(key_mask)).unwrap();
    assert_close("the other sequence", &masked.clone().narrow(0, 1, 1), &y.narrow(0, 1, 1), 1e-6);
    let first = keys.narrow(0, 0, 1).narrow(1, 0, 2);
    let alone = layer.attend(queries.narrow(0, 0, 1), first.clone(), first, None, None).unwrap();
    assert_close("the shorter sequence", &masked.narrow(0, 0, 1), &alone, 1e-6);
}

#[test]
fn the_fused_layer_needs_a_token_and_heads_that_divide_the_width() {
    let layer = FlowAttentionConfig::vision(2).init_fused(8, &cpu()).unwrap();
    let error = layer.forward(Tensor::zeros([1, 0, 8], &cpu())).unwrap_err().to_string();
    assert_eq!(error, "flow_attention: `k` must be of at least one token, got 0");
    let error = |heads, d_model| FlowAttentionConfig::vision(heads).init_fused(d_model, &cpu()).unwrap_err().to_string();
    assert_eq!(error(3, 8), "flow: `heads` must be a divisor of d_model = 8, got 3");
    assert_eq!(error(3, 0), "flow: `d_model` must be at least 1, got 0");
}

#[test]
fn the_layer_has_four_projections_with_biases() {
    assert_eq!(layer(&FlowAttentionConfig::new(2), 8).num_params(), 4 * (8 * 8 + 8));
    assert_eq!(layer(&FlowAttentionConfig { bias: false, ..FlowAttentionConfig::new(2) }, 8).num_params(), 4 * 8 * 8);
}

#[test]
fn a_config_file_may_leave_out_all_but_the_heads_and_survives_a_round_trip() {
    let read = |text: &str| serde_json::from_str::<MixerConfig>(text);
    assert_eq!(read(r#"{"kind": "flow", "heads": 4}"#).unwrap(), MixerConfig::named("flow", 4).unwrap());
    for clamp in [None, Some([-5.0, 5.0])] {
        let config = FlowAttentionConfig { clamp, feature_map: FlowFeatureMap::Relu, allocation: false, ..FlowAttentionConfig::new(2) };
        let config = MixerConfig::Flow(config);
        assert_eq!(read(&serde_json::to_string(&config).unwrap()).unwrap(), config);
    }
    let MixerConfig::Flow(config) = read(r#"{"kind": "flow", "heads": 4, "clamp": [-5, 5]}"#).unwrap() else { panic!("another kind") };
    assert_eq!(config.clamp, Some([-5.0, 5.0]));
}

#[test]
fn what_a_config_file_gets_wrong_is_named() {
    let error = |text: &str| serde_json::from_str::<MixerConfig>(text).unwrap_err().to_string();
    for clamp in ["true", "[1]", "\"none\"", "5"] {
        let text = error(&format!(r#"{{"kind": "flow", "heads": 4, "clamp": {clamp}}}"#));
        assert!(text.contains("`clamp` must be two bounds, [low, high], or false"), "{text}");
    }
    let text = error(r#"{"kind": "flow", "heads": 4, "clmp": false}"#);
    assert!(text.contains("unknown field `clmp`"), "{text}");
    let text = error(r#"{"kind": "flow", "heads": 4, "feature_map": "elu"}"#);
    assert!(text.contains("unknown variant `elu`, expected `sigmoid` or `relu`"), "{text}");
}

#[test]
fn a_config_that_does_not_fit_is_an_error() {
    let error = |config: FlowAttentionConfig, d_model| config.init(d_model, LayerPlace::ONLY, &cpu()).unwrap_err().to_string();
    assert_eq!(error(FlowAttentionConfig::new(4), 30), "flow: `heads` must be a divisor of d_model = 30, got 4");
    assert_eq!(error(FlowAttentionConfig::new(0), 30), "flow: `heads` must be a divisor of d_model = 30, got 0");
    assert_eq!(error(FlowAttentionConfig::new(4), 0), "flow: `d_model` must be at least 1, got 0");
    assert_eq!(error(FlowAttentionConfig { eps: 0.0, ..FlowAttentionConfig::new(2) }, 8), "flow: `eps` must be a positive number, got 0");
    let config = FlowAttentionConfig { clamp: Some([2.0, 1.0]), ..FlowAttentionConfig::new(2) };
    assert_eq!(error(config, 8), "flow: `clamp` must be a lower and an upper bound, in that order, got [2, 1]");
    for (widths, arg) in [(FlowWidths { input: 0, model: 8, output: 8 }, "input"), (FlowWidths { input: 8, model: 8, output: 0 }, "output")]
    {
        let error = FlowAttentionConfig::new(2).init_widths(widths, &cpu()).unwrap_err().to_string();
        assert_eq!(error, format!("flow: `{arg}` must be at least 1, got 0"));
    }
}

#[test]
fn operations_per_token_do_not_grow_with_the_context() {
    let layer = layer(&FlowAttentionConfig::new(4), 64);
    assert!(layer.flops_per_token(1) < layer.flops_per_token(64));
    assert!(layer.flops_per_token(1024) == layer.flops_per_token(65536));
}
