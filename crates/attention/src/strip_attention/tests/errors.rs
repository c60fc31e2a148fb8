use burn::tensor::{DType, Tensor};
use regard_testkit::cpu;

use crate::strip_attention::{StripAttentionConfig, StripOptions, strip_attention};

#[test]
fn arguments_that_do_not_fit_are_refused() {
    let zeros = |shape: [usize; 4]| Tensor::<4>::zeros(shape, &cpu());
    let with = |q, k, v, options| strip_attention(zeros(q), zeros(k), zeros(v), options).map(drop).unwrap_err().to_string();
    let plain = |q, k, v| with(q, k, v, StripOptions::default());
    let (q, k, v) = ([1, 2, 9, 1], [1, 2, 4, 1], [1, 2, 4, 8]);
    assert_eq!(
        plain(q, [1, 2, 4, 2], v),
        "strip_attention: `q` and `k` must agree in batch, heads and key width, got [1, 2, 9, 1] and [1, 2, 4, 2]"
    );
    assert_eq!(
        plain(q, k, [1, 2, 5, 8]),
        "strip_attention: `k` and `v` must agree in batch, heads and tokens, got [1, 2, 4, 1] and [1, 2, 5, 8]"
    );
    let none = [1, 2, 0, 1];
    assert_eq!(plain(q, none, [1, 2, 0, 8]), "strip_attention: `k` must be of at least one number and one token, got [1, 2, 0, 1]");
    let options = StripOptions { scale: Some(f64::NAN), ..Default::default() };
    assert_eq!(with(q, k, v, options), "strip_attention: `scale` must be finite, got NaN");
    for error in [0.0, 1.0, -1.0, f64::NAN] {
        let options = StripOptions { interpolate: Some(error), ..Default::default() };
        assert_eq!(with(q, k, v, options), format!("strip_attention: `interpolate` must be between 0 and 1, got {error}"));
    }
    let mixed = strip_attention(zeros(q), zeros(k), zeros(v).cast(DType::F64), StripOptions::default()).map(drop).unwrap_err();
    assert_eq!(mixed.to_string(), "strip_attention: `v` must be of the float type of `q`, F32, got F64");
}

#[test]
fn configurations_that_fit_nowhere_are_refused() {
    let message = |config: StripAttentionConfig| config.init(8, &cpu()).unwrap_err().to_string();
    let base = || StripAttentionConfig::new(2);
    assert_eq!(message(StripAttentionConfig::new(3)), "strip: `heads` must be a divisor of d_model = 8, got 3");
    assert_eq!(message(StripAttentionConfig { strip: 0, ..base() }), "strip: `strip` must be at least 1, got 0");
    assert_eq!(message(StripAttentionConfig { reduction: 0, ..base() }), "strip: `reduction` must be at least 1, got 0");
    assert_eq!(message(StripAttentionConfig { interpolate: Some(2.0), ..base() }), "strip: `interpolate` must be between 0 and 1, got 2");
}
