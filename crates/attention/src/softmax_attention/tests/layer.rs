use burn::{
    module::Module,
    tensor::{Bool, Device, Distribution, Int, Tensor, TensorData},
};
use regard_testkit::{Sampler, assert_close, cpu, devices, relative_error, three_way};

use crate::{
    LayerPlace, MixerMemory, SequenceMixer,
    softmax_attention::{SoftmaxAttention, SoftmaxAttentionConfig},
};

fn layer(config: &SoftmaxAttentionConfig, width: usize, device: &Device) -> SoftmaxAttention {
    device.seed(7);
    let mut layer = config.init(width, LayerPlace::ONLY, device).unwrap();
    // Zeros at first, which would show nothing.
    layer.relative_bias = layer.relative_bias.map(|bias| bias.map(|x| x.random_like(Distribution::Default)));
    layer
}

fn configs() -> Vec<SoftmaxAttentionConfig> {
    vec![
        SoftmaxAttentionConfig::new(4),
        SoftmaxAttentionConfig { kv_heads: Some(2), bias: true, ..SoftmaxAttentionConfig::new(4) },
        SoftmaxAttentionConfig { kv_heads: Some(1), rotary_base: None, ..SoftmaxAttentionConfig::new(4) },
        SoftmaxAttentionConfig { relative_bias: Some(5), rotary_base: None, ..SoftmaxAttentionConfig::new(4) },
    ]
}

#[test]
fn forward_prefill_and_steps_agree() {
    for device in devices() {
        for config in configs() {
            let layer = layer(&config, 24, &device);
            let x = Sampler::new(1).tensor([2, 37, 24], -1.0, 1.0).f32(&device);
            let prefill = |x, state: &mut _| layer.prefill(x, state);
            three_way("softmax", &x, 2e-5, |x| layer.forward(x, None), || layer.state(2), prefill, |x, state| layer.step(x, state));
        }
    }
}

#[test]
fn the_future_does_not_move_the_past() {
    let layer = layer(&SoftmaxAttentionConfig::new(4), 24, &cpu());
    let mut s = Sampler::new(2);
    let x = s.tensor([2, 90, 24], -1.0, 1.0).f32(&cpu());
    let other = Tensor::cat(vec![x.clone().narrow(1, 0, 70), s.tensor([2, 20, 24], -9.0, 9.0).f32(&cpu())], 1);
    let past = |x: Tensor<3>| layer.forward(x, None).narrow(1, 0, 70).into_data();
    past(x).assert_eq(&past(other), true);
}

#[test]
fn padded_tokens_have_no_influence_and_padded_outputs_are_finite() {
    let layer = layer(&SoftmaxAttentionConfig::new(4), 24, &cpu());
    let mut s = Sampler::new(3);
    let x = s.tensor([1, 10, 24], -1.0, 1.0).f32(&cpu());
    let hidden = [true, true, true, false, false, false, false, false, false, true];
    let padding: Tensor<2, Bool> = Tensor::from_data(TensorData::new(hidden.to_vec(), [1, 10]), &cpu());
    let other = x.clone().slice_assign([0..1, 0..3, 0..24], s.tensor([1, 3, 24], -5.0, 5.0).f32(&cpu()));
    let tokens = |x: Tensor<3>| layer.forward(x, Some(padding.clone())).narrow(1, 3, 6);
    tokens(x.clone()).into_data().assert_eq(&tokens(other).into_data(), true);
    let all = layer.forward(x.clone(), Some(padding));
    relative_error(&all, &all); // fails on what is not finite
}

#[test]
fn sequences_of_a_batch_do_not_mix() {
    let layer = layer(&SoftmaxAttentionConfig::new(4), 24, &cpu());
    let x = Sampler::new(4).tensor([3, 33, 24], -1.0, 1.0).f32(&cpu());
    let together = layer.forward(x.clone(), None);
    for i in 0..3 {
        let alone = layer.forward(x.clone().narrow(0, i, 1), None);
        assert_close("batch mate", &together.clone().narrow(0, i, 1), &alone, 1e-5);
    }
}

#[test]
fn a_cloned_state_goes_its_own_way() {
    let layer = layer(&SoftmaxAttentionConfig::new(4), 24, &cpu());
    let x = Sampler::new(5).tensor([2, 6, 24], -1.0, 1.0).f32(&cpu());
    let token = |i: usize| x.clone().narrow(1, i, 1).squeeze_dim::<2>(1);
    let mut state = layer.state(2);
    layer.prefill(x.clone().narrow(1, 0, 3), &mut state);
    let mut fork = state.clone();
    layer.step(token(3), &mut fork);
    let (a, b) = (layer.step(token(4), &mut state), layer.step(token(5), &mut fork));
    let rows = |parts: &[usize]| Tensor::cat(parts.iter().map(|&i| x.clone().narrow(1, i, 1)).collect(), 1);
    let last = |x: Tensor<3>| layer.forward(x.clone(), None).narrow(1, x.dims()[1] - 1, 1).squeeze_dim::<2>(1);
    assert_close("original", &a, &last(rows(&[0, 1, 2, 4])), 1e-5);
    assert_close("fork", &b, &last(rows(&[0, 1, 2, 3, 5])), 1e-5);
}

#[test]
fn selected_states_continue_the_selected_sequences() {
    let layer = layer(&SoftmaxAttentionConfig::new(4), 24, &cpu());
    let x = Sampler::new(6).tensor([2, 5, 24], -1.0, 1.0).f32(&cpu());
    let mut state = layer.state(2);
    layer.prefill(x.clone().narrow(1, 0, 4), &mut state);
    let mut swapped = state.select(&Tensor::<1, Int>::from_data([1, 0, 1], &cpu()));
    let next = x.clone().narrow(1, 4, 1).squeeze_dim::<2>(1);
    let order = Tensor::<1, Int>::from_data([1, 0, 1], &cpu());
    let got = layer.step(next.clone().select(0, order.clone()), &mut swapped);
    assert_close("selected", &got, &layer.step(next, &mut state).select(0, order), 1e-6);
}

#[test]
fn the_cache_grows_by_doubling() {
    let layer = layer(&SoftmaxAttentionConfig { kv_heads: Some(2), ..SoftmaxAttentionConfig::new(4) }, 24, &cpu());
    let mut state = layer.state(1);
    assert_eq!((state.bytes(), state.is_empty()), (0, true));
    let mut sizes = Vec::new();
    for _ in 0..40 {
        layer.step(Tensor::zeros([1, 24], &cpu()), &mut state);
        sizes.push(state.bytes() / (2 * 2 * 6 * 4));
    }
    sizes.dedup();
    assert_eq!((sizes, state.len()), (vec![16, 32, 64], 40));
}

#[test]
fn every_parameter_gets_a_gradient() {
    let device = cpu().autodiff();
    let config = SoftmaxAttentionConfig { bias: true, relative_bias: Some(3), ..SoftmaxAttentionConfig::new(2) };
    let layer = config.init(12, LayerPlace::ONLY, &device).unwrap();
    let x = Sampler::new(8).tensor([2, 9, 12], -1.0, 1.0).f32(&device);
    let grads = layer.forward(x, None).powf_scalar(2.0).sum().backward();
    for linear in [&layer.qkv_proj, &layer.out_proj] {
        let weight = linear.weight.val().grad(&grads).unwrap();
        assert!(weight.abs().sum().into_scalar::<f32>() > 0.0);
        assert!(linear.bias.as_ref().unwrap().val().grad(&grads).is_some());
    }
    assert!(layer.relative_bias.as_ref().unwrap().val().grad(&grads).unwrap().abs().sum().into_scalar::<f32>() > 0.0);
    assert_eq!(layer.num_params(), 12 * 36 + 36 + 12 * 12 + 12 + 2 * 4);
}

#[test]
fn heads_must_divide_the_width() {
    let error = |config: SoftmaxAttentionConfig, width| config.init(width, LayerPlace::ONLY, &cpu()).unwrap_err().to_string();
    assert_eq!(error(SoftmaxAttentionConfig::new(4), 30), "softmax: `heads` must be a divisor of d_model = 30, got 4");
    assert_eq!(error(SoftmaxAttentionConfig::new(0), 30), "softmax: `heads` must be a divisor of d_model = 30, got 0");
    let grouped = SoftmaxAttentionConfig { kv_heads: Some(3), ..SoftmaxAttentionConfig::new(4) };
    assert_eq!(error(grouped, 32), "softmax: `kv_heads` must be a divisor of heads = 4, got 3");
    assert_eq!(
        error(SoftmaxAttentionConfig::new(4), 12),
        "softmax: `heads` must be such that d_model / heads is even for rotary positions, got 4"
    );
}

#[test]
fn unknown_keys_of_a_configuration_are_errors() {
    let error = serde_json::from_str::<SoftmaxAttentionConfig>(r#"{ "heads": 4, "windw": 3 }"#).unwrap_err();
    assert!(error.to_string().contains("unknown field `windw`"), "{error}");
}
