//! What a run leaves in its folder, and what it reads there.

use super::*;

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
