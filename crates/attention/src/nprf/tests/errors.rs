use burn::tensor::{Bool, Tensor};
use regard_testkit::cpu;

use crate::{
    LayerPlace, SequenceMixer,
    nprf::{FavorOptions, NprfConfig, NprfOptions, favor_plus, nprf, nprf_grid},
};

fn zeros<const D: usize>(shape: [usize; D]) -> Tensor<D> {
    Tensor::zeros(shape, &cpu())
}

fn mask(shape: [usize; 2]) -> Tensor<2, Bool> {
    zeros(shape).equal_elem(1)
}

const OK: [usize; 4] = [1, 2, 4, 3];

fn line(shapes: [[usize; 4]; 3], projection: [usize; 3], bias: Option<Tensor<2>>, options: &NprfOptions) -> String {
    let [q, k, v] = shapes.map(zeros);
    nprf(q, k, v, zeros(projection), bias, options).unwrap_err().to_string()
}

#[test]
fn bad_arguments_of_the_operation_are_named() {
    let plain = NprfOptions::default;
    let table = || Some(zeros([2, 7]));
    let w = [2, 5, 3];
    for (got, want) in [
        (
            line([[1, 2, 4, 5], OK, OK], w, table(), &plain()),
            "nprf: `q` and `k` must agree in batch, heads and key width, got [1, 2, 4, 5] and [1, 2, 4, 3]",
        ),
        (
            line([OK, OK, [1, 2, 5, 3]], w, table(), &plain()),
            "nprf: `k` and `v` must agree in batch, heads and tokens, got [1, 2, 4, 3] and [1, 2, 5, 3]",
        ),
        (line([[1, 2, 4, 0]; 3], [2, 5, 0], table(), &plain()), "nprf: `q` must be of at least one channel per head, got 0"),
        (line([OK, OK, [1, 2, 4, 0]], w, table(), &plain()), "nprf: `v` must be of at least one channel per head, got 0"),
        (
            line([OK; 3], [2, 0, 3], table(), &plain()),
            "nprf: `projection` must be of shape [H or 1, M, K] = [2 or 1, at least 1, 3], got [2, 0, 3]",
        ),
        (
            line([OK; 3], [3, 5, 3], table(), &plain()),
            "nprf: `projection` must be of shape [H or 1, M, K] = [2 or 1, at least 1, 3], got [3, 5, 3]",
        ),
        (
            line([OK; 3], w, Some(zeros([2, 5])), &plain()),
            "nprf: `bias` must be of shape [H, 2N − 1] = [2, 7] or longer by an even number, got [2, 5]",
        ),
        (
            line([OK; 3], w, Some(zeros([2, 8])), &plain()),
            "nprf: `bias` must be of shape [H, 2N − 1] = [2, 7] or longer by an even number, got [2, 8]",
        ),
        (line([OK; 3], w, Some(zeros([2, 7]) + f64::NAN), &plain()), "nprf: `bias` must be of numbers below infinity, got NaN"),
        (line([OK; 3], w, Some(zeros([2, 7]) + f64::INFINITY), &plain()), "nprf: `bias` must be of numbers below infinity, got inf"),
        (line([OK; 3], w, table(), &NprfOptions { clamp: Some(0.0), ..plain() }), "nprf: `clamp` must be a positive number, got 0"),
        (
            line([OK; 3], w, table(), &NprfOptions { key_mask: Some(mask([1, 3])), ..plain() }),
            "nprf: `key_mask` must be of shape [B, S] = [1, 4], got [1, 3]",
        ),
        (
            line([OK, [1, 2, 6, 3], [1, 2, 6, 3]], w, table(), &plain()),
            "nprf: `bias` must be absent unless queries and keys are equal in number, got 4 queries, 6 keys",
        ),
        (
            line([OK, [1, 2, 6, 3], [1, 2, 6, 3]], w, None, &NprfOptions { causal: true, ..plain() }),
            "nprf: `causal` must be false unless queries and keys are equal in number, got 4 queries, 6 keys",
        ),
    ] {
        assert_eq!(got, want);
    }
}

#[test]
fn bad_arguments_of_the_grid_are_named() {
    let error = |bias: [usize; 3], class: Option<[usize; 2]>, n: usize, options: NprfOptions| {
        let x = zeros([1, 2, n, 3]);
        nprf_grid(x.clone(), x.clone(), x, zeros([1, 5, 3]), zeros(bias), class.map(zeros), &options).unwrap_err().to_string()
    };
    let plain = NprfOptions::default;
    for (got, want) in [
        (
            error([2, 3, 4], None, 4, plain()),
            "nprf_grid: `bias` must be of shape [H, 2Y − 1, 2X − 1] with H = 2 and Y X = 4, got [2, 3, 4]",
        ),
        (
            error([2, 3, 5], Some([2, 3]), 6, plain()),
            "nprf_grid: `bias` must be of shape [H, 2Y − 1, 2X − 1] with H = 2 and Y X = 5, got [2, 3, 5]",
        ),
        (error([2, 3, 5], Some([2, 2]), 7, plain()), "nprf_grid: `class` must be of shape [H, 3] = [2, 3], got [2, 2]"),
        (error([2, 3, 5], None, 6, NprfOptions { causal: true, ..plain() }), "nprf_grid: `causal` must be false, got true"),
        (
            error([2, 3, 5], None, 6, NprfOptions { key_mask: Some(mask([1, 7])), ..plain() }),
            "nprf_grid: `key_mask` must be of shape [B, S] = [1, 6], got [1, 7]",
        ),
    ] {
        assert_eq!(got, want);
    }
    let x = zeros([1, 2, 6, 3]);
    let error = nprf_grid(x.clone(), zeros([1, 2, 5, 3]), zeros([1, 2, 5, 3]), zeros([1, 5, 3]), zeros([2, 3, 5]), None, &plain());
    assert_eq!(error.unwrap_err().to_string(), "nprf_grid: `q` and `k` must agree in tokens, got [1, 2, 6, 3] and [1, 2, 5, 3]");
}

#[test]
fn bad_arguments_of_favor_plus_are_named() {
    let error =
        |k: [usize; 4], options: FavorOptions| favor_plus(zeros(OK), zeros(k), zeros(k), zeros([5, 3]), &options).unwrap_err().to_string();
    let plain = FavorOptions::default;
    assert_eq!(error(OK, FavorOptions { eps: -1.0, ..plain() }), "favor_plus: `eps` must be 0 or a positive number, got -1");
    assert_eq!(
        error(OK, FavorOptions { causal_eps: f64::NAN, ..plain() }),
        "favor_plus: `causal_eps` must be 0 or a positive number, got NaN"
    );
    assert_eq!(
        error([1, 2, 6, 3], FavorOptions { causal: true, ..plain() }),
        "favor_plus: `causal` must be false unless queries and keys are equal in number, got 4 queries, 6 keys"
    );
}

#[test]
fn a_config_that_does_not_fit_is_an_error() {
    let error = |config: NprfConfig, d_model| config.init(d_model, LayerPlace::ONLY, &cpu()).unwrap_err().to_string();
    let new = || NprfConfig::new(4);
    assert_eq!(error(new(), 30), "nprf: `heads` must be a divisor of d_model = 30, got 4");
    assert_eq!(error(NprfConfig::new(0), 30), "nprf: `heads` must be a divisor of d_model = 30, got 0");
    assert_eq!(error(new(), 0), "nprf: `d_model` must be at least 1, got 0");
    assert_eq!(error(NprfConfig { features: Some(0), ..new() }, 8), "nprf: `features` must be at least 1, got 0");
    let bound = NprfConfig { clamp: Some(-2.0), ..new() };
    assert_eq!(error(bound, 8), "nprf: `clamp` must be a positive number, or 0 for no bound, got -2");
    assert_eq!(error(NprfConfig { eps: f64::NAN, ..new() }, 8), "nprf: `eps` must be 0 or a positive number, got NaN");
}

#[test]
fn a_mask_of_another_shape_is_an_error_of_the_layer() {
    let layer = NprfConfig::new(2).init(8, LayerPlace::ONLY, &cpu()).unwrap();
    let error = layer.attend(zeros([2, 5, 8]), Some(mask([2, 4]))).unwrap_err();
    assert_eq!(error.to_string(), "nprf: `key_mask` must be of shape [B, S] = [2, 5], got [2, 4]");
}

#[test]
fn biases_that_are_no_numbers_are_an_error_where_one_can_be_told_and_no_number_elsewhere() {
    let mut layer = NprfConfig::new(2).init(8, LayerPlace::ONLY, &cpu()).unwrap();
    layer.rpe = layer.rpe.map(|table| table.map(|table| table + f64::NAN));
    let x = zeros([2, 5, 8]) + 1.0;
    assert_eq!(layer.attend(x.clone(), None).unwrap_err().to_string(), "nprf: `rpe` must be of numbers below infinity, got NaN");
    let all_nan = |x: Tensor<3>| x.is_nan().all().into_scalar::<bool>();
    assert!(all_nan(layer.forward(x.clone(), None)));
    let mut state = layer.state(2);
    assert!(all_nan(layer.prefill(x.clone(), &mut state)));
    assert!(all_nan(layer.step(x.narrow(1, 0, 1).squeeze_dim(1), &mut state).unsqueeze_dim(1)));
}
