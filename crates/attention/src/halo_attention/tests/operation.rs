use burn::tensor::{DType, Tensor, TensorData, activation};
use regard_testkit::{Draw, Errors, Sampler, assert_close, cpu, sweep};

use crate::{
    SpatialMixer,
    halo_attention::{HaloAttentionConfig, HaloOptions, HaloWidths, halo_attention, reference},
};

struct Problem {
    grids: [Draw<5>; 3],
    relative: [Draw<2>; 2],
    cotangent: Draw<5>,
    options: HaloOptions,
}

impl Problem {
    fn draw(s: &mut Sampler) -> Self {
        let stride = s.pick(&[1, 1, 2, 3]);
        let block = stride * s.size(1, 9 / stride);
        // More than one key for most queries: with one, gradients of scores are 0, and their rounding is all that is left to compare.
        let (halo, longest) = (s.size(usize::from(block == 1), 4), s.pick(&[5, 12, 25]));
        let (b, h, k, v) = (s.size(1, 2), s.size(1, 3), s.size(1, 20), s.size(1, 20));
        let [y, x] = [s.size(1, longest), s.size(1, longest)];
        let options = HaloOptions {
            block,
            halo,
            stride,
            in_pixels: s.flip(),
            masked: s.flip(),
            scaled_positions: s.flip(),
            scale: s.flip().then(|| s.uniform(0.1, 1.0)),
        };
        let queries = [b, y.div_ceil(stride), x.div_ceil(stride), h];
        let vectors = [2 * options.window() - 1, k];
        let with = |width: usize| [queries[0], queries[1], queries[2], queries[3], width];
        Self {
            grids: [s.tensor(with(k), -2.0, 2.0), s.tensor([b, y, x, h, k], -2.0, 2.0), s.tensor([b, y, x, h, v], -1.0, 1.0)],
            relative: [s.tensor(vectors, -0.5, 0.5), s.tensor(vectors, -0.5, 0.5)],
            cotangent: s.tensor(with(v), -1.0, 1.0),
            options,
        }
    }

    fn solve(&self, dtype: DType, f: impl Fn([Tensor<5>; 3], [Tensor<2>; 2]) -> Tensor<5>) -> Vec<TensorData> {
        let device = cpu().autodiff();
        let double = dtype == DType::F64;
        let grids = self.grids.each_ref().map(|x| if double { x.f64(&device) } else { x.f32(&device) }.require_grad());
        let relative = self.relative.each_ref().map(|x| if double { x.f64(&device) } else { x.f32(&device) }.require_grad());
        let cotangent = if double { self.cotangent.f64(&device) } else { self.cotangent.f32(&device) };
        let o = f(grids.clone(), relative.clone());
        let grads = (o.clone() * cotangent).sum().backward();
        let of_grids = grids.map(|x| x.grad(&grads).unwrap_or_else(|| x.inner().zeros_like()).into_data());
        let of_relative = relative.map(|x| x.grad(&grads).unwrap_or_else(|| x.inner().zeros_like()).into_data());
        std::iter::once(o.into_data()).chain(of_grids).chain(of_relative).collect()
    }

    fn scales(&self) -> [f64; 2] {
        let scale = self.options.scale.unwrap_or_else(|| 1.0 / (self.grids[0].shape()[4] as f64).sqrt());
        [scale, if self.options.scaled_positions { scale } else { 1.0 }]
    }
}

/// The gradients of the vectors sum up those of all scores, which cancel where few keys are seen: their rounding remains.
#[test]
fn the_fused_kernel_matches_the_definition_over_random_maps_and_options() {
    let errors = Errors::new("halo attention", &["o", "dq", "dk", "dv", "d rows", "d columns"], 2e-5);
    sweep("halo attention", 500, |s| {
        let problem = Problem::draw(s);
        let want = problem.solve(DType::F64, |grids, relative| reference::blocks(grids, relative, &problem.options, problem.scales()));
        let got = || problem.solve(DType::F32, |[q, k, v], relative| halo_attention(q, k, v, relative, &problem.options).unwrap());
        let case = format!("{:?} {:?}", problem.grids.each_ref().map(Draw::shape), problem.options);
        errors.add(&case, got(), got(), want);
    });
    errors.finish();
}

fn draw<const D: usize>(seed: u64, shape: [usize; D]) -> Tensor<D> {
    Sampler::new(seed).tensor(shape, -1.0, 1.0).f32(&cpu())
}

fn softmax_over_all(q: Tensor<4>, k: Tensor<4>, v: Tensor<4>, scale: f64) -> Tensor<4> {
    activation::softmax((q * scale).matmul(k.swap_dims(2, 3)), 3).matmul(v)
}

#[test]
fn one_block_without_halo_and_biases_is_full_attention() {
    let [q, k, v] = [1, 2, 3].map(|seed| draw(seed, [2, 6, 6, 2, 5]));
    let zeros = || Tensor::<2>::zeros([11, 5], &cpu());
    let options = HaloOptions { block: 6, halo: 0, scale: Some(0.4), ..HaloOptions::default() };
    let got = halo_attention(q.clone(), k.clone(), v.clone(), [zeros(), zeros()], &options).unwrap();
    let flat = |x: Tensor<5>| x.reshape([2, 36, 2, 5]).swap_dims(1, 2);
    assert_close("full", &flat(got), &softmax_over_all(flat(q), flat(k), flat(v), 0.4), 1e-5);
}

#[test]
fn blocks_of_one_token_see_the_window_around_it() {
    let [q, k, v] = [1, 2, 3].map(|seed| draw(seed, [1, 7, 8, 1, 4]));
    let zeros = || Tensor::<2>::zeros([9, 4], &cpu());
    let options = HaloOptions { block: 1, halo: 2, masked: true, scale: Some(0.5), ..HaloOptions::default() };
    let got = halo_attention(q.clone(), k.clone(), v.clone(), [zeros(), zeros()], &options).unwrap();
    for (y, x) in [(0, 0), (3, 4), (6, 7), (1, 5)] {
        let around = |at: usize, length: usize| at.saturating_sub(2)..(at + 3).min(length);
        let cut = |t: &Tensor<5>| {
            let (rows, columns) = (around(y, 7), around(x, 8));
            let n = rows.len() * columns.len();
            t.clone().slice([0..1, rows, columns]).reshape([1, 1, n, 4])
        };
        let at = |t: &Tensor<5>| t.clone().slice([0..1, y..y + 1, x..x + 1]).reshape([1, 1, 1, 4]);
        assert_close("a token", &at(&got), &softmax_over_all(at(&q), cut(&k), cut(&v), 0.5), 1e-5);
    }
}

#[test]
fn half_the_resolution_by_strided_queries_or_by_means() {
    let base = HaloAttentionConfig { block: 4, halo: 1, stride: 2, ..HaloAttentionConfig::new(2) };
    let widths = HaloWidths { input: 6, key: 3, value: 5 };
    let x = draw(4, [2, 8, 12, 6]);
    assert_eq!(base.init_widths(widths, &cpu()).unwrap().attend(x.clone()).dims(), [2, 4, 6, 10]);
    for config in [HaloAttentionConfig { avg_down: true, ..base.clone() }, HaloAttentionConfig { block: 3, ..base.clone() }] {
        let layer = config.init_widths(widths, &cpu()).unwrap();
        let y = layer.attend(x.clone());
        assert_eq!(y.dims(), [2, 4, 6, 10]);
        let whole = HaloAttentionConfig { stride: 1, ..config }.init_widths(widths, &cpu()).unwrap();
        let whole = crate::halo_attention::HaloAttention { options: whole.options, pooled: false, ..layer };
        let full = whole.attend(x.clone());
        let mean = full.clone().slice([0..2, 2..4, 4..6]).reshape([2, 4, 10]).mean_dim(1).reshape([2, 1, 1, 10]);
        assert_close("a mean", &y.slice([0..2, 1..2, 2..3]), &mean, 1e-5);
    }
}

#[test]
fn maps_that_blocks_do_not_divide_are_filled_up() {
    let layer = HaloAttentionConfig { block: 5, halo: 2, ..HaloAttentionConfig::new(2) }.init(8, &cpu()).unwrap();
    for map in [[1, 1], [3, 12], [7, 11]] {
        let y = layer.forward(draw(5, [2, map[0], map[1], 8]));
        assert_eq!(y.dims(), [2, map[0], map[1], 8]);
        assert!(y.into_data().iter::<f32>().all(f32::is_finite));
    }
    assert_eq!(layer.forward(Tensor::zeros([0, 7, 7, 8], &cpu())).dims(), [0, 7, 7, 8]);
}

#[test]
fn arguments_that_do_not_fit_are_refused() {
    let zeros = |shape: [usize; 5]| Tensor::<5>::zeros(shape, &cpu());
    let vectors = |n| [(); 2].map(|()| Tensor::<2>::zeros([n, 4], &cpu()));
    let message = |q, k, v, n, options: HaloOptions| {
        halo_attention(zeros(q), zeros(k), zeros(v), vectors(n), &options).map(drop).unwrap_err().to_string()
    };
    let shape = [1, 6, 8, 2, 4];
    let options = HaloOptions { block: 4, halo: 1, ..HaloOptions::default() };
    assert_eq!(
        message([1, 6, 7, 2, 4], shape, shape, 11, options),
        "halo_attention: `q` must be of shape [1, 6, 8, 2, 4], got [1, 6, 7, 2, 4]"
    );
    assert_eq!(
        message(shape, shape, [1, 6, 8, 1, 4], 11, options),
        "halo_attention: `k` and `v` must agree in batch, map and heads, got [1, 6, 8, 2, 4] and [1, 6, 8, 1, 4]"
    );
    assert_eq!(message(shape, shape, shape, 12, options), "halo_attention: `relative` must be of shape [11, 4], got [12, 4]");
    let wrong = HaloOptions { block: 0, ..options };
    assert_eq!(message(shape, shape, shape, 11, wrong), "halo_attention: `block` must be at least 1, got 0");
    let wrong = HaloOptions { stride: 3, ..options };
    assert_eq!(message(shape, shape, shape, 11, wrong), "halo_attention: `stride` must be a divisor of block = 4, got 3");
    let wrong = HaloOptions { scale: Some(0.0), ..options };
    assert_eq!(message(shape, shape, shape, 11, wrong), "halo_attention: `scale` must be finite and not 0, got 0");
    let message = |config: HaloAttentionConfig| config.init(8, &cpu()).unwrap_err().to_string();
    let base = || HaloAttentionConfig::new(2);
    assert_eq!(message(HaloAttentionConfig::new(3)), "halo: `heads` must be a divisor of d_model = 8, got 3");
    assert_eq!(message(HaloAttentionConfig { block: 0, ..base() }), "halo: `block` must be at least 1, got 0");
    assert_eq!(
        message(HaloAttentionConfig { stride: 2, ..base() }),
        "halo: `stride` must be 1 in a layer that keeps the size of a map, got 2"
    );
    let widths = HaloWidths { input: 8, key: 4, value: 4 };
    let error = HaloAttentionConfig { stride: 3, ..base() }.init_widths(widths, &cpu()).unwrap_err().to_string();
    assert_eq!(error, "halo: `stride` must be 1 or 2, got 3");
}
