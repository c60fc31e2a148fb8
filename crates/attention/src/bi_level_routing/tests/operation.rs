use burn::tensor::{DType, Tensor, TensorData, activation};
use regard_testkit::{Draw, Errors, Sampler, assert_close, cpu, relative_error, sweep};

use crate::{
    SpatialMixer,
    bi_level_routing::{BiLevelRoutingConfig, RoutedPadding, Routes, reference, route, routed_attention},
};

fn solve(inputs: &[Draw<5>; 3], cotangent: &Draw<5>, dtype: DType, f: impl Fn([Tensor<5>; 3]) -> Tensor<5>) -> Vec<TensorData> {
    let device = cpu().autodiff();
    let place = |x: &Draw<5>| if dtype == DType::F64 { x.f64(&device) } else { x.f32(&device) };
    let leaves = inputs.each_ref().map(|x| place(x).require_grad());
    let o = f(leaves.clone());
    let grads = (o.clone() * place(cotangent)).sum().backward();
    std::iter::once(o.into_data()).chain(leaves.map(|x| x.grad(&grads).unwrap().into_data())).collect()
}

fn flat(x: &Draw<5>) -> Tensor<4> {
    let [b, y, columns, h, width] = x.shape();
    x.f32(&cpu()).reshape([b, y, columns, h * width])
}

#[test]
fn the_fused_kernel_matches_the_definition_over_random_maps_and_regions() {
    let errors = Errors::new("routed attention", &["o", "dq", "dk", "dv"], 1e-5);
    sweep("routed attention", 500, |s| {
        let (b, h, k, v) = (s.size(1, 2), s.size(1, 3), s.size(1, 20), s.size(1, 20));
        let longest = s.pick(&[6, 12, 20]);
        let [y, x] = [s.size(1, longest), s.size(1, longest)];
        let side = s.size(1, y.min(x).min(5));
        let real: usize = [y, x].map(|length| length.div_ceil(length.div_ceil(side))).iter().product();
        let topk = s.size(1, real);
        let scale = s.uniform(0.1, 1.0);
        let inputs = [s.tensor([b, y, x, h, k], -2.0, 2.0), s.tensor([b, y, x, h, k], -2.0, 2.0), s.tensor([b, y, x, h, v], -1.0, 1.0)];
        let cotangent = s.tensor([b, y, x, h, v], -1.0, 1.0);
        let routes = route(&flat(&inputs[0]), &flat(&inputs[1]), side, topk, scale).unwrap().routes;
        let want = solve(&inputs, &cotangent, DType::F64, |grids| reference::gathered(grids, &routes, scale));
        let got = || solve(&inputs, &cotangent, DType::F32, |[q, k, v]| routed_attention(q, k, v, &routes, scale).unwrap());
        errors.add(&format!("{:?} {side} regions, {topk}", [b, y, x, h, k, v]), got(), got(), want);
    });
    errors.finish();
}

fn maps(seed: u64, shape: [usize; 5]) -> [Tensor<5>; 3] {
    let mut s = Sampler::new(seed);
    [(); 3].map(|()| s.tensor(shape, -1.0, 1.0).f32(&cpu()))
}

fn one_head(x: &Tensor<5>) -> Tensor<4> {
    let [b, y, columns, h, width] = x.dims();
    x.clone().reshape([b, y, columns, h * width])
}

#[test]
fn all_regions_are_full_attention() {
    let [q, k, v] = maps(1, [2, 8, 10, 2, 6]);
    for side in [1, 2, 3] {
        let routes = route(&one_head(&q), &one_head(&k), side, side * side, 0.4).unwrap().routes;
        let flat = |x: &Tensor<5>| x.clone().reshape([2, 80, 2, 6]).swap_dims(1, 2);
        let want = activation::softmax((flat(&q) * 0.4).matmul(flat(&k).swap_dims(2, 3)), 3).matmul(flat(&v)).swap_dims(1, 2);
        let got = routed_attention(q.clone(), k.clone(), v.clone(), &routes, 0.4).unwrap();
        assert_close("full", &got, &want.reshape([2, 8, 10, 2, 6]), 1e-5);
    }
}

#[test]
fn the_order_of_the_regions_does_not_matter() {
    let [q, k, v] = maps(2, [1, 9, 9, 2, 6]);
    let routes = route(&one_head(&q), &one_head(&k), 3, 4, 0.4).unwrap().routes;
    let index: Vec<usize> = routes.index().chunks(4).flat_map(|row| row.iter().rev().copied()).collect();
    let turned = Routes { index: index.into(), ..routes.clone() };
    let run = |routes: &Routes| routed_attention(q.clone(), k.clone(), v.clone(), routes, 0.4).unwrap();
    assert_close("turned", &run(&turned), &run(&routes), 1e-6);
}

#[test]
fn regions_are_sent_by_mean_affinity_and_the_first_of_equals_comes_first() {
    // Keys of region r are r mod 3, queries 1: regions 2, 5, 8 tie for the best, then 1, 4, 7.
    let key = |row: usize, column: usize| ((row / 2 * 3 + column / 2) % 3) as f32;
    let keys: Vec<f32> = (0..36).map(|i| key(i / 6, i % 6)).collect();
    let k = Tensor::<4>::from_data(TensorData::new(keys, [1, 6, 6, 1]), &cpu());
    let routing = route(&Tensor::ones([1, 6, 6, 1], &cpu()), &k, 3, 4, 1.0).unwrap();
    assert!(routing.routes.index().chunks(4).all(|row| row == [2, 5, 8, 1]));
    let last = (3.0 + (-1.0_f64).exp()).recip();
    let weights: Vec<f32> = routing.weights.into_data().iter::<f32>().collect();
    assert!((f64::from(weights[0]) - last).abs() < 1e-6 && (f64::from(weights[3]) - last * (-1.0_f64).exp()).abs() < 1e-6);
}

#[test]
fn affinities_that_are_no_numbers_stay_within_the_regions() {
    let nan = Tensor::<4>::full([1, 6, 6, 2], f32::NAN, &cpu());
    let routing = route(&nan, &nan, 3, 2, 1.0).unwrap();
    assert!(routing.routes.index().iter().all(|region| *region < 9));
}

#[test]
fn without_padding_regions_at_the_border_are_smaller_and_empty_ones_are_never_seen() {
    let base = BiLevelRoutingConfig { regions: 4, topk: 2, padding: RoutedPadding::Mask, ..BiLevelRoutingConfig::new(2) };
    let layer = base.init(8, &cpu()).unwrap();
    // Five rows in four regions of two: the last one is empty.
    let x = Sampler::new(3).tensor([2, 5, 9, 8], -1.0, 1.0).f32(&cpu());
    let (y, routing) = layer.attend(x.clone()).unwrap();
    assert!(y.into_data().iter::<f32>().all(f32::is_finite));
    assert!(routing.routes.index().iter().all(|region| region / 4 < 3));
    // The same tokens are seen whatever stands where a padded map would be: there is no such place.
    let far = x.clone().slice_assign([0..2, 4..5, 0..9, 0..8], x.clone().slice([0..2, 4..5, 0..9, 0..8]) * 1.5);
    assert!(relative_error(&layer.forward(far), &layer.forward(x)) > 1e-4);
    let error = BiLevelRoutingConfig { topk: 13, ..base }.init(8, &cpu()).unwrap().check_map([5, 9]).unwrap_err().to_string();
    assert_eq!(error, "bi_level_routing: `topk` must be from 1 to the number of regions, 9, got 13");
}

#[test]
fn arguments_that_do_not_fit_are_refused() {
    let zeros = |shape: [usize; 5]| Tensor::<5>::zeros(shape, &cpu());
    let shape = [1, 6, 6, 2, 4];
    let routes = route(&one_head(&zeros(shape)), &one_head(&zeros(shape)), 3, 2, 1.0).unwrap().routes;
    let message = |q, k, v, routes: &Routes| routed_attention(zeros(q), zeros(k), zeros(v), routes, 1.0).map(drop).unwrap_err().to_string();
    assert_eq!(
        message(shape, [1, 6, 6, 2, 5], shape, &routes),
        "routed_attention: `q` and `k` must agree in shape, got [1, 6, 6, 2, 4] and [1, 6, 6, 2, 5]"
    );
    assert_eq!(
        message(shape, shape, [1, 6, 5, 2, 4], &routes),
        "routed_attention: `k` and `v` must agree in batch, map and heads, got [1, 6, 6, 2, 4] and [1, 6, 5, 2, 4]"
    );
    let two = [2, 6, 6, 2, 4];
    assert_eq!(message(two, two, two, &routes), "routed_attention: `routes` must be those of 2 maps, 36 numbers, got 18");
    let wrong = Routes { index: vec![9; 18].into(), ..routes.clone() };
    assert_eq!(message(shape, shape, shape, &wrong), "routed_attention: `routes` must be to regions that a map of 6 × 6 has, got 9");
    let small = [1, 2, 6, 2, 4];
    assert_eq!(
        message(small, small, small, &routes),
        "routed_attention: `regions` must be from 1 to the shorter side of the map, 2, got 3"
    );
    let map = Tensor::<4>::zeros([1, 6, 6, 8], &cpu());
    assert_eq!(route(&map, &map, 3, 10, 1.0).unwrap_err().to_string(), "route: `topk` must be from 1 to the number of regions, 9, got 10");
    let message = |config: BiLevelRoutingConfig| config.init(8, &cpu()).unwrap_err().to_string();
    let base = || BiLevelRoutingConfig::new(2);
    assert_eq!(message(BiLevelRoutingConfig::new(3)), "bi_level_routing: `heads` must be a divisor of d_model = 8, got 3");
    assert_eq!(message(BiLevelRoutingConfig { regions: 0, ..base() }), "bi_level_routing: `regions` must be at least 1, got 0");
    assert_eq!(
        message(BiLevelRoutingConfig { topk: 50, ..base() }),
        "bi_level_routing: `topk` must be from 1 to the number of regions, 49, got 50"
    );
    assert_eq!(message(BiLevelRoutingConfig { local: 4, ..base() }), "bi_level_routing: `local` must be odd, or 0, got 4");
}
