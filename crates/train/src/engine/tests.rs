use std::{
    fs,
    path::Path,
    sync::{
        Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use burn::tensor::Device;
use regard::MixerConfig;
use regard_models::{DecoderConfig, EncoderConfig, ModelConfig, Positions};

use super::*;
use crate::{ControlConfig, Error, ListOpsConfig, LmConfig, RecallConfig, SeriesConfig, TaskConfig, data::DataConfig};

mod examples;
mod experts;
mod precision;
mod side_by_side;

/// The CPU backend draws all random numbers of a process from one generator: tests that train or draw take turns.
pub(super) fn alone() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn model() -> DecoderConfig {
    let mixers = vec![MixerConfig::named("softmax", 2).unwrap()];
    DecoderConfig { d_ff: 16, ..DecoderConfig::new(0, 8, 1, mixers, 12) }
}

/// The decoder of a run.
fn decoder(config: &mut RunConfig) -> &mut DecoderConfig {
    let ModelConfig::Decoder(model) = &mut config.model else { panic!("another model") };
    model
}

fn recall() -> RunConfig {
    RunConfig {
        seed: 3,
        task: TaskConfig::Recall(RecallConfig { vocab: 9, pairs: 2 }),
        data: None,
        model: model().into(),
        train: TrainConfig { log_every: 1, ..TrainConfig::new(4, Budget::Steps(12)) },
        optimizer: OptimizerConfig { rate: 1e-2, warmup: 2, ..OptimizerConfig::default() },
        eval: EvalConfig { every: 5, tokens: 48, ..EvalConfig::default() },
    }
}

fn short_lists() -> ListOpsConfig {
    ListOpsConfig { min_length: 4, max_length: 20, depth: 3, arguments: 4 }
}

fn control() -> TaskConfig {
    TaskConfig::Control(ControlConfig { episodes: 20, steps: 8, window: 5 })
}

/// A run of a task with examples and an encoder with dropout.
fn examples(task: TaskConfig) -> RunConfig {
    let causal = matches!(task, TaskConfig::Control(_));
    let model = EncoderConfig { causal, dropout: 0.2, d_ff: 16, ..EncoderConfig::open(8, 1, vec![MixerConfig::named("flow", 2).unwrap()]) };
    RunConfig { task, model: model.into(), ..recall() }
}

fn text() -> RunConfig {
    RunConfig { task: TaskConfig::Lm(LmConfig {}), data: Some(DataConfig::new("embedded")), ..recall() }
}

fn train(config: &RunConfig, dir: &Path) -> Outcome {
    Trainer::create(config, dir, &Device::flex()).unwrap().run(Hooks::default()).unwrap()
}

/// Sets a flag when a step has been logged.
struct StopAt<'a> {
    step: usize,
    flag: &'a AtomicBool,
}

impl Observer for StopAt<'_> {
    fn event(&mut self, event: &Event<'_>) {
        if matches!(event, Event::Step(record) if record.step == self.step) {
            self.flag.store(true, Ordering::Relaxed);
        }
    }
}

/// Runs until the step after `step`, as a signal would stop it.
fn stop_after(trainer: Trainer, step: usize) -> Outcome {
    let flag = AtomicBool::new(false);
    let mut observer = StopAt { step, flag: &flag };
    trainer.run(Hooks { stop: Some(&flag), observer: Some(&mut observer), memory: None }).unwrap()
}

/// Everything of a run but its times.
fn numbers(dir: &Path) -> Vec<String> {
    let timeless = |record| match record {
        Record::Step(record) => Record::Step(StepRecord { seconds: 0.0, ..record }),
        Record::Eval(record) => Record::Eval(EvalRecord { seconds: 0.0, ..record }),
    };
    let records = Run::open(dir).unwrap().metrics().unwrap();
    // JSON prints each number with the digits that tell it from its neighbours: equal lines are equal bits.
    records.into_iter().map(|record| serde_json::to_string(&timeless(record)).unwrap()).collect()
}

#[test]
fn a_stopped_and_resumed_run_has_the_numbers_of_one_that_was_never_stopped() {
    let _turn = alone();
    let with_dropout = |mut config: RunConfig| {
        decoder(&mut config).dropout = 0.2;
        config.train.grad_accumulation = 2;
        config
    };
    for config in
        [recall(), text(), with_dropout(recall()), with_dropout(text()), examples(TaskConfig::ListOps(short_lists())), examples(control())]
    {
        let place = tempfile::tempdir().unwrap();
        let [whole, parts] = ["whole", "parts"].map(|name| place.path().join(name));
        let expected = train(&config, &whole);
        assert_eq!((expected.status, expected.step), (Status::Finished, 12));

        // Between two evaluations, on one, and again behind it.
        let mut outcome = stop_after(Trainer::create(&config, &parts, &Device::flex()).unwrap(), 2);
        assert_eq!((outcome.status, outcome.step), (Status::Interrupted, 3));
        for stop in [4, 8] {
            outcome = stop_after(Trainer::resume(&parts, &Device::flex()).unwrap(), stop);
            assert_eq!((outcome.status, outcome.step), (Status::Interrupted, stop + 1));
        }
        outcome = Trainer::resume(&parts, &Device::flex()).unwrap().run(Hooks::default()).unwrap();
        assert_eq!((outcome.status, outcome.step), (Status::Finished, 12));
        assert_eq!(numbers(&parts), numbers(&whole));
        assert_eq!(outcome.evaluation, expected.evaluation);
    }
}

#[test]
fn a_run_that_was_killed_between_checkpoints_goes_on_from_the_last() {
    let _turn = alone();
    let place = tempfile::tempdir().unwrap();
    let [whole, killed] = ["whole", "killed"].map(|name| place.path().join(name));
    train(&recall(), &whole);
    train(&recall(), &killed);
    // What a kill after step 7 leaves behind: lines without a checkpoint, the last one cut off.
    for step in [10, 12] {
        fs::remove_dir_all(killed.join(format!("checkpoints/step-{step}"))).unwrap();
    }
    assert_eq!(Run::open(&killed).unwrap().last_step().unwrap(), None, "two are kept");
    let metrics = fs::read_to_string(killed.join("metrics.jsonl")).unwrap();
    fs::write(killed.join("metrics.jsonl"), &metrics[..metrics.len() * 2 / 3]).unwrap();
    fs::create_dir_all(killed.join("checkpoints/.writing")).unwrap();
    Trainer::resume(&killed, &Device::flex()).unwrap().run(Hooks::default()).unwrap();
    assert_eq!(numbers(&killed), numbers(&whole));
}

#[test]
fn a_finished_run_that_is_resumed_reports_itself() {
    let _turn = alone();
    let place = tempfile::tempdir().unwrap();
    let first = train(&recall(), place.path());
    let again = Trainer::resume(place.path(), &Device::flex()).unwrap().run(Hooks::default()).unwrap();
    assert_eq!((again.status, again.step, again.tokens), (Status::Finished, 12, 12 * 48));
    assert_eq!(again.evaluation, first.evaluation);
}

#[test]
fn the_configuration_in_the_folder_repeats_the_run() {
    let _turn = alone();
    let place = tempfile::tempdir().unwrap();
    let [first, second] = ["first", "second"].map(|name| place.path().join(name));
    let mut config = text();
    (config.train.steps, config.train.tokens) = (None, Some(500));
    train(&config, &first);
    let written = RunConfig::load(&first.join("config.toml")).unwrap();
    assert_eq!((written.train.steps, written.train.tokens, written.model.decoder().unwrap().vocab), (Some(11), None, 256));
    assert_eq!(RunConfig::from_toml(&written.to_toml().unwrap()).unwrap(), written);
    train(&written, &second);
    assert_eq!(numbers(&second), numbers(&first));
}

#[test]
fn seconds_become_steps_before_the_run() {
    let _turn = alone();
    let place = tempfile::tempdir().unwrap();
    let mut config = recall();
    config.train = TrainConfig { log_every: 1, ..TrainConfig::new(4, Budget::Seconds(0.5)) };
    let trainer = Trainer::create(&config, place.path(), &Device::flex()).unwrap();
    assert_eq!(Run::open(place.path()).unwrap().config().train.steps, Some(trainer.steps()));
}

#[test]
fn training_lowers_the_loss_and_learns_to_recall() {
    let _turn = alone();
    let place = tempfile::tempdir().unwrap();
    let mut config = recall();
    config.model = DecoderConfig::new(0, 32, 2, vec![MixerConfig::named("softmax", 2).unwrap()], 6).into();
    config.train = TrainConfig::new(64, Budget::Steps(400));
    config.optimizer.rate = 3e-3;
    config.eval = EvalConfig { every: 400, tokens: 3000, ..EvalConfig::default() };
    let evaluation = train(&config, place.path()).evaluation.unwrap();
    assert!(evaluation.accuracy.unwrap() > 0.9, "{evaluation:?}");
    assert!(evaluation.bits_per_byte.is_none() && (evaluation.perplexity.unwrap().ln() - evaluation.loss).abs() < 1e-12);
}

#[test]
fn accumulated_passes_are_one_larger_batch() {
    let _turn = alone();
    let place = tempfile::tempdir().unwrap();
    let losses = |batch, passes| {
        let mut config = recall();
        (config.train.batch, config.train.grad_accumulation) = (batch, passes);
        let dir = place.path().join(passes.to_string());
        train(&config, &dir);
        let records = Run::open(&dir).unwrap().metrics().unwrap();
        records.into_iter().filter_map(|r| if let Record::Step(r) = r { Some((r.loss, r.grad_norm)) } else { None }).collect::<Vec<_>>()
    };
    for ((loss, norm), (other, other_norm)) in losses(4, 1).into_iter().zip(losses(2, 2)) {
        assert!((loss - other).abs() < 1e-4 && (norm - other_norm).abs() < 1e-3 * norm, "{loss} {other} {norm} {other_norm}");
    }
}

#[test]
fn activation_checkpointing_changes_no_number() {
    let _turn = alone();
    let place = tempfile::tempdir().unwrap();
    let [plain, checkpointed] = ["plain", "checkpointed"].map(|name| place.path().join(name));
    let mut config = recall();
    train(&config, &plain);
    config.train.activation_checkpointing = true;
    train(&config, &checkpointed);
    assert_eq!(numbers(&checkpointed), numbers(&plain));
}

#[test]
fn the_last_two_checkpoints_are_kept() {
    let _turn = alone();
    let place = tempfile::tempdir().unwrap();
    let mut config = recall();
    config.train.checkpoint_every = Some(3);
    train(&config, place.path());
    let mut names: Vec<_> = fs::read_dir(place.path().join("checkpoints")).unwrap().map(|e| e.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["step-12", "step-9"]);
}

#[test]
fn a_checkpoint_that_cannot_be_written_ends_the_run_and_keeps_the_one_before() {
    let _turn = alone();
    let place = tempfile::tempdir().unwrap();
    let folder = place.path().join("checkpoints");
    let config = recall();
    stop_after(Trainer::create(&config, place.path(), &Device::flex()).unwrap(), 2);
    let trainer = Trainer::resume(place.path(), &Device::flex()).unwrap();
    // A file where the next checkpoint is to be built.
    fs::write(folder.join(".writing"), "in the way").unwrap();
    let error = trainer.run(Hooks::default()).unwrap_err();
    assert!(error.to_string().starts_with(&format!("cannot write {}", folder.join(".writing").display())), "{error}");
    assert_eq!(Run::open(place.path()).unwrap().last_step().unwrap(), Some(3));
    fs::remove_file(folder.join(".writing")).unwrap();
    assert_eq!(Trainer::resume(place.path(), &Device::flex()).unwrap().run(Hooks::default()).unwrap().step, 12);
}

#[test]
fn a_loss_that_is_no_number_stops_the_run_with_its_step_and_keeps_the_last_good_checkpoint() {
    let _turn = alone();
    let place = tempfile::tempdir().unwrap();
    let mut config = recall();
    config.train.checkpoint_every = Some(1);
    config.train.log_every = 5;
    config.optimizer = OptimizerConfig { rate: 1e25, final_rate: 0.0, warmup: 0, clip: 0.0, ..OptimizerConfig::default() };
    let error = Trainer::create(&config, place.path(), &Device::flex()).unwrap().run(Hooks::default()).unwrap_err();
    let Error::NotFinite { step, checkpoint, .. } = &error else { panic!("{error}") };
    assert_eq!(*checkpoint, Some(place.path().join(format!("checkpoints/step-{}", step - 1))));
    assert!(error.to_string().ends_with(&format!("at step {step}: training stopped")), "{error}");
    assert!(error.hint().unwrap().contains("last good checkpoint"));
}

#[test]
fn damaged_and_foreign_checkpoints_are_told_apart() {
    let _turn = alone();
    let place = tempfile::tempdir().unwrap();
    let [run, other] = ["run", "other"].map(|name| place.path().join(name));
    train(&recall(), &run);
    let checkpoint = run.join("checkpoints/step-12");
    let message = || Trainer::resume(&run, &Device::flex()).err().unwrap().to_string();
    let with = |file: &str, content: &[u8]| {
        let original = fs::read(checkpoint.join(file)).unwrap();
        fs::write(checkpoint.join(file), content).unwrap();
        let message = message();
        fs::write(checkpoint.join(file), original).unwrap();
        message
    };
    let prefix = format!("checkpoint {}: ", checkpoint.display());
    let mut flipped = fs::read(checkpoint.join("model.bpk")).unwrap();
    *flipped.last_mut().unwrap() ^= 1;
    assert_eq!(with("model.bpk", &flipped), format!("{prefix}model.bpk is damaged: its size or checksum differs from state.json"));
    assert_eq!(with("optimizer.bpk", b""), format!("{prefix}optimizer.bpk is damaged: its size or checksum differs from state.json"));
    assert!(with("state.json", b"{").starts_with(&format!("{prefix}state.json is damaged or of another program: ")));

    let mut config = recall();
    decoder(&mut config).d_ff = 24;
    train(&config, &other);
    fs::remove_dir_all(&checkpoint).unwrap();
    fs::rename(other.join("checkpoints/step-12"), &checkpoint).unwrap();
    assert_eq!(message(), format!("{prefix}it belongs to another model than the run's config.toml describes"));
    fs::remove_file(checkpoint.join("state.json")).unwrap();
    assert_eq!(message(), format!("{prefix}state.json is missing"));
    fs::remove_dir_all(&checkpoint).unwrap();
    assert_eq!(Trainer::resume(&run, &Device::flex()).unwrap().run(Hooks::default()).unwrap().step, 12, "the one before is whole");
}

#[test]
fn a_run_ends_early_when_the_validation_loss_stays() {
    let _turn = alone();
    let place = tempfile::tempdir().unwrap();
    let mut config = recall();
    // At this rate the loss only grows, but stays a number.
    config.optimizer = OptimizerConfig { rate: 0.5, final_rate: 0.5, warmup: 0, weight_decay: 0.0, ..OptimizerConfig::default() };
    config.train.steps = Some(200);
    config.eval = EvalConfig { every: 1, patience: Some(3), tokens: 48, batch: None };
    let outcome = train(&config, place.path());
    assert_eq!(outcome.status, Status::EarlyStopped);
    assert!(outcome.step < 200);
    let again = Trainer::resume(place.path(), &Device::flex()).unwrap().run(Hooks::default()).unwrap();
    assert_eq!((again.status, again.step), (Status::EarlyStopped, outcome.step));
}

#[test]
fn folders_that_are_no_place_for_the_run_are_refused() {
    let _turn = alone();
    let place = tempfile::tempdir().unwrap();
    let error = Trainer::resume(place.path(), &Device::flex()).err().unwrap();
    assert_eq!(error.to_string(), format!("{} is not the folder of a run: it has no config.toml", place.path().display()));
    train(&recall(), place.path());
    let error = Trainer::create(&recall(), place.path(), &Device::flex()).err().unwrap();
    assert_eq!(error.to_string(), format!("{} already holds a run", place.path().display()));
    assert!(error.hint().unwrap().contains("--resume"));
}

#[test]
fn a_model_that_is_refused_leaves_no_folder() {
    let place = tempfile::tempdir().unwrap();
    let dir = place.path().join("run");
    let mut config = recall();
    decoder(&mut config).d_model = 9;
    let error = Trainer::create(&config, &dir, &Device::flex()).err().unwrap();
    assert_eq!(error.to_string(), "softmax: `heads` must be a divisor of d_model = 9, got 2");
    assert!(!dir.exists());
}

#[test]
fn unknown_keys_and_kinds_are_answered_with_the_known_ones() {
    let written = text().to_toml();
    let toml = written.unwrap();
    let hint = |from: &str, to: &str| {
        assert!(toml.contains(from), "{toml}");
        RunConfig::from_toml(&toml.replace(from, to)).unwrap_err().hint()
    };
    assert_eq!(hint("batch = 4", "batch = 4\nlog_evry = 5").as_deref(), Some("did you mean `log_every`?"));
    assert_eq!(hint("warmup", "warm_up").as_deref(), Some("did you mean `warmup`?"));
    assert_eq!(hint("kind = \"softmax\"", "kind = \"sofmax\"").as_deref(), Some("did you mean `softmax`?"));
    assert_eq!(hint("[optimizer]", "[optimiser]").as_deref(), Some("did you mean `optimizer`?"));
    assert_eq!(hint("kind = \"lm\"", "kind = \"lm\"\npairs = 3"), None);
    let error = RunConfig::from_toml("seed = \"x\"").unwrap_err();
    assert!(error.to_string().contains("line 1"), "{error}");
}

#[test]
fn values_that_break_a_rule_are_named_with_it() {
    type Change = fn(&mut RunConfig);
    let cases: [(Change, &str); 9] = [
        (|c| c.train.batch = 0, "`train.batch` must be at least 1, got 0"),
        (|c| c.train.steps = None, "`train.steps` must be given, or `train.tokens`, or `train.seconds`, got none of them"),
        (|c| c.train.tokens = Some(5), "`train.steps` must be the only one of `steps`, `tokens` and `seconds`, got several"),
        (|c| c.train.steps = Some(0), "`train.steps` must be positive, got 0"),
        (|c| c.optimizer.rate = 0.0, "`optimizer.rate` must be positive, got 0"),
        (|c| c.optimizer.final_rate = 1.0, "`optimizer.final_rate` must be from 0 to `optimizer.rate`, got 1"),
        (|c| c.optimizer.beta2 = 1.0, "`optimizer.beta2` must be in [0, 1), got 1"),
        (|c| c.eval.every = 0, "`eval.every` must be at least 1, got 0"),
        (|c| c.seed = u64::MAX, "`seed` must be at most 9223372036854775807, got 18446744073709551615"),
    ];
    for (change, want) in cases {
        let mut config = recall();
        change(&mut config);
        assert_eq!(config.validate().unwrap_err().to_string(), want);
    }
    let place = tempfile::tempdir().unwrap();
    let create = |config: &RunConfig| Trainer::create(config, &place.path().join("x"), &Device::flex()).err().unwrap().to_string();
    assert_eq!(create(&RunConfig { data: None, ..text() }), "`data` must be given for the task `lm`, got nothing");
    let with_data = RunConfig { data: text().data, ..recall() };
    assert_eq!(create(&with_data), "`data` must be left out: the task `recall` makes its own, got a section");
    let mut config = text();
    decoder(&mut config).vocab = 7;
    assert_eq!(create(&config), "`model.vocab` must be 256, as the tokens, got 7");
}

#[test]
fn a_context_longer_than_the_text_is_refused() {
    let place = tempfile::tempdir().unwrap();
    let mut config = text();
    decoder(&mut config).context = 10_000_000;
    let error = Trainer::create(&config, &place.path().join("run"), &Device::flex()).err().unwrap();
    assert!(error.to_string().ends_with("a context of 10000000 needs at least 10000001"), "{error}");
}

#[test]
fn a_run_folder_evaluates_and_generates_without_its_data() {
    let _turn = alone();
    let place = tempfile::tempdir().unwrap();
    let (file, dir) = (place.path().join("text.txt"), place.path().join("run"));
    fs::write(&file, "the cat sat on the mat. ".repeat(60)).unwrap();
    let mut config = text();
    config.data = Some(DataConfig { tokenizer: Some("char".into()), ..DataConfig::new(file.to_str().unwrap()) });
    decoder(&mut config).positions = Positions::Learned;
    config.eval.tokens = 1000;
    let outcome = train(&config, &dir);
    let run = Run::open(&dir).unwrap();
    let device = Device::flex();
    assert_eq!(run.evaluate(&device, Split::Valid, 1000).unwrap().evaluation, outcome.evaluation.unwrap());
    fs::remove_file(&file).unwrap();
    let evaluated = run.evaluate_text(&device, "the cat sat on the mat.", 1000).unwrap();
    assert!(evaluated.seconds > 0.0);
    let evaluation = evaluated.evaluation;
    assert_eq!(evaluation.tokens, 22);
    let bits = evaluation.loss / std::f64::consts::LN_2;
    assert!((evaluation.bits_per_byte.unwrap() - bits).abs() < 1e-9);
    let model = run.model(&device).unwrap();
    let decoder = model.decoder().unwrap();
    let generated = crate::generate(decoder, run.tokenizer().unwrap(), "the ", 30, &crate::Sampling::greedy(), &mut |_| ()).unwrap().text;
    assert_eq!(generated.chars().count(), 30);
    assert!(run.evaluate(&device, Split::Train, 10).is_err(), "that needs the data");
    assert_eq!(
        run.evaluate_text(&device, "dog", 9).unwrap_err().to_string(),
        "the vocabulary has no character 'd' (at character 0 of the text)"
    );
}

#[test]
fn a_run_without_a_checkpoint_has_no_model() {
    let _turn = alone();
    let place = tempfile::tempdir().unwrap();
    let _never_run = Trainer::create(&recall(), place.path(), &Device::flex()).unwrap();
    let error = Run::open(place.path()).unwrap().model(&Device::flex()).unwrap_err();
    assert_eq!(error.to_string(), format!("the run in {} has no checkpoint yet", place.path().display()));
}

#[test]
fn the_memory_meter_is_read_around_the_training_steps() {
    let _turn = alone();
    let place = tempfile::tempdir().unwrap();
    let trainer = Trainer::create(&recall(), place.path(), &Device::flex()).unwrap();
    let memory = Some(MemoryMeter { reset: || (), peak: || 1234 });
    assert_eq!(trainer.run(Hooks { memory, ..Hooks::default() }).unwrap().peak_bytes, Some(1234));
}

#[test]
fn log_lines_say_where_the_run_stands() {
    let _turn = alone();
    let place = tempfile::tempdir().unwrap();
    let mut lines = Vec::new();
    let mut observer = LogLines::new(&mut lines, Duration::ZERO, "softmax");
    let trainer = Trainer::create(&recall(), place.path(), &Device::flex()).unwrap();
    trainer.run(Hooks { observer: Some(&mut observer), ..Hooks::default() }).unwrap();
    let text = String::from_utf8(lines).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 1 + 12 + 3 + 1, "{text}");
    assert!(lines.iter().all(|line| line.starts_with("softmax: ")), "{text}");
    assert!(lines[0].starts_with("softmax: training ") && lines[0].contains("12 steps of 48 tokens"), "{text}");
    assert!(lines[1].starts_with("softmax: step 1/12, loss ") && lines[1].ends_with(" left"), "{text}");
    assert!(lines[6].starts_with("softmax: step 5/12, validation loss ") && lines[6].contains("accuracy"), "{text}");
    assert!(lines[16].starts_with("softmax: finished after step 12/12"), "{text}");
}
