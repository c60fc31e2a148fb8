//! What the interface [`SpatialMixer`] promises, for every kind of [`ImageMixerConfig`] with the defaults of its paper.

use burn::tensor::{Device, Tensor};
use regard::{ImageMixer, ImageMixerConfig, SpatialMixer};
use regard_testkit::{Sampler, assert_close, cpu, relative_error};

use crate::weights::{enlarged, without_gradient};

const HEADS: usize = 4;
const WIDTH: usize = 32;
/// Kinds that have no heads.
const HEADLESS: [&str; 1] = ["polarized"];
/// Square, long, of prime sides, and larger than the usual window of 7.
const MAPS: [[usize; 2]; 4] = [[8, 8], [7, 16], [13, 11], [21, 14]];

fn for_each_mixer(device: &Device, check: impl Fn(&str, &ImageMixer)) {
    for kind in ImageMixerConfig::KINDS {
        device.seed(17);
        check(kind, &enlarged(ImageMixerConfig::named(kind, HEADS).unwrap().init(WIDTH, device).unwrap()));
    }
}

fn maps(seed: u64, b: usize, [y, x]: [usize; 2]) -> Tensor<4> {
    Sampler::new(seed).tensor([b, y, x, WIDTH], -1.0, 1.0).f32(&cpu())
}

#[test]
fn a_map_of_any_size_that_is_accepted_gives_a_map_of_that_size() {
    for_each_mixer(&cpu(), |what, mixer| {
        for map in MAPS {
            mixer.check_map(map).unwrap();
            let y = mixer.forward(maps(1, 2, map));
            assert_eq!(y.dims(), [2, map[0], map[1], WIDTH], "{what}");
            assert!(y.to_data().iter::<f32>().all(f32::is_finite), "{what}: an output of {map:?} is not finite");
        }
    });
}

#[test]
fn small_maps_are_taken_or_refused_with_a_reason_and_never_a_panic() {
    for_each_mixer(&cpu(), |what, mixer| {
        for map in [[1, 1], [1, 9], [3, 2], [5, 30]] {
            match mixer.check_map(map) {
                Ok(()) => assert_eq!(mixer.forward(maps(2, 1, map)).dims(), [1, map[0], map[1], WIDTH], "{what}"),
                Err(error) => assert!(error.to_string().starts_with(&format!("{what}: `")), "{what}: {error}"),
            }
        }
    });
}

#[test]
fn the_tokens_of_an_image_are_mixed_and_those_of_its_batch_mates_are_not_even_if_they_are_nan() {
    for_each_mixer(&cpu(), |what, mixer| {
        let x = maps(3, 1, [13, 11]);
        let alone = mixer.forward(x.clone());
        let nan = || Tensor::<4>::full([1, 13, 11, WIDTH], f32::NAN, &cpu());
        let batch = Tensor::cat(vec![nan(), x.clone(), nan()], 0);
        assert_close(what, &mixer.forward(batch).narrow(0, 1, 1), &alone, 2e-5);
        // The token at (6, 5) is changed, the one beside it notices.
        let changed = x.slice_assign([0..1, 6..7, 5..6, 0..WIDTH], maps(4, 1, [1, 1]) * 9.0);
        let at = |y: Tensor<4>| y.slice([0..1, 6..7, 6..7, 0..WIDTH]);
        assert!(relative_error(&at(mixer.forward(changed)), &at(alone)) > 1e-4, "{what}: neighbours do not see one another");
    });
}

#[test]
fn no_images_give_no_outputs() {
    for_each_mixer(&cpu(), |what, mixer| {
        assert_eq!(mixer.forward(Tensor::zeros([0, 8, 8, WIDTH], &cpu())).dims(), [0, 8, 8, WIDTH], "{what}");
    });
}

#[test]
fn every_weight_gets_a_gradient() {
    let device = cpu().autodiff();
    for_each_mixer(&device, |what, mixer| {
        let x = Tensor::<4>::from_data(maps(5, 2, [13, 11]).into_data(), &device);
        let missing = without_gradient(mixer, &mixer.forward(x).powf_scalar(2.0).sum().backward());
        assert!(missing.is_empty(), "{what}: no gradient for {}", missing.join(", "));
    });
}

#[test]
fn work_grows_with_the_map() {
    for_each_mixer(&cpu(), |what, mixer| {
        // Multiples of the usual windows, blocks and regions.
        let [small, large] = [[56, 56], [112, 112]].map(|map| mixer.flops(map));
        assert!(small > (2 * 3136 * WIDTH) as f64 && large > 3.5 * small, "{what}: {small} operations, then {large}");
    });
}

#[test]
fn a_configuration_survives_a_file_and_may_leave_out_all_but_the_heads() {
    for kind in ImageMixerConfig::KINDS {
        let config = ImageMixerConfig::named(kind, HEADS).unwrap();
        assert_eq!(config.kind(), *kind);
        assert_eq!(config.init(WIDTH, &cpu()).unwrap().kind(), *kind);
        let heads = if HEADLESS.contains(kind) { String::new() } else { format!(r#", "heads": {HEADS}"#) };
        let short = format!(r#"{{"kind": "{kind}"{heads}}}"#);
        assert_eq!(serde_json::from_str::<ImageMixerConfig>(&short).unwrap(), config);
        let text = serde_json::to_string(&config).unwrap();
        assert_eq!(serde_json::from_str::<ImageMixerConfig>(&text).unwrap(), config, "{text}");
        let unknown = serde_json::from_str::<ImageMixerConfig>(&format!(r#"{{"kind": "{kind}"{heads}, "haeds": 4}}"#)).unwrap_err();
        assert!(unknown.to_string().contains("unknown field `haeds`"), "{kind}: {unknown}");
        assert_eq!(ImageMixerConfig::named(&format!("{kind}s"), HEADS), None);
    }
}

#[test]
fn bad_configurations_are_errors_that_name_the_argument() {
    for kind in ImageMixerConfig::KINDS {
        let error = |heads: usize, width: usize| {
            let config = ImageMixerConfig::named(kind, heads).unwrap();
            config.init(width, &cpu()).err().map(|error| error.to_string())
        };
        let heads: &[_] = if HEADLESS.contains(kind) { &[] } else { &[(0, WIDTH), (5, WIDTH), (WIDTH + 1, WIDTH)] };
        for &(heads, width) in heads {
            let text = error(heads, width).unwrap_or_else(|| panic!("{kind} takes {heads} heads of width {width}"));
            assert!(text.starts_with(&format!("{kind}: `heads` must be ")) && text.ends_with(&format!("got {heads}")), "{text}");
        }
        let text = error(HEADS, 0).unwrap_or_else(|| panic!("{kind} takes the width 0"));
        assert!(text.starts_with(&format!("{kind}: `")) && text.contains("d_model"), "{text}");
    }
}
