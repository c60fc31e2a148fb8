//! Runs of tasks with examples, and the recipes.

use regard::flow_attention::FlowAttentionConfig;
use regard_models::flowformer::FlowformerSeriesConfig;

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
fn a_network_for_series_takes_its_sizes_from_the_task_and_is_resumed() {
    let _turn = alone();
    let place = tempfile::tempdir().unwrap();
    let task = TaskConfig::Series(SeriesConfig { classes: 3, channels: 2, length: 16, noise: 0.1 });
    let model =
        FlowformerSeriesConfig { d_model: 8, d_ff: 16, attention: FlowAttentionConfig::new(2), ..FlowformerSeriesConfig::new(0, 0, 0) };
    let config = RunConfig { model: model.into(), ..examples(task.clone()) };
    let [whole, parts] = ["whole", "parts"].map(|name| place.path().join(name));
    train(&config, &whole);
    let run = Run::open(&whole).unwrap();
    let ModelConfig::FlowformerSeries(model) = &run.config().model else { panic!("another model") };
    assert_eq!((model.features, model.length, model.classes), (2, 16, 3));
    stop_after(Trainer::create(&config, &parts, &Device::flex()).unwrap(), 6);
    Trainer::resume(&parts, &Device::flex()).unwrap().run(Hooks::default()).unwrap();
    assert_eq!(numbers(&parts), numbers(&whole));
    let other = RunConfig { task: control(), ..config };
    let error = Trainer::create(&other, &place.path().join("other"), &Device::flex()).err().unwrap();
    assert_eq!(error.to_string(), "`model.kind` must be `encoder` for this task, got flowformer_series");
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
