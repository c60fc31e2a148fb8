use burn::tensor::{DType, Tensor};
use regard_testkit::cpu;

use crate::{
    SpatialMixer,
    neighborhood_attention::{NeighborhoodAttentionConfig, NeighborhoodOptions, WindowAxis, merge_attentions, neighborhood_attention},
};

fn zeros<const D: usize>(shape: [usize; D]) -> Tensor<D> {
    Tensor::zeros(shape, &cpu())
}

fn refused<const N: usize>(shapes: [[usize; N]; 3], axes: &[WindowAxis], options: NeighborhoodOptions) -> String {
    let [q, k, v] = shapes.map(zeros);
    neighborhood_attention(q, k, v, axes, options).map(drop).unwrap_err().to_string()
}

#[test]
fn the_operation_refuses_shapes_that_disagree() {
    let axes = [WindowAxis::new(3); 2];
    let plain = |q, k, v| refused([q, k, v], &axes, NeighborhoodOptions::default());
    let q = [2, 5, 6, 4, 8];
    assert_eq!(
        plain(q, [2, 5, 6, 4, 7], q),
        "neighborhood_attention: `q` and `k` must agree in batch, grid and key width, got [2, 5, 6, 4, 8] and [2, 5, 6, 4, 7]"
    );
    assert_eq!(
        plain(q, [2, 5, 5, 4, 8], q),
        "neighborhood_attention: `q` and `k` must agree in batch, grid and key width, got [2, 5, 6, 4, 8] and [2, 5, 5, 4, 8]"
    );
    assert_eq!(
        plain(q, q, [2, 5, 6, 2, 8]),
        "neighborhood_attention: `k` and `v` must agree in batch, grid and heads, got [2, 5, 6, 4, 8] and [2, 5, 6, 2, 8]"
    );
    let k = [2, 5, 6, 3, 8];
    assert_eq!(plain(q, k, k), "neighborhood_attention: `k` must be of a number of heads that divides H = 4, got 3");
    let k = [2, 5, 6, 0, 8];
    assert_eq!(plain(q, k, k), "neighborhood_attention: `k` must be of a number of heads that divides H = 4, got 0");
    let none = [2, 5, 6, 4, 0];
    assert_eq!(plain(none, none, q), "neighborhood_attention: `q` must be of a key width of at least 1, got [2, 5, 6, 4, 0]");
    assert_eq!(refused([q; 3], &[], NeighborhoodOptions::default()), "neighborhood_attention: `axes` must be one, two or three, got 0");
    assert_eq!(
        refused([q; 3], &[WindowAxis::new(1); 3], NeighborhoodOptions::default()),
        "neighborhood_attention: `q` must be [B, 3 axes, H, K], got [2, 5, 6, 4, 8]"
    );
    let half = neighborhood_attention(zeros(q), zeros(q), zeros(q).cast(DType::F64), &axes, NeighborhoodOptions::default());
    assert_eq!(half.map(drop).unwrap_err().to_string(), "neighborhood_attention: `v` must be of the float type of `q`, F32, got F64");
}

#[test]
fn the_operation_refuses_windows_that_the_grid_is_too_small_for() {
    let with = |axis: WindowAxis| refused([[1, 5, 6, 2, 4]; 3], &[WindowAxis::new(2), axis], NeighborhoodOptions::default());
    let base = WindowAxis::new(3);
    assert_eq!(
        with(WindowAxis { dilation: 3, ..base }),
        "neighborhood_attention: `window` must be such that window · dilation is at most the length 6 of axis 1, got 3 · 3"
    );
    assert_eq!(
        with(WindowAxis { stride: 4, ..base }),
        "neighborhood_attention: `stride` must be at most the window = 3 along axis 1, got 4"
    );
    assert_eq!(with(WindowAxis::new(0)), "neighborhood_attention: `window` must be at least 1 along axis 1, got 0");
}

#[test]
fn the_operation_refuses_options_that_do_not_fit() {
    let shape = [2, 5, 6, 4, 8];
    let with = |options| refused([shape; 3], &[WindowAxis::new(3), WindowAxis::new(4)], options);
    let bias = |h, n| NeighborhoodOptions { bias: Some(zeros([h, n])), ..Default::default() };
    assert_eq!(with(bias(4, 34)), "neighborhood_attention: `bias` must be of shape [4, 35], got [4, 34]");
    assert_eq!(with(bias(1, 35)), "neighborhood_attention: `bias` must be of shape [4, 35], got [1, 35]");
    let axes = [WindowAxis::new(3), WindowAxis { causal: true, ..WindowAxis::new(4) }];
    assert_eq!(
        refused([shape; 3], &axes, bias(4, 35)),
        "neighborhood_attention: `bias` must be absent where an axis is causal, got one, and axis 1 is causal"
    );
    let extra = |k, v| NeighborhoodOptions { extra: Some([zeros(k), zeros(v)]), ..Default::default() };
    assert_eq!(
        with(extra([2, 3, 4, 7], [2, 3, 4, 8])),
        "neighborhood_attention: `extra keys` must be of shape [2, M, 4, 8], got [2, 3, 4, 7]"
    );
    assert_eq!(
        with(extra([2, 3, 4, 8], [2, 2, 4, 8])),
        "neighborhood_attention: `extra values` must be of shape [2, 3, 4, 8], got [2, 2, 4, 8]"
    );
    let scale = NeighborhoodOptions { scale: Some(f64::NAN), ..Default::default() };
    assert_eq!(with(scale), "neighborhood_attention: `scale` must be finite, got NaN");
}

#[test]
fn the_layer_refuses_configurations_and_maps_that_fit_nowhere() {
    let base = || NeighborhoodAttentionConfig::new(4);
    let message = |config: NeighborhoodAttentionConfig| config.init(32, &cpu()).unwrap_err().to_string();
    assert_eq!(message(NeighborhoodAttentionConfig::new(5)), "neighborhood: `heads` must be a divisor of d_model = 32, got 5");
    assert_eq!(
        message(NeighborhoodAttentionConfig { window: 0, ..base() }),
        "neighborhood: `window` must be at least 1 along axis 0, got 0"
    );
    assert_eq!(
        message(NeighborhoodAttentionConfig { stride: 8, ..base() }),
        "neighborhood: `stride` must be at most the window = 7 along axis 0, got 8"
    );
    let layer = NeighborhoodAttentionConfig { dilation: 2, ..base() }.init(32, &cpu()).unwrap();
    assert_eq!(
        layer.check_map([14, 13]).unwrap_err().to_string(),
        "neighborhood: `window` must be such that window · dilation is at most the length 13 of axis 1, got 7 · 2"
    );
    layer.check_map([14, 15]).unwrap();
}

#[test]
fn attentions_of_different_shapes_are_not_merged() {
    let message = |parts: Vec<(Tensor<3>, Tensor<3>)>| merge_attentions(parts).map(drop).unwrap_err().to_string();
    assert_eq!(message(vec![]), "merge_attentions: `parts` must be at least one, got 0");
    let part = |v: usize, width: usize| (zeros([2, 3, v]), zeros([2, 3, width]));
    assert_eq!(
        message(vec![part(4, 1), part(5, 1)]),
        "merge_attentions: `the first output` and `another` must agree in shape, got [2, 3, 4] and [2, 3, 5]"
    );
    assert_eq!(message(vec![part(4, 4)]), "merge_attentions: `a log-sum-exp` must be of shape [2, 3, 1], got [2, 3, 4]");
}
