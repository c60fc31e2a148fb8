use burn::tensor::{Bool, Device, Distribution, Int, Tensor, TensorData};
use regard::MixerConfig;
use regard_testkit::{assert_close, cpu, relative_error};

use super::*;

const INPUT: EncoderInput = EncoderInput::Tokens { vocab: 11 };
const CLASSES: Head = Head::Classes { classes: 3 };

fn mixers(kind: &str) -> Vec<MixerConfig> {
    vec![MixerConfig::named(kind, 2).unwrap()]
}

/// A network whose mixers matter: their weights are drawn large.
fn config(kind: &str, head: Head) -> EncoderConfig {
    EncoderConfig { init_std: 0.4, ..EncoderConfig::new(INPUT, 12, 16, 2, mixers(kind), head) }
}

fn ids(rows: &[&[i32]]) -> Tensor<2, Int> {
    let data = TensorData::new(rows.concat(), [rows.len(), rows[0].len()]);
    Tensor::from_data(data, &cpu())
}

fn hidden(rows: &[&[bool]]) -> Tensor<2, Bool> {
    Tensor::from_data(TensorData::new(rows.concat(), [rows.len(), rows[0].len()]), &cpu())
}

#[test]
fn padding_has_no_influence_on_a_class_however_it_is_read() {
    let device = cpu();
    for kind in MixerConfig::KINDS {
        for pool in [Pool::Mean, Pool::Class, Pool::Last] {
            let causal = !mixers(kind)[0].is_bidirectional();
            if causal && pool == Pool::Class {
                continue;
            }
            device.seed(3);
            let encoder = EncoderConfig { causal, pool, ..config(kind, CLASSES) }.init(&device).unwrap();
            let alone = encoder.forward_tokens(ids(&[&[1, 2, 3, 4, 5]]), None).unwrap();
            for junk in [0, 9] {
                let padded = ids(&[&[1, 2, 3, 4, 5, junk, junk, junk]]);
                let mask = hidden(&[&[false, false, false, false, false, true, true, true]]);
                let got = encoder.forward_tokens(padded, Some(mask)).unwrap();
                assert_close(&format!("{kind}, {pool:?}"), &got, &alone, 1e-4);
            }
            let other = encoder.forward_tokens(ids(&[&[1, 7, 3, 4, 5]]), None).unwrap();
            assert!(relative_error(&other, &alone) > 1e-3, "{kind}, {pool:?}: a token has no influence");
        }
    }
}

#[test]
fn only_causal_networks_keep_the_future_from_the_past() {
    let device = cpu();
    for kind in MixerConfig::KINDS {
        for causal in [true, false] {
            if !causal && !mixers(kind)[0].is_bidirectional() {
                continue;
            }
            device.seed(4);
            let encoder = EncoderConfig { causal, ..config(kind, Head::Each { outputs: 2 }) }.init(&device).unwrap();
            let [was, is] = [1, 8].map(|last| encoder.forward_tokens(ids(&[&[1, 2, 3, 4, last]]), None).unwrap().narrow(1, 0, 4));
            let moved = relative_error(&is, &was);
            assert_eq!(moved < 2e-5, causal, "{kind}: {moved}");
        }
    }
}

#[test]
fn a_forecast_starts_from_the_last_step_and_follows_a_shift_of_the_series() {
    let device = cpu();
    device.seed(5);
    let input = EncoderInput::Numbers { width: 3 };
    let encoder = EncoderConfig::new(input, 8, 16, 1, mixers("flow"), Head::Forecast { horizon: 5 }).init(&device).unwrap();
    let x = Tensor::<3>::random([2, 8, 3], Distribution::Default, &device);
    let ahead = encoder.forward_numbers(x.clone(), None).unwrap();
    assert_eq!(ahead.dims(), [2, 5, 3]);
    let shifted = encoder.forward_numbers(x + 7.0, None).unwrap();
    assert_close("shifted", &(shifted - 7.0), &ahead, 1e-4);
    let error = encoder.forward_numbers(Tensor::zeros([2, 7, 3], &device), None).unwrap_err();
    assert_eq!(error.to_string(), "encoder: `x` must be of 8 steps, got 7");
    let error = encoder.forward_numbers(Tensor::zeros([2, 8, 4], &device), None).unwrap_err();
    assert_eq!(error.to_string(), "encoder: `x` must be of 3 numbers a step, got 4");
}

#[test]
fn what_does_not_go_together_is_said() {
    let message = |config: EncoderConfig| config.init(&Device::flex()).unwrap_err().to_string();
    assert_eq!(
        message(config("kimi_delta", CLASSES)),
        "encoder: `mixers` must be ones with a bidirectional form, or `causal` set, got `kimi_delta`, which is causal only"
    );
    let class = EncoderConfig { causal: true, pool: Pool::Class, ..config("flow", CLASSES) };
    assert!(message(class).contains("`pool` must be `mean` or `last` for causal mixers"));
    assert!(message(config("flow", Head::Forecast { horizon: 3 })).contains("`head` must be one of classes or of numbers"));
    assert_eq!(message(config("flow", Head::Classes { classes: 0 })), "encoder: `head.classes` must be at least 1, got 0");
    assert_eq!(message(EncoderConfig::open(8, 1, mixers("flow"))), "encoder: `input` must be given, got nothing");
    let encoder = config("flow", CLASSES).init(&cpu()).unwrap();
    let error = encoder.forward_tokens(Tensor::zeros([1, 13], &cpu()), None).unwrap_err();
    assert_eq!(error.to_string(), "encoder: `input` must be within the 12 learned positions, got 13 steps");
    assert!(encoder.forward_numbers(Tensor::zeros([1, 2, 3], &cpu()), None).is_err());
}

#[test]
fn a_file_without_a_kind_of_model_is_a_decoder() {
    use crate::ModelConfig;
    let read = |text: &str| serde_json::from_str::<ModelConfig>(text);
    let fields = r#""d_model": 8, "layers": 1, "mixers": [{ "kind": "flow", "heads": 2 }], "d_ff": 16"#;
    let old = read(&format!("{{ {fields}, \"context\": 4 }}")).unwrap();
    assert_eq!(old.kind(), "decoder");
    let encoder = read(&format!("{{ {fields}, \"kind\": \"encoder\", \"pool\": \"last\" }}")).unwrap();
    assert_eq!(encoder.kind(), "encoder");
    for config in [old, encoder] {
        assert_eq!(read(&serde_json::to_string(&config).unwrap()).unwrap(), config);
    }
    let error = read(&format!("{{ {fields}, \"contxt\": 4 }}")).unwrap_err().to_string();
    assert!(error.contains("unknown field `contxt`"), "{error}");
    let error = read(&format!("{{ {fields}, \"kind\": \"encodr\" }}")).unwrap_err().to_string();
    assert!(error.contains("unknown variant `encodr`, expected one of `decoder`, `encoder`"), "{error}");
}
