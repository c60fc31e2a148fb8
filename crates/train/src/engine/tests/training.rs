//! What happens in the steps of a run.

use super::*;

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
