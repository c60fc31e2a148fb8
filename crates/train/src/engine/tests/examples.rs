//! Runs of tasks with examples, and the recipes.

use super::*;

#[test]
fn classes_are_scored_by_the_share_of_right_answers() {
    let _turn = alone();
    let place = tempfile::tempdir().unwrap();
    let task = TaskConfig::Series(SeriesConfig { classes: 2, channels: 1, length: 32, noise: 0.1 });
    let mut config = examples(task);
    let mixers = vec![MixerConfig::named("softmax", 2).unwrap()];
    config.model = EncoderConfig { d_ff: 32, ..EncoderConfig::open(16, 1, mixers) }.into();
    config.train = TrainConfig { batch: 16, steps: Some(10), ..config.train };
    config.eval = EvalConfig { every: 10, tokens: 32 * 200, ..config.eval };
    let evaluation = train(&config, place.path()).evaluation.unwrap();
    assert!(evaluation.accuracy.is_some_and(|a| (0.0..=1.0).contains(&a)), "{evaluation:?}");
    assert_eq!((evaluation.tokens, evaluation.perplexity, evaluation.unit()), (200, None, "nats per example"));
    let run = Run::open(place.path()).unwrap();
    let test = run.evaluate(&Device::flex(), Split::Test, 32 * 50).unwrap();
    assert_eq!(test.evaluation.tokens, 50);
    let error = run.decoder(&Device::flex()).unwrap_err().to_string();
    assert!(error.ends_with(": `model.kind` must be `decoder` to go on with a text, got encoder"), "{error}");
}

#[test]
fn actions_are_scored_by_squared_and_absolute_errors_of_what_is_asked_for() {
    let _turn = alone();
    let place = tempfile::tempdir().unwrap();
    let mut config = examples(control());
    config.eval.tokens = 15 * 8;
    let evaluation = train(&config, place.path()).evaluation.unwrap();
    assert_eq!(evaluation.tokens, 8 * 5, "an action a step");
    let mae = evaluation.mae.unwrap();
    assert!(mae > 0.0 && mae * mae <= evaluation.loss + 1e-6 && evaluation.loss < 2.0, "{evaluation:?}");
    assert_eq!((evaluation.accuracy, evaluation.unit()), (None, "mean squared error"));
}

#[test]
fn every_recipe_is_the_configuration_of_a_run() {
    let recipes = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../recipes");
    let files: Vec<_> =
        fs::read_dir(recipes).unwrap().map(|entry| entry.unwrap().path()).filter(|p| p.extension().is_some_and(|e| e == "toml")).collect();
    assert!(files.len() >= 5);
    for path in files {
        let config = RunConfig::load(&path).unwrap_or_else(|e| panic!("{e}"));
        config.validate().unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        assert_eq!(RunConfig::from_toml(&config.to_toml().unwrap()).unwrap(), config, "{}", path.display());
    }
}
