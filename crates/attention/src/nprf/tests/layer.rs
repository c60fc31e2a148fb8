use burn::{
    module::Module,
    tensor::{Bool, Device, Int, Tensor},
};
use regard_testkit::{Sampler, assert_close, cpu, relative_error, three_way};

use crate::{
    LayerPlace, MixerConfig, MixerMemory, SequenceMixer,
    nprf::{FeatureKind, Nprf, NprfAlgorithm, NprfConfig, ProjectionKind},
};

/// With biases that are not zero, as after training.
fn trained(config: &NprfConfig, d_model: usize, s: &mut Sampler) -> Nprf {
    let mut layer = config.init(d_model, LayerPlace::ONLY, &cpu()).unwrap();
    if let Some(rpe) = layer.rpe.take() {
        let shape = rpe.val().dims();
        layer.rpe = Some(rpe.map(|_| s.tensor(shape, -1.5, 1.5).f32(&cpu())));
    }
    layer
}

fn variants() -> Vec<NprfConfig> {
    let new = || NprfConfig::new(4);
    vec![
        new(),
        NprfConfig { farthest: 5, ..new() },
        NprfConfig { farthest: 1, features: Some(7), ..new() },
        NprfConfig { farthest: 0, ..new() },
        NprfConfig { farthest: 9, normalised: false, ..new() },
        NprfConfig { rpe: false, ..new() },
        NprfConfig { farthest: 6, algorithm: NprfAlgorithm::Fft, ..new() },
        NprfConfig::prf(4),
        NprfConfig::favor_plus(4),
        NprfConfig { kernel: FeatureKind::FavorPlus, farthest: 4, ..new() },
    ]
}

#[test]
fn forward_prefill_and_steps_agree() {
    let mut s = Sampler::new(1);
    for config in variants() {
        let layer = trained(&config, 24, &mut s);
        for t in [1, 2, 5, 20] {
            let x = s.tensor([2, t, 24], -2.0, 2.0).f32(&cpu());
            let name = format!("{config:?}");
            three_way(&name, &x, 1e-5, |x| layer.forward(x, None), || layer.state(2), |x, s| layer.prefill(x, s), |x, s| layer.step(x, s));
        }
    }
}

#[test]
fn the_constant_of_favor_weighs_the_same_whatever_biases_stand_beyond_the_sequence() {
    let mut s = Sampler::new(5);
    let config = NprfConfig { kernel: FeatureKind::FavorPlus, farthest: 4, ..NprfConfig::new(4) };
    let mut layer = trained(&config, 24, &mut s);
    // Distances from 2 on weigh e^10 times as much: two tokens do not meet them, the table of the state holds them.
    let table: Vec<f32> = (0..9_usize).map(|i| if i.abs_diff(4) > 1 { 10.0 } else { 0.0 }).collect();
    layer.rpe = layer.rpe.map(|rpe| rpe.map(|_| Tensor::<1>::from_data(table.as_slice(), &cpu()).unsqueeze_dim::<2>(0).repeat_dim(0, 4)));
    let x = s.tensor([2, 2, 24], -2.0, 2.0).f32(&cpu());
    let whole = layer.forward(x.clone(), None);
    let mut state = layer.state(2);
    assert_close("prefill", &layer.prefill(x, &mut state), &whole, 2e-6);
}

#[test]
fn padding_on_either_side_does_not_change_the_outputs_of_tokens() {
    let mut s = Sampler::new(2);
    for config in variants() {
        let layer = trained(&config, 8, &mut s);
        let x = s.tensor([1, 9, 8], -1.0, 1.0).f32(&cpu());
        for range in [0..6, 3..9] {
            let padding: Vec<bool> = (0..9).map(|i| !range.contains(&i)).collect();
            let padding = Tensor::<2, Bool>::from_data([<[bool; 9]>::try_from(padding).unwrap()], &cpu());
            let cut = |x: Tensor<3>| x.narrow(1, range.start, range.len());
            let got = layer.forward(x.clone(), Some(padding.clone()));
            assert!(got.to_data().iter::<f32>().all(f32::is_finite));
            assert_close(&format!("{config:?} {range:?}"), &cut(got), &layer.forward(cut(x.clone()), None), 1e-5);
            let both_ways = cut(layer.attend(x.clone(), Some(padding)).unwrap());
            assert_close("bidirectional", &both_ways, &layer.attend(cut(x.clone()), None).unwrap(), 1e-5);
        }
    }
}

#[test]
fn the_causal_form_does_not_see_the_future_and_the_other_does() {
    let mut s = Sampler::new(3);
    for config in variants() {
        let layer = trained(&config, 8, &mut s);
        let x = s.tensor([1, 9, 8], -1.0, 1.0).f32(&cpu());
        let changed = Tensor::cat(vec![x.clone().narrow(1, 0, 5), x.clone().narrow(1, 5, 4) * 3.0], 1);
        let past = |x: Tensor<3>| x.narrow(1, 0, 5);
        let (before, after) = (past(layer.forward(x.clone(), None)), past(layer.forward(changed.clone(), None)));
        assert_close(&format!("{config:?}"), &after, &before, 1e-5);
        let (before, after) = (past(layer.attend(x, None).unwrap()), past(layer.attend(changed, None).unwrap()));
        assert!(relative_error(&after, &before) > 1e-3, "{config:?} is blind to what follows");
    }
}

#[test]
fn the_state_stops_growing_at_the_farthest_distance() {
    let mut s = Sampler::new(4);
    let layer = trained(&NprfConfig { farthest: 5, ..NprfConfig::new(2) }, 8, &mut s);
    let mut state = layer.state(3);
    let per_token = 4 * 3 * 2 * (4 + 4);
    let sum = 4 * 3 * 2 * (4 * 5 + 1); // with the shift
    assert_eq!(state.bytes(), sum);
    let sizes: Vec<_> = (0..8)
        .map(|_| {
            layer.step(s.tensor([3, 8], -1.0, 1.0).f32(&cpu()), &mut state);
            (state.bytes() - sum) / per_token
        })
        .collect();
    assert_eq!(sizes, [1, 2, 3, 4, 4, 4, 4, 4]);
    let without = NprfConfig::prf(2).init(8, LayerPlace::ONLY, &cpu()).unwrap();
    let mut state = without.state(3);
    without.prefill(s.tensor([3, 50, 8], -1.0, 1.0).f32(&cpu()), &mut state);
    assert_eq!(state.bytes(), sum, "without biases one sum is enough");
}

#[test]
fn a_selected_state_continues_its_sequence() {
    let mut s = Sampler::new(5);
    let layer = trained(&NprfConfig { farthest: 3, normalised: false, ..NprfConfig::new(2) }, 8, &mut s);
    let (x, next) = (s.tensor([2, 6, 8], -1.0, 1.0).f32(&cpu()), s.tensor([2, 8], -1.0, 1.0).f32(&cpu()));
    let mut state = layer.state(2);
    layer.prefill(x, &mut state);
    let order = Tensor::<1, Int>::from_data([1, 0, 1], &cpu());
    let mut chosen = state.select(&order);
    let got = layer.step(next.clone().select(0, order.clone()), &mut chosen);
    assert_close("selected", &got, &layer.step(next, &mut state).select(0, order), 1e-6);
}

#[test]
fn a_layer_is_four_projections_and_a_table() {
    let params = |config: NprfConfig| config.init(8, LayerPlace::ONLY, &cpu()).unwrap().num_params();
    assert_eq!(params(NprfConfig::new(2)), 4 * (8 * 8 + 8) + 2 * 511);
    assert_eq!(params(NprfConfig { farthest: 6, bias: false, ..NprfConfig::new(2) }), 4 * 8 * 8 + 2 * 13);
    assert_eq!(params(NprfConfig::favor_plus(2)), 4 * (8 * 8 + 8));
}

#[test]
fn layers_draw_different_projections_and_the_same_ones_again() {
    let draw = |index, seed| {
        let config = NprfConfig { seed, ..NprfConfig::new(2) };
        config.init(8, LayerPlace { index, count: 2 }, &cpu()).unwrap().projection.into_data()
    };
    assert_eq!(draw(1, 5), draw(1, 5));
    assert_ne!(draw(0, 5), draw(1, 5));
    assert_ne!(draw(0, 5), draw(0, 6));
    let mut layer = NprfConfig { seed: 5, ..NprfConfig::new(2) }.init(8, LayerPlace::ONLY, &cpu()).unwrap();
    layer.redraw(6);
    assert_eq!(layer.projection.into_data(), draw(0, 6));
}

#[test]
fn the_projection_has_no_gradient_and_everything_else_has() {
    let device: Device = cpu().autodiff();
    let layer = NprfConfig { farthest: 4, ..NprfConfig::new(2) }.init(8, LayerPlace::ONLY, &device).unwrap();
    let x = Sampler::new(6).tensor([1, 6, 8], -1.0, 1.0).f32(&device);
    let grads = layer.forward(x, None).square().sum().backward();
    assert!(layer.projection.grad(&grads).is_none());
    assert!(layer.rpe.as_ref().unwrap().val().grad(&grads).unwrap().abs().max().into_scalar::<f32>() > 0.0);
    assert!(layer.q_proj.weight.val().grad(&grads).is_some());
}

#[test]
fn a_config_file_may_leave_out_all_but_the_heads_and_survives_a_round_trip() {
    let read = |text: &str| serde_json::from_str::<MixerConfig>(text);
    assert_eq!(read(r#"{"kind": "nprf", "heads": 4}"#).unwrap(), MixerConfig::named("nprf", 4).unwrap());
    for config in variants() {
        let config = NprfConfig { clamp: None, projection: ProjectionKind::OrthogonalEqual, seed: 9, ..config };
        let config = MixerConfig::Nprf(config);
        assert_eq!(read(&serde_json::to_string(&config).unwrap()).unwrap(), config);
    }
    let MixerConfig::Nprf(config) = read(r#"{"kind": "nprf", "heads": 4, "kernel": "favor_plus", "clamp": 0}"#).unwrap() else {
        panic!("another kind")
    };
    assert_eq!((config.kernel, config.clamp), (FeatureKind::FavorPlus, None));
    let text = read(r#"{"kind": "nprf", "heads": 4, "feature": 8}"#).unwrap_err().to_string();
    assert!(text.contains("unknown field `feature`"), "{text}");
}

#[test]
fn operations_per_token_grow_slower_than_the_context_once_transforms_pay() {
    let layer = NprfConfig { features: Some(8), ..NprfConfig::new(4) }.init(32, LayerPlace::ONLY, &cpu()).unwrap();
    let flops = |t| layer.flops_per_token(t);
    assert!(flops(256) > flops(64));
    assert!(flops(65_536) < 1.3 * flops(32_768));
    let without = NprfConfig::prf(4).init(32, LayerPlace::ONLY, &cpu()).unwrap();
    assert_eq!(without.flops_per_token(64), without.flops_per_token(65_536));
}
