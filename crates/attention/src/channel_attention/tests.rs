use burn::tensor::{DType, Tensor};
use regard_testkit::{Draw, Errors, Sampler, assert_close, cpu, relative_error, sweep};

use super::{ChannelAttentionConfig, ChannelOrder, channel_attention, reference};
use crate::SpatialMixer;

fn solve(
    inputs: &[Draw<4>; 3],
    cotangent: &Draw<4>,
    dtype: DType,
    f: impl Fn([Tensor<4>; 3]) -> Tensor<4>,
) -> Vec<burn::tensor::TensorData> {
    let device = cpu().autodiff();
    let place = |x: &Draw<4>| if dtype == DType::F64 { x.f64(&device) } else { x.f32(&device) };
    let leaves = inputs.each_ref().map(|x| place(x).require_grad());
    let o = f(leaves.clone());
    let grads = (o.clone() * place(cotangent)).sum().backward();
    let gradients = leaves.map(|x| x.grad(&grads).unwrap().into_data());
    std::iter::once(o.into_data()).chain(gradients).collect()
}

#[test]
fn the_operation_matches_the_definition_over_random_shapes() {
    for (dtype, tolerance) in [(DType::F64, 1e-12), (DType::F32, 1e-5)] {
        let errors = Errors::new("channel attention", &["o", "dx", "dy", "dz"], tolerance);
        sweep("channel attention", 300, |s| {
            let [b, h, n, k, v] = [s.size(1, 2), s.size(1, 4), s.size(1, 60), s.size(1, 20), s.size(1, 20)];
            let scale = s.uniform(0.05, 0.5);
            let inputs = [s.tensor([b, h, n, k], -1.0, 1.0), s.tensor([b, h, n, v], -1.0, 1.0), s.tensor([b, h, n, v], -1.0, 1.0)];
            let cotangent = s.tensor([b, h, n, k], -1.0, 1.0);
            let want = solve(&inputs, &cotangent, DType::F64, |[x, y, z]| reference::channels(x, y, z, scale));
            let got = || solve(&inputs, &cotangent, dtype, |[x, y, z]| channel_attention(x, y, z, scale).unwrap());
            errors.add(&format!("{:?}", [b, h, n, k, v]), got(), got(), want);
        });
        errors.finish();
    }
}

#[test]
fn a_permutation_of_the_tokens_permutes_the_outputs() {
    for order in [ChannelOrder::KeysValues, ChannelOrder::QueriesKeys] {
        let layer = ChannelAttentionConfig { order, ..ChannelAttentionConfig::new(2) }.init(8, &cpu()).unwrap();
        let x = Sampler::new(1).tensor([2, 5, 6, 8], -1.0, 1.0).f32(&cpu());
        assert_close("flipped", &layer.forward(x.clone().flip([1, 2])), &layer.forward(x.clone()).flip([1, 2]), 1e-5);
        let far = x.clone().slice_assign([0..2, 0..1, 0..1, 0..8], Tensor::full([2, 1, 1, 8], 5.0, &cpu()));
        let last = |x: Tensor<4>| layer.forward(x).slice([0..2, 4..5, 5..6, 0..8]);
        assert!(relative_error(&last(far), &last(x)) > 1e-3, "the last token does not see the first");
    }
}

#[test]
fn the_two_orders_are_one_function_of_renamed_projections() {
    let mut s = Sampler::new(2);
    let [q, k, v] = [(); 3].map(|()| s.tensor([1, 2, 9, 4], -1.0, 1.0).f32(&cpu()));
    let got = channel_attention(k.clone(), v.clone(), q.clone(), 0.5).unwrap();
    // Channel by channel: row i of softmax(kᵀ v / 2), applied to q.
    for i in 0..4 {
        let scores = (k.clone().narrow(3, i, 1) * v.clone() * 0.5).sum_dim(2); // [1, 2, 1, 4]
        let weights = burn::tensor::activation::softmax(scores, 3);
        assert_close("a channel", &got.clone().narrow(3, i, 1), &(q.clone() * weights).sum_dim(3), 1e-5);
    }
}

#[test]
fn half_precision_is_computed_in_f32_and_does_not_overflow() {
    let ones = |n| Tensor::<4>::full([1, 1, 4000, n], 8.0, &cpu()).cast(DType::F16);
    let o = channel_attention(ones(3), ones(3), ones(3), 1.0).unwrap();
    assert_eq!(o.dtype(), DType::F16);
    assert!(o.into_data().convert::<f32>().iter::<f32>().all(|x| x == 8.0));
}

#[test]
fn arguments_that_do_not_fit_are_refused() {
    let zeros = |shape: [usize; 4]| Tensor::<4>::zeros(shape, &cpu());
    let message = |x, y, z, scale| channel_attention(zeros(x), zeros(y), zeros(z), scale).map(drop).unwrap_err().to_string();
    let fits = [1, 2, 5, 3];
    assert_eq!(
        message([1, 2, 4, 3], fits, fits, 1.0),
        "channel_attention: `x` and `y` must agree in batch, heads and tokens, got [1, 2, 4, 3] and [1, 2, 5, 3]"
    );
    assert_eq!(
        message(fits, fits, [1, 2, 5, 4], 1.0),
        "channel_attention: `y` and `z` must agree in shape, got [1, 2, 5, 3] and [1, 2, 5, 4]"
    );
    assert_eq!(message(fits, fits, fits, f64::INFINITY), "channel_attention: `scale` must be finite, got inf");
    let none = [1, 2, 5, 0];
    assert_eq!(message(fits, none, none, 1.0), "channel_attention: `y` must be of at least one channel, got 0");
    let mixed = channel_attention(zeros(fits), zeros(fits).cast(DType::F64), zeros(fits), 1.0).map(drop).unwrap_err();
    assert_eq!(mixed.to_string(), "channel_attention: `y` must be of the float type of `x`, F32, got F64");
    let error = ChannelAttentionConfig::new(3).init(8, &cpu()).unwrap_err().to_string();
    assert_eq!(error, "channel: `heads` must be a divisor of d_model = 8, got 3");
}
