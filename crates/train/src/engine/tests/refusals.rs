//! What is no run.

use super::*;

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
fn what_is_wrong_in_a_section_is_told_with_line_path_and_value() {
    let toml = text().to_toml().unwrap();
    let line = |part: &str| 1 + toml.lines().position(|line| line.contains(part)).unwrap();
    let message = |from: &str, to: &str| RunConfig::from_toml(&toml.replace(from, to)).unwrap_err().to_string();
    assert_eq!(
        message("d_model = 8", "d_model = \"wide\""),
        format!("line {}: `model.d_model`: invalid type: string \"wide\", expected usize", line("d_model"))
    );
    assert_eq!(
        message("heads = 2", "heads = -2"),
        format!("line {}: `model.mixers[0].heads`: invalid value: integer `-2`, expected usize", line("heads = 2"))
    );
    assert_eq!(message("d_ff = 16\n", ""), format!("line {}: `model`: missing field `d_ff`", line("[model]")));
    let unknown = message("d_model = 8", "d_model = 8\nwidth = 3");
    assert!(
        unknown.starts_with(&format!("line {}: `model.width`: unknown field `width`, expected one of", 1 + line("d_model"))),
        "{unknown}"
    );
    let unknown = message("kind = \"lm\"", "kind = \"lm\"\npairs = 3");
    assert!(unknown.starts_with(&format!("line {}: `task.pairs`: unknown field `pairs`", 1 + line("kind = \"lm\""))), "{unknown}");
    let unknown = message("kind = \"lm\"", "kind = \"ml\"");
    assert!(
        unknown.starts_with(&format!("line {}: `task`: unknown variant `ml`, expected one of `lm`, `recall`", line("[task]"))),
        "{unknown}"
    );
    let unknown = message("batch = 4", "batch = 4\nbach = 4");
    assert!(unknown.starts_with(&format!("line {}: `train.bach`: unknown field `bach`", 1 + line("batch = 4"))), "{unknown}");
}

#[test]
fn a_value_that_breaks_a_rule_is_found_in_its_file() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("run.toml");
    let error = |config: &RunConfig| {
        let toml = config.to_toml().unwrap();
        fs::write(&path, &toml).unwrap();
        let error = Trainer::create(config, &place.path().join("run"), &Device::flex()).err().unwrap();
        let message = error.in_file(&path, config).to_string();
        let (line, rest) = message.strip_prefix(&format!("{}:", path.display())).unwrap().split_once(": ").unwrap();
        (toml.lines().nth(line.parse::<usize>().unwrap() - 1).unwrap().to_owned(), rest.to_owned())
    };
    let mut config = recall();
    config.task = TaskConfig::Recall(RecallConfig { vocab: 9, pairs: 0 });
    assert_eq!(error(&config), ("pairs = 0".into(), "`task.pairs` must be at least 1, got 0".into()));
    let mut config = recall();
    decoder(&mut config).mixers.push(MixerConfig::named("flow", 3).unwrap());
    decoder(&mut config).layers = 2;
    assert_eq!(error(&config), ("heads = 3".into(), "flow: `heads` must be a divisor of d_model = 8, got 3".into()));
    let mut config = recall();
    decoder(&mut config).dropout = 2.0;
    assert_eq!(error(&config), ("dropout = 2.0".into(), "decoder: `dropout` must be in [0, 1), got 2".into()));
    let mut config = recall();
    config.optimizer.clip = -1.0;
    assert_eq!(error(&config), ("clip = -1.0".into(), "`optimizer.clip` must be at least 0, got -1".into()));
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
    assert_eq!(create(&config), "`model.vocab` must be 256, as in the task, or left out, got 7");
}

#[test]
fn a_context_longer_than_the_text_is_refused() {
    let place = tempfile::tempdir().unwrap();
    let mut config = text();
    decoder(&mut config).context = 10_000_000;
    let error = Trainer::create(&config, &place.path().join("run"), &Device::flex()).err().unwrap();
    assert!(error.to_string().ends_with("a context of 10000000 needs at least 10000001"), "{error}");
}
