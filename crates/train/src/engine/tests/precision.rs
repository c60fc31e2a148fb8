//! Passes in bf16 with weights in f32.

use super::*;

/// Losses of the training steps.
fn losses(config: &RunConfig) -> Vec<f64> {
    let place = tempfile::tempdir().unwrap();
    let dir = place.path().join("run");
    train(config, &dir);
    let records = Run::open(&dir).unwrap().metrics().unwrap();
    records.into_iter().filter_map(|record| if let Record::Step(record) = record { Some(record.loss) } else { None }).collect()
}

fn low(config: &RunConfig) -> RunConfig {
    RunConfig { train: TrainConfig { precision: Precision::Bf16, ..config.train.clone() }, ..config.clone() }
}

/// Losses are of the size 4 and bf16 has steps of 2^-8 of a number: sums over a few dozen of them differ by less than one in a hundred.
#[test]
fn passes_in_bf16_learn_as_those_in_f32() {
    let _turn = alone();
    for mixer in ["flow", "kimi_delta", "latent", "lightning", "softmax"] {
        let mut config = text();
        decoder(&mut config).mixers = vec![MixerConfig::named(mixer, 2).unwrap()];
        let (want, got) = (losses(&config), losses(&low(&config)));
        assert!(want.len() > 10 && want.len() == got.len());
        assert_ne!(want, got, "{mixer}: nothing was rounded");
        for (step, (want, got)) in want.iter().zip(&got).enumerate() {
            assert!((want - got).abs() <= 0.03 * want, "{mixer}, step {step}: {got} for {want}");
        }
    }
}

#[test]
fn examples_of_numbers_and_tokens_are_learned_in_bf16() {
    let _turn = alone();
    for config in [examples(control()), examples(TaskConfig::ListOps(short_lists()))] {
        let (want, got) = (losses(&config), losses(&low(&config)));
        for (want, got) in want.iter().zip(&got) {
            assert!((want - got).abs() <= 0.05 * want.abs().max(1.0), "{got} for {want}");
        }
    }
}

#[test]
fn mixers_without_bf16_are_errors() {
    let mut config = low(&text());
    decoder(&mut config).mixers = vec![MixerConfig::named("nprf", 2).unwrap()];
    let error = config.validate().unwrap_err().to_string();
    assert_eq!(error, "`train.precision` must be f32 for the mixer `nprf`, got bf16");
}
