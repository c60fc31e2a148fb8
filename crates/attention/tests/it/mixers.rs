//! What the interface [`SequenceMixer`] promises, for every kind of [`MixerConfig`] with the defaults of its paper.

use std::ops::Range;

use burn::tensor::{Bool, Device, Int, Tensor, TensorData};
use regard::{
    ImageMixerConfig, LayerPlace, Mixer, MixerConfig, MixerMemory, SequenceMixer,
    registry::{self, Interface},
};
use regard_testkit::{Sampler, assert_close, cpu, relative_error, three_way};

use crate::weights::{enlarged, without_gradient};

const HEADS: usize = 4;
const WIDTH: usize = 32;
/// A layer that is neither the first nor the last: some mechanisms treat these in their own way.
const PLACES: [LayerPlace; 2] = [LayerPlace { index: 0, count: 3 }, LayerPlace { index: 1, count: 3 }];
/// Rounding of f32 in another order.
const TOLERANCE: f64 = 2e-5;

/// Calls `check` with every kind at every place; `what` names both.
fn for_each_mixer(device: &Device, check: impl Fn(&str, &Mixer)) {
    for kind in MixerConfig::KINDS {
        for place in PLACES {
            device.seed(17);
            let mixer = MixerConfig::named(kind, HEADS).unwrap().init(WIDTH, place, device).unwrap();
            check(&format!("{kind}, layer {}", place.index), &enlarged(mixer));
        }
    }
}

fn tokens(seed: u64, [b, t]: [usize; 2]) -> Tensor<3> {
    Sampler::new(seed).tensor([b, t, WIDTH], -1.0, 1.0).f32(&cpu())
}

/// `true` outside of `range`.
fn hidden_but(range: &Range<usize>, length: usize) -> Tensor<2, Bool> {
    let hidden: Vec<bool> = (0..length).map(|i| !range.contains(&i)).collect();
    Tensor::from_data(TensorData::new(hidden, [1, length]), &cpu())
}

#[test]
fn every_kind_is_registered_and_every_entry_is_a_kind() {
    let ids = |image: bool| {
        let entries = registry::MECHANISMS.iter().filter(|entry| (entry.interface == Interface::Image) == image);
        entries.map(|entry| entry.id).collect::<Vec<_>>()
    };
    assert_eq!(ids(false), MixerConfig::KINDS);
    assert_eq!(ids(true), ImageMixerConfig::KINDS);
    assert!(registry::MECHANISMS.is_sorted_by_key(|entry| entry.id));
    for entry in registry::MECHANISMS {
        assert!(entry.page.starts_with("# ") && entry.page.contains("```rust"), "{}: the page has no title or no example", entry.id);
    }
}

#[test]
fn forward_prefill_and_steps_agree() {
    for_each_mixer(&cpu(), |what, mixer| {
        for t in [1, 2, 37] {
            let prefill = |x, state: &mut _| mixer.prefill(x, state);
            three_way(what, &tokens(1, [2, t]), 1e-4, |x| mixer.forward(x, None), || mixer.state(2), prefill, |x, s| mixer.step(x, s));
        }
    });
}

#[test]
fn the_future_does_not_move_the_past() {
    for_each_mixer(&cpu(), |what, mixer| {
        // Within a block, at its edge and behind it, whatever blocks the mechanism works in.
        for (t, kept) in [(2, 1), (37, 36), (150, 64), (150, 75), (150, 129)] {
            let x = tokens(2, [2, t]);
            let changed = Tensor::cat(vec![x.clone().narrow(1, 0, kept), tokens(3, [2, t - kept]) * 9.0], 1);
            let [was, is] = [x, changed].map(|x| mixer.forward(x, None));
            let what = format!("{what}, {kept} of {t} tokens kept");
            assert_close(&what, &is.clone().narrow(1, 0, kept), &was.clone().narrow(1, 0, kept), TOLERANCE);
            assert!(relative_error(&is, &was) > 1e-2, "{what}: the changed tokens have no effect at all");
        }
    });
}

#[test]
fn the_past_reaches_the_last_token() {
    for_each_mixer(&cpu(), |what, mixer| {
        let x = tokens(4, [1, 12]);
        let changed = Tensor::cat(vec![tokens(5, [1, 6]), x.clone().narrow(1, 6, 6)], 1);
        let last = |x: Tensor<3>| mixer.forward(x, None).narrow(1, 11, 1);
        assert!(relative_error(&last(changed), &last(x)) > 1e-4, "{what}: the last output does not depend on earlier tokens");
    });
}

#[test]
fn padding_on_either_side_has_no_influence_and_stays_finite() {
    for_each_mixer(&cpu(), |what, mixer| {
        for range in [0..9, 4..13, 7..16] {
            let x = tokens(6, [1, 9]);
            let junk = |t: usize, seed| tokens(seed, [1, t]) * 50.0;
            let padded = Tensor::cat(vec![junk(range.start, 7), x.clone(), junk(16 - range.end, 8)], 1);
            let y = mixer.forward(padded, Some(hidden_but(&range, 16)));
            assert!(y.to_data().iter::<f32>().all(f32::is_finite), "{what}: an output at {range:?} of 16 is not finite");
            let alone = mixer.forward(x, None);
            assert_close(&format!("{what}, tokens at {range:?} of 16"), &y.narrow(1, range.start, 9), &alone, 1e-4);
        }
    });
}

#[test]
fn padding_gets_no_gradient() {
    let device = cpu().autodiff();
    for_each_mixer(&device, |what, mixer| {
        let range = 3..8;
        let x = Tensor::<3>::from_data(tokens(9, [1, 10]).into_data(), &device).require_grad();
        let hidden = Tensor::from_data(hidden_but(&range, 10).into_data(), &device);
        let y = mixer.forward(x.clone(), Some(hidden)).narrow(1, range.start, range.len());
        let gradient = x.grad(&y.powf_scalar(2.0).sum().backward()).unwrap();
        let size = |from: usize, to: usize| gradient.clone().narrow(1, from, to - from).abs().sum().into_scalar::<f32>();
        assert!(size(0, 3) == 0.0 && size(8, 10) == 0.0, "{what}: padding has gradients {} and {}", size(0, 3), size(8, 10));
        assert!(size(3, 8) > 1e-3, "{what}: tokens have no gradient");
    });
}

#[test]
fn a_sequence_of_nothing_but_padding_is_finite_with_finite_gradients() {
    let device = cpu().autodiff();
    for_each_mixer(&device, |what, mixer| {
        let x = Tensor::<3>::from_data(tokens(10, [2, 7]).into_data(), &device).require_grad();
        let hidden: Vec<bool> = (0..14).map(|i| i < 7).collect();
        let y = mixer.forward(x.clone(), Some(Tensor::from_data(TensorData::new(hidden, [2, 7]), &device)));
        assert!(y.to_data().iter::<f32>().all(f32::is_finite), "{what}: an output is not finite");
        let gradient = x.grad(&y.sum().backward()).unwrap();
        assert!(gradient.into_data().iter::<f32>().all(f32::is_finite), "{what}: a gradient is not finite");
    });
}

#[test]
fn batch_mates_have_no_influence_even_if_they_are_nan() {
    for_each_mixer(&cpu(), |what, mixer| {
        let x = tokens(11, [1, 70]);
        let nan = || Tensor::<3>::full([1, 70, WIDTH], f32::NAN, &cpu());
        let batch = Tensor::cat(vec![nan(), x.clone(), nan()], 0);
        let alone = mixer.forward(x.clone(), None);
        assert_close(&format!("{what}, forward"), &mixer.forward(batch.clone(), None).narrow(0, 1, 1), &alone, TOLERANCE);
        let mut state = mixer.state(3);
        let first = mixer.prefill(batch.clone().narrow(1, 0, 69), &mut state).narrow(0, 1, 1);
        let last = mixer.step(batch.narrow(1, 69, 1).squeeze_dim(1), &mut state).narrow(0, 1, 1).unsqueeze_dim(1);
        assert_close(&format!("{what}, prefill and step"), &Tensor::cat(vec![first, last], 1), &alone, 1e-4);
    });
}

#[test]
fn a_state_grows_only_where_the_registry_says_so() {
    for_each_mixer(&cpu(), |what, mixer| {
        let entry = registry::find(what.split(',').next().unwrap()).unwrap();
        let mut state = mixer.state(2);
        let begin = state.bytes();
        mixer.prefill(tokens(12, [2, 40]), &mut state);
        let then = state.bytes();
        for i in 0..40 {
            mixer.step(tokens(13 + i, [2, 1]).squeeze_dim(1), &mut state);
        }
        if entry.state_grows() {
            assert!(state.bytes() > then && then > begin, "{what}: the registry says that the state grows");
        } else {
            assert_eq!([then, state.bytes()], [begin; 2], "{what}: the registry says that the state is constant");
            assert!(begin > 0, "{what}: no state at all");
        }
    });
}

#[test]
fn a_state_follows_its_sequences_when_reordered_and_is_a_value() {
    for_each_mixer(&cpu(), |what, mixer| {
        let x = tokens(60, [3, 9]);
        let mut state = mixer.state(3);
        mixer.prefill(x.clone().narrow(1, 0, 8), &mut state);
        let order = Tensor::<1, Int>::from_data([2, 0, 0, 1], &cpu());
        let (mut picked, mut fork) = (state.select(&order), state.clone());
        let next = x.narrow(1, 8, 1).squeeze_dim::<2>(1);
        mixer.step(next.clone() * 2.0, &mut fork);
        let all = mixer.step(next.clone(), &mut state);
        assert_close(what, &mixer.step(next.select(0, order.clone()), &mut picked), &all.select(0, order), TOLERANCE);
    });
}

#[test]
fn no_tokens_give_no_outputs_and_leave_the_state_alone() {
    for_each_mixer(&cpu(), |what, mixer| {
        let none = || Tensor::<3>::zeros([2, 0, WIDTH], &cpu());
        assert_eq!(mixer.forward(none(), None).dims(), [2, 0, WIDTH], "{what}");
        let x = tokens(61, [2, 6]);
        let mut state = mixer.state(2);
        let first = mixer.prefill(x.clone().narrow(1, 0, 3), &mut state);
        assert_eq!(mixer.prefill(none(), &mut state).dims(), [2, 0, WIDTH], "{what}");
        let rest = mixer.prefill(x.clone().narrow(1, 3, 3), &mut state);
        assert_close(what, &Tensor::cat(vec![first, rest], 1), &mixer.forward(x, None), 1e-4);
    });
}

#[test]
fn every_weight_gets_a_gradient() {
    let device = cpu().autodiff();
    for_each_mixer(&device, |what, mixer| {
        let x = Tensor::<3>::from_data(tokens(62, [2, 20]).into_data(), &device);
        let gradients = mixer.forward(x, None).powf_scalar(2.0).sum().backward();
        let missing = without_gradient(mixer, &gradients);
        assert!(missing.is_empty(), "{what}: no gradient for {}", missing.join(", "));
    });
}

#[test]
fn work_per_token_is_counted_and_grows_with_the_context_only_where_time_is_quadratic() {
    for_each_mixer(&cpu(), |what, mixer| {
        let entry = registry::find(what.split(',').next().unwrap()).unwrap();
        let [short, long] = [4096, 65_536].map(|context| mixer.flops_per_token(context));
        assert!(short > (2 * WIDTH * WIDTH) as f64, "{what}: less work than one projection");
        assert_eq!(long > 1.01 * short, entry.time.contains("T²"), "{what}: {short} operations per token, then {long}");
    });
}

#[test]
fn a_configuration_survives_a_file_and_may_leave_out_all_but_the_heads() {
    for kind in MixerConfig::KINDS {
        let config = MixerConfig::named(kind, HEADS).unwrap();
        assert_eq!(config.kind(), *kind);
        let short = format!(r#"{{"kind": "{kind}", "heads": {HEADS}}}"#);
        serde_json::from_str::<MixerConfig>(&short).unwrap().init(WIDTH, LayerPlace::ONLY, &cpu()).unwrap();
        let text = serde_json::to_string(&config).unwrap();
        assert_eq!(serde_json::from_str::<MixerConfig>(&text).unwrap(), config, "{text}");
    }
}

#[test]
fn bad_configurations_are_errors_that_name_the_argument() {
    for kind in MixerConfig::KINDS {
        let error = |heads: usize, width: usize| {
            let config = MixerConfig::named(kind, heads).unwrap();
            config.init(width, LayerPlace::ONLY, &cpu()).err().map(|error| error.to_string())
        };
        for (heads, width) in [(0, WIDTH), (5, WIDTH), (WIDTH + 1, WIDTH)] {
            let text = error(heads, width).unwrap_or_else(|| panic!("{kind} takes {heads} heads of width {width}"));
            assert!(text.starts_with(&format!("{kind}: `heads` must be ")) && text.ends_with(&format!("got {heads}")), "{text}");
        }
        let text = error(HEADS, 0).unwrap_or_else(|| panic!("{kind} takes the width 0"));
        assert!(text.starts_with(&format!("{kind}: `")) && text.contains("d_model"), "{text}");
        assert_eq!(MixerConfig::named(&format!("{kind}s"), HEADS), None);
        let unknown = serde_json::from_str::<MixerConfig>(&format!(r#"{{"kind": "{kind}", "heads": 4, "haeds": 4}}"#)).unwrap_err();
        assert!(unknown.to_string().contains("unknown field `haeds`"), "{kind}: {unknown}");
    }
}

#[test]
fn the_bidirectional_form_sees_the_future_and_no_padding_and_is_there_where_the_registry_says() {
    for_each_mixer(&cpu(), |what, mixer| {
        let x = tokens(21, [1, 9]);
        let config = MixerConfig::named(mixer.kind(), HEADS).unwrap();
        if !config.is_bidirectional() {
            let error = mixer.attend(x, None).unwrap_err().to_string();
            assert!(error.starts_with("attend: `mixer` must be one with a bidirectional form: flow, nprf"), "{error}");
            assert!(error.ends_with(mixer.kind()), "{error}");
            return;
        }
        let alone = mixer.attend(x.clone(), None).unwrap();
        let changed = Tensor::cat(vec![x.clone().narrow(1, 0, 8), tokens(22, [1, 1]) * 9.0], 1);
        let first = |y: Tensor<3>| y.narrow(1, 0, 1);
        assert!(
            relative_error(&first(mixer.attend(changed, None).unwrap()), &first(alone.clone())) > 1e-3,
            "{what}: the future has no effect"
        );
        for range in [0..9, 4..13, 7..16] {
            let junk = |t: usize, seed| tokens(seed, [1, t]) * 50.0;
            let padded = Tensor::cat(vec![junk(range.start, 23), x.clone(), junk(16 - range.end, 24)], 1);
            let y = mixer.attend(padded, Some(hidden_but(&range, 16))).unwrap();
            assert!(y.to_data().iter::<f32>().all(f32::is_finite), "{what}: an output at {range:?} of 16 is not finite");
            assert_close(&format!("{what}, tokens at {range:?} of 16"), &y.narrow(1, range.start, 9), &alone, 1e-4);
        }
    });
}
