use burn::{
    module::{Module, Param},
    tensor::{Bool, Device, Distribution, Int, Tensor, TensorData},
};
use regard_testkit::{Sampler, assert_close, cpu, three_way};

use crate::{
    LayerPlace, MixerConfig, MixerMemory, SequenceMixer,
    kimi_delta::{DecayGate, KimiDelta, KimiDeltaConfig},
};

const WIDTH: usize = 12;

/// A layer whose weights are large enough for every part to matter.
fn layer(config: &KimiDeltaConfig, device: &Device) -> KimiDelta {
    let mut layer = config.init(WIDTH, LayerPlace::ONLY, device).unwrap();
    device.seed(3);
    let projections =
        [&mut layer.q_proj, &mut layer.k_proj, &mut layer.v_proj, &mut layer.b_proj, &mut layer.g_a_proj, &mut layer.g_b_proj];
    for linear in projections.into_iter().chain([&mut layer.out_proj]) {
        linear.weight = Param::from_tensor(linear.weight.val().random_like(Distribution::Normal(0.0, 0.5)));
    }
    layer
}

fn configs() -> Vec<KimiDeltaConfig> {
    let plain = KimiDeltaConfig { chunk: 8, ..KimiDeltaConfig::new(2) };
    vec![
        plain.clone(),
        KimiDeltaConfig { value_heads: Some(4), head_dim: Some(5), ..plain.clone() },
        KimiDeltaConfig { scalar_gate: true, allow_neg_eigval: true, gate: DecayGate::Bounded(-5.0), conv_kernel: 1, ..plain },
    ]
}

fn tokens(seed: u64, [b, t]: [usize; 2]) -> Tensor<3> {
    Sampler::new(seed).tensor([b, t, WIDTH], -1.0, 1.0).f32(&cpu())
}

#[test]
fn forward_prefill_and_steps_agree() {
    for config in configs() {
        let layer = layer(&config, &cpu());
        three_way(
            "kimi_delta",
            &tokens(1, [2, 21]),
            1e-5,
            |x| layer.forward(x, None),
            || layer.state(2),
            |x, s| layer.prefill(x, s),
            |x, s| layer.step(x, s),
        );
    }
}

#[test]
fn the_state_does_not_grow_and_can_be_reordered() {
    let layer = layer(&configs()[1], &cpu());
    let mut state = layer.state(2);
    let bytes = state.bytes();
    assert_eq!(bytes, 4 * (2 * 3 * (2 * 2 + 4) * 5 + 2 * 4 * 5 * 5));
    layer.prefill(tokens(2, [2, 30]), &mut state);
    assert_eq!(state.bytes(), bytes);
    let order = Tensor::<1, Int>::from_data([1, 0, 1], &cpu());
    let chosen = state.select(&order);
    let x = tokens(3, [2, 1]).squeeze_dim::<2>(1);
    let y = layer.step(x.clone(), &mut state).select(0, order.clone());
    assert_close("reordered", &layer.step(x.select(0, order), &mut chosen.clone()), &y, 1e-6);
}

#[test]
fn no_tokens_leave_the_state_as_it_is() {
    let layer = layer(&configs()[0], &cpu());
    let mut state = layer.state(1);
    layer.prefill(tokens(4, [1, 3]), &mut state);
    let before = state.clone();
    assert_eq!(layer.prefill(Tensor::zeros([1, 0, WIDTH], &cpu()), &mut state).dims(), [1, 0, WIDTH]);
    assert_close("memory", &state.memory, &before.memory, 0.0);
}

#[test]
fn padding_on_either_side_and_batch_mates_do_not_matter() {
    let layer = layer(&configs()[0], &cpu());
    let x = tokens(5, [1, 9]);
    let want = layer.forward(x.clone(), None);
    let junk = |t: usize, seed| tokens(seed, [1, t]) * 50.0;
    let left = Tensor::cat(vec![junk(4, 6), x.clone(), junk(3, 7)], 1);
    let batch = Tensor::cat(vec![junk(16, 8), left, junk(16, 9)], 0);
    let hidden = |t: usize| !(4..13).contains(&t);
    let mask: Vec<bool> = (0..48).map(|i| i / 16 == 1 && hidden(i % 16)).collect();
    let mask = Tensor::<2, Bool>::from_data(TensorData::new(mask, [3, 16]), &cpu());
    let got = layer.forward(batch, Some(mask)).narrow(0, 1, 1);
    assert_close("padded", &got.clone().narrow(1, 4, 9), &want, 1e-5);
    assert!(got.into_data().iter::<f32>().all(f32::is_finite));
}

#[test]
fn the_future_does_not_matter() {
    let layer = layer(&configs()[0], &cpu());
    let x = tokens(10, [1, 20]);
    let changed = Tensor::cat(vec![x.clone().narrow(1, 0, 11), tokens(11, [1, 9])], 1);
    let past = |x: Tensor<3>| layer.forward(x, None).narrow(1, 0, 11);
    assert_close("the past", &past(changed), &past(x), 1e-6);
}

#[test]
fn packed_sequences_do_not_see_one_another() {
    let layer = layer(&configs()[1], &cpu());
    let x = tokens(12, [1, 20]);
    let bounds = [0, 2, 2, 3, 20];
    let parts = bounds.windows(2).filter(|w| w[0] < w[1]);
    let alone = parts.map(|w| layer.forward(x.clone().narrow(1, w[0], w[1] - w[0]), None)).collect();
    assert_close("packed", &layer.forward_packed(x.clone(), &bounds).unwrap(), &Tensor::cat(alone, 1), 1e-6);
    let error = layer.forward_packed(x, &[0, 3]).unwrap_err().to_string();
    assert_eq!(error, "kimi_delta: `cu_seqlens` must be boundaries that rise from 0 to T = 20, got [0, 3]");
}

#[test]
fn every_weight_receives_a_gradient() {
    for config in configs() {
        let layer = layer(&config, &cpu().autodiff());
        let x = Tensor::from_data(tokens(13, [2, 11]).into_data(), &cpu().autodiff());
        let y = layer.forward(x, None);
        let grads = burn::optim::GradientsParams::from_grads((y.clone() * y).sum().backward(), &layer);
        assert_eq!(grads.len(), 13, "weights with a gradient");
    }
}

#[test]
fn the_published_width_has_the_published_number_of_parameters() {
    let config = KimiDeltaConfig { head_dim: Some(128), ..KimiDeltaConfig::new(32) };
    assert_eq!(config.init(2304, LayerPlace::ONLY, &cpu()).unwrap().num_params(), 39_514_272);
}

#[test]
fn a_configuration_is_a_table_with_the_defaults_of_the_paper() {
    let read = |text: &str| serde_json::from_str::<MixerConfig>(text);
    assert_eq!(read(r#"{"kind": "kimi_delta", "heads": 4}"#).unwrap(), MixerConfig::KimiDelta(KimiDeltaConfig::new(4)));
    let bounded = read(r#"{"kind": "kimi_delta", "heads": 4, "gate": {"bounded": -5.0}}"#).unwrap();
    assert_eq!(bounded, MixerConfig::KimiDelta(KimiDeltaConfig { gate: DecayGate::Bounded(-5.0), ..KimiDeltaConfig::new(4) }));
    assert!(read(r#"{"kind": "kimi_delta", "heads": 4, "head": 2}"#).unwrap_err().to_string().contains("unknown field `head`"));
}

#[test]
fn configurations_that_make_no_sense_are_refused() {
    let plain = || KimiDeltaConfig::new(4);
    for (config, message) in [
        (KimiDeltaConfig::new(0), "`heads` must be at least 1, got 0"),
        (KimiDeltaConfig::new(5), "`heads` must be a divisor of d_model = 12, or `head_dim` given, got 5"),
        (KimiDeltaConfig { head_dim: Some(0), ..plain() }, "`head_dim` must be at least 1, got 0"),
        (KimiDeltaConfig { value_heads: Some(6), ..plain() }, "`value_heads` must be a multiple of heads = 4, got 6"),
        (KimiDeltaConfig { conv_kernel: 0, ..plain() }, "`conv_kernel` must be at least 1, got 0"),
        (KimiDeltaConfig { chunk: 48, ..plain() }, "`chunk` must be a power of two up to 256, got 48"),
        (KimiDeltaConfig { gate: DecayGate::Bounded(1.0), ..plain() }, "`gate` must be bounded by a number below 0, got 1"),
        (KimiDeltaConfig { norm_epsilon: 0.0, ..plain() }, "`norm_epsilon` must be above 0, got 0"),
    ] {
        let error = config.init(WIDTH, LayerPlace::ONLY, &cpu()).unwrap_err().to_string();
        assert_eq!(error, format!("kimi_delta: {message}"));
    }
}
