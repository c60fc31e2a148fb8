use burn::tensor::{DType, Tensor};
use regard_testkit::cpu;

use crate::{
    Error, LayerPlace,
    lightning_attention::{GateKind, LightningConfig, LightningOpts, LrpeConfig, lightning_attention},
};

fn zeros(shape: [usize; 4]) -> Tensor<4> {
    Tensor::zeros(shape, &cpu())
}

/// The message for operands of these shapes.
fn refused(q: [usize; 4], k: [usize; 4], v: [usize; 4], slopes: &[f64], options: LightningOpts) -> String {
    lightning_attention(zeros(q), zeros(k), zeros(v), slopes, options).unwrap_err().to_string()
}

#[test]
fn the_operation_names_the_shapes_that_disagree() {
    let none = LightningOpts::default;
    assert_eq!(
        refused([1, 2, 5, 4], [1, 2, 5, 3], [1, 2, 5, 4], &[0.0; 2], none()),
        "lightning_attention: `q` and `k` must agree in every axis, got [1, 2, 5, 4] and [1, 2, 5, 3]"
    );
    assert_eq!(
        refused([1, 2, 5, 4], [1, 2, 5, 4], [1, 2, 6, 4], &[0.0; 2], none()),
        "lightning_attention: `k` and `v` must agree in batch, heads and tokens, got [1, 2, 5, 4] and [1, 2, 6, 4]"
    );
    let state = LightningOpts { initial_state: Some(zeros([1, 2, 4, 4])), ..none() };
    assert_eq!(
        refused([1, 2, 5, 4], [1, 2, 5, 4], [1, 2, 5, 3], &[0.0; 2], state),
        "lightning_attention: `initial_state` must be of shape [1, 2, 4, 3], got [1, 2, 4, 4]"
    );
    let wide = zeros([1, 1, 2, 2]).cast(DType::F64);
    let error = lightning_attention(zeros([1, 1, 2, 2]), wide, zeros([1, 1, 2, 2]), &[0.0], none()).unwrap_err();
    assert_eq!(error.to_string(), "lightning_attention: `k` must be of the float type of `q`, F32, got F64");
}

#[test]
fn the_operation_refuses_impossible_numbers() {
    let shape = [1, 2, 5, 4];
    let with = |slopes: &[f64], options| refused(shape, shape, shape, slopes, options);
    let none = LightningOpts::default;
    assert_eq!(with(&[0.1], none()), "lightning_attention: `slopes` must be H = 2 numbers, got 1");
    assert_eq!(with(&[0.1, -0.5], none()), "lightning_attention: `slopes` must be finite and at least 0, got -0.5");
    assert_eq!(with(&[0.1, f64::NAN], none()), "lightning_attention: `slopes` must be finite and at least 0, got NaN");
    assert_eq!(with(&[0.0; 2], LightningOpts { block: 0, ..none() }), "lightning_attention: `block` must be at least 1, got 0");
    let scale = LightningOpts { scale: f64::INFINITY, ..none() };
    assert_eq!(with(&[0.0; 2], scale), "lightning_attention: `scale` must be finite, got inf");
}

#[test]
fn the_operation_refuses_bounds_that_do_not_cut_the_tokens() {
    let shape = [1, 1, 5, 4];
    for bounds in [vec![], vec![0, 3], vec![1, 5], vec![0, 4, 2, 5], vec![0, 6]] {
        let options = LightningOpts { cu_seqlens: Some(bounds.clone()), ..Default::default() };
        let want = format!("lightning_attention: `cu_seqlens` must be 0 first, ascending, T = 5 last, got {bounds:?}");
        assert_eq!(refused(shape, shape, shape, &[0.0], options), want);
    }
    let options = LightningOpts { cu_seqlens: Some(vec![0, 5]), ..Default::default() };
    assert_eq!(
        refused([2, 1, 5, 4], [2, 1, 5, 4], [2, 1, 5, 4], &[0.0], options),
        "lightning_attention: `q` must be of batch size 1 with `cu_seqlens`, got 2"
    );
}

#[test]
fn the_layer_refuses_configurations_that_fit_nowhere() {
    let message = |config: LightningConfig, place| -> String { config.init(30, place, &cpu()).unwrap_err().to_string() };
    let only = |config| message(config, LayerPlace::ONLY);
    assert_eq!(only(LightningConfig::new(4)), "lightning: `heads` must be a divisor of d_model = 30, got 4");
    assert_eq!(only(LightningConfig::new(0)), "lightning: `heads` must be a divisor of d_model = 30, got 0");
    let base = || LightningConfig::new(3);
    assert_eq!(only(LightningConfig { width: Some(8), ..base() }), "lightning: `heads` must be a divisor of width = 8, got 3");
    assert_eq!(only(LightningConfig { width: Some(0), ..base() }), "lightning: `width` must be at least 1, got 0");
    assert_eq!(only(LightningConfig { block: 0, ..base() }), "lightning: `block` must be at least 1, got 0");
    assert_eq!(only(LightningConfig { norm_epsilon: 0.0, ..base() }), "lightning: `norm_epsilon` must be positive, got 0");
    let gate = GateKind::LowRank { width: 0, sigmoid: false };
    assert_eq!(only(LightningConfig { gate, ..base() }), "lightning: `gate.width` must be at least 1, got 0");
    let place = LayerPlace { index: 2, count: 2 };
    assert_eq!(message(base(), place), "lightning: `place` must be a layer of a stack of 2, got 2");
    let error = base().init(0, LayerPlace::ONLY, &cpu()).unwrap_err();
    assert_eq!(error, Error::argument("lightning", "d_model", "at least 1", 0));
}

#[test]
fn the_position_encoding_refuses_sizes_of_zero() {
    let message = |config: LrpeConfig| config.init(&cpu()).unwrap_err().to_string();
    assert_eq!(message(LrpeConfig::new(0, 4)), "lrpe: `heads` must be at least 1, got 0");
    assert_eq!(message(LrpeConfig::new(4, 0)), "lrpe: `width` must be at least 1, got 0");
    assert_eq!(message(LrpeConfig { base: -1.0, ..LrpeConfig::new(1, 1) }), "lrpe: `base` must be positive and finite, got -1");
}

#[test]
fn unknown_keys_of_a_configuration_are_refused() {
    let parse = |text: &str| serde_json::from_str::<LightningConfig>(text);
    assert_eq!(parse(r#"{ "heads": 4 }"#).unwrap(), LightningConfig::new(4));
    let gate = parse(r#"{ "heads": 4, "gate": { "low_rank": { "width": 16 } } }"#).unwrap().gate;
    assert_eq!(gate, GateKind::LowRank { width: 16, sigmoid: false });
    for text in [
        r#"{ "heads": 4, "head": 4 }"#,
        r#"{ "heads": 4, "gate": { "low_rank": { "width": 16, "rank": 2 } } }"#,
        r#"{ "heads": 4, "decay": "alibi" }"#,
    ] {
        assert!(parse(text).is_err(), "{text}");
    }
}
