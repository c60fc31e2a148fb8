//! Runs that stop and go on.

use super::*;

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
