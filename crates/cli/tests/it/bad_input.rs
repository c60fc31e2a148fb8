use std::{fs, path::Path};

use super::{Failure, Place, TINY};

#[test]
fn an_unknown_mixer_is_answered_with_the_one_meant() {
    let place = Place::with_text(4000);
    let failure = place.failure(&["compare", "--mixers", "softmax,sofmax"]);
    assert!(failure.error.contains("sofmax"), "{failure:?}");
    assert!(failure.hint.contains("did you mean `softmax`?"), "{failure:?}");

    place.write("tiny.toml", TINY.replace("\"softmax\"", "\"sofmax\""));
    let failure = place.failure(&["train", "tiny.toml"]);
    assert!(failure.error.contains("tiny.toml") && failure.stderr.contains("sofmax"), "{failure:?}");
    assert!(failure.hint.contains("did you mean `softmax`?"), "{failure:?}");

    let failure = place.failure(&["train", "tiny.toml", "--mixer", "sofmax"]);
    assert_eq!((failure.code, failure.hint.contains("did you mean `softmax`?")), (2, true), "{failure:?}");
}

#[test]
fn an_unknown_key_is_answered_with_the_one_meant() {
    let place = Place::with_text(4000);
    place.write("tiny.toml", TINY.replace("warmup", "warmpu"));
    let failure = place.failure(&["train", "tiny.toml"]);
    assert!(failure.error.contains("tiny.toml") && failure.stderr.contains("unknown field `warmpu`"), "{failure:?}");
    assert!(failure.hint.contains("did you mean `warmup`?"), "{failure:?}");

    place.write("tiny.toml", TINY);
    let failure = place.failure(&["train", "tiny.toml", "--set", "train.stps=3"]);
    assert!(failure.stderr.contains("unknown field `stps`"), "{failure:?}");
    assert!(failure.hint.contains("did you mean `steps`?"), "{failure:?}");
    let failure = place.failure(&["train", "tiny.toml", "--set", "model.mixers=[{kind=\"softmax\",heds=2}]"]);
    assert!(failure.stderr.contains("unknown field `heds`"), "{failure:?}");
}

#[test]
fn what_is_wrong_in_a_file_is_told_with_its_line() {
    let place = Place::with_text(4000);
    let line = |text: &str, part: &str| 1 + text.lines().position(|line| line.contains(part)).unwrap();
    for (from, to, message) in [
        ("d_ff = 32", "d_ff = true", "`model.d_ff`: invalid type: boolean `true`, expected usize"),
        ("heads = 2", "heads = 3", "softmax: `heads` must be a divisor of d_model = 16, got 3"),
        ("kind = \"lm\"", "kind = \"recall\"\npairs = 0", "`task.pairs`"),
        ("warmup = 2", "warmup = 2\nclip = -1", "`optimizer.clip` must be at least 0, got -1"),
    ] {
        let mut text = TINY.replace(from, to);
        if message == "`task.pairs`" {
            text = text.replace("source = \"text.txt\"\ntokenizer = \"byte\"", "").replace("[data]", "");
        }
        place.write("tiny.toml", &text);
        let failure = place.failure(&["train", "tiny.toml"]);
        let at = line(&text, to.lines().last().unwrap());
        assert!(failure.error.starts_with(&format!("tiny.toml:{at}: {message}")), "{failure:?}");
    }
    place.write("tiny.toml", TINY);
    let failure = place.failure(&["train", "tiny.toml", "--set", "model.d_ff=0"]);
    assert_eq!(failure.error, "tiny.toml as overridden: mlp: `d_ff` must be at least 1, got 0");
    // The file of a run that somebody has changed.
    place.stdout(&["train", "tiny.toml", "--out", "run"]);
    let text = place.read("run/config.toml").replace("d_ff = 32", "d_ff = 0");
    place.write("run/config.toml", &text);
    for command in [&["eval", "run"][..], &["generate", "run"], &["train", "--resume", "run"]] {
        let failure = place.failure(command);
        assert!(failure.error.starts_with("run/config.toml:") || failure.error.contains("checkpoint"), "{command:?}: {failure:?}");
    }
}

#[test]
fn a_missing_configuration_is_named() {
    let failure = Place::new().failure(&["train", "none.toml"]);
    assert!(failure.error.contains("none.toml"), "{failure:?}");
}

#[test]
fn missing_data_is_named() {
    let place = Place::with_text(4000);
    fs::remove_file(place.path("text.txt")).unwrap();
    for args in [&["train", "tiny.toml"][..], &["compare", "--data", "text.txt"]] {
        let failure = place.failure(args);
        assert!(failure.error.contains("text.txt"), "{failure:?}");
    }
    let failure = place.failure(&["compare", "--data", "tinyshakespear"]);
    assert!(failure.hint.contains("did you mean `tinyshakespeare`?"), "{failure:?}");
    let failure = place.failure(&["compare", "--data", "wikitext-2"]);
    assert!(failure.error.contains("wikitext-2") && failure.hint.contains("REGARD_DATA"), "{failure:?}");
    assert!(!place.path("runs").exists() || folders(&place.path("runs")).is_empty(), "a failure leaves no folder behind");
}

#[test]
fn empty_data_is_named() {
    let place = Place::with_text(4000);
    place.write("text.txt", "");
    for args in [&["train", "tiny.toml"][..], &["compare", "--data", "text.txt"]] {
        let failure = place.failure(args);
        assert!(failure.error.contains("text.txt") && failure.error.contains("no text"), "{failure:?}");
    }
}

#[test]
fn text_that_is_not_utf8_is_named_with_the_place() {
    let place = Place::with_text(4000);
    place.write("text.txt", [b"abc".as_slice(), &[0xff, 0xfe], b"def"].concat());
    let failure = place.failure(&["train", "tiny.toml"]);
    assert!(failure.error.contains("text.txt") && failure.error.contains("UTF-8") && failure.error.contains('3'), "{failure:?}");
}

#[test]
fn a_context_longer_than_the_data_is_an_error_with_both_lengths() {
    let place = Place::with_text(300);
    let failure = place.failure(&["train", "tiny.toml", "--set", "model.context=1000"]);
    assert!(failure.error.contains("1000") && failure.error.contains("270"), "{failure:?}");
    let failure = place.failure(&["compare", "--data", "text.txt", "--context", "1000"]);
    assert!(failure.error.contains("1000"), "{failure:?}");
}

#[test]
fn heads_that_do_not_divide_the_width_are_an_error_with_both_numbers() {
    let place = Place::with_text(4000);
    let failure = place.failure(&["train", "tiny.toml", "--set", "model.d_model=15"]);
    assert!(failure.error.contains("`heads`") && failure.error.contains("15") && failure.error.contains('2'), "{failure:?}");
    let failure = place.failure(&["compare", "--data", "text.txt", "--size", "D=16,L=1,H=3"]);
    assert!(failure.error.contains("`heads`") && failure.error.contains("16") && failure.error.contains('3'), "{failure:?}");
}

#[test]
fn a_gpu_that_is_not_there_is_an_error_that_says_what_to_do() {
    let place = Place::with_text(4000);
    for args in [&["train", "tiny.toml", "--device", "cuda"][..], &["compare", "--device", "cuda"], &["doctor", "--device", "cuda"]] {
        if cfg!(feature = "cuda") {
            eprintln!("skipped: this build has cuda");
            return;
        }
        let failure = place.failure(args);
        assert_eq!(failure.error, "device cuda: this build of regard has no cuda support");
        assert!(failure.hint.contains("--features cuda"), "{failure:?}");
    }
    let failure = place.failure(&["doctor", "--device", "gpu"]);
    assert_eq!(failure.code, 2);
    assert!(failure.error.contains("cpu, cuda, vulkan, metal, rocm"), "{failure:?}");
}

#[test]
fn a_loss_that_is_not_a_number_stops_the_run_and_keeps_the_last_good_checkpoint() {
    let place = Place::with_text(4000);
    place.stdout(&["train", "tiny.toml", "--out", "good", "--set", "train.steps=4"]);
    assert!(newest(&place.path("good")).is_some());
    let failure = place.failure(&[
        "train",
        "tiny.toml",
        "--out",
        "bad",
        "--set",
        "optimizer.rate=1e30",
        "--set",
        "optimizer.warmup=8",
        "--set",
        "train.steps=40",
        "--set",
        "eval.every=1",
    ]);
    assert!(failure.error.contains("at step "), "{failure:?}");
    assert!(failure.error.contains("NaN") || failure.error.contains("inf"), "{failure:?}");
    let kept = newest(&place.path("bad")).expect("a checkpoint from before");
    assert!(failure.hint.contains(kept.file_name().unwrap().to_str().unwrap()), "{failure:?}");
    place.stdout(&["eval", "bad", "--tokens", "50"]);
}

#[test]
fn a_damaged_or_foreign_checkpoint_is_an_error() {
    let place = Place::with_text(4000);
    place.stdout(&["train", "tiny.toml", "--out", "run"]);
    place.stdout(&["train", "tiny.toml", "--out", "wide", "--set", "model.d_model=32"]);

    let newest_of = |run: &str| newest(&place.path(run)).unwrap();
    let weights = largest(&newest_of("run"));
    let whole = fs::read(&weights).unwrap();
    fs::copy(largest(&newest_of("wide")), &weights).unwrap();
    for command in [&["eval", "run"][..], &["generate", "run"], &["train", "--resume", "run"]] {
        let failure = place.failure(command);
        assert!(failure.error.contains("checkpoint"), "{command:?}: {failure:?}");
    }
    fs::write(&weights, &whole[..whole.len() / 2]).unwrap();
    for command in [&["eval", "run"][..], &["generate", "run"], &["train", "--resume", "run"]] {
        let failure = place.failure(command);
        assert!(failure.error.contains("checkpoint"), "{command:?}: {failure:?}");
    }
}

#[test]
fn text_and_tokens_that_a_trained_model_does_not_know_are_errors() {
    let place = Place::with_text(4000);
    place.stdout(&["train", "tiny.toml", "--out", "run", "--set", "data.tokenizer=char"]);
    let failure = place.failure(&["generate", "run", "--prompt", "the CAT"]);
    assert!(failure.error.contains("'C'"), "{failure:?}");
    place.write("other.txt", "zebra ".repeat(20));
    let failure = place.failure(&["eval", "run", "--data", "other.txt"]);
    assert!(failure.error.contains("'z'"), "{failure:?}");

    // The data has changed since the run was started.
    let text = place.read("text.txt");
    place.write("text.txt", format!("{text} A new character!"));
    let failure = place.failure(&["eval", "run"]);
    assert!(failure.error.contains("'A'"), "{failure:?}");
    let failure = place.failure(&["train", "--resume", "run"]);
    assert!(failure.error.contains("the data has changed"), "{failure:?}");
    // Fewer characters, in other places: the numbers are still those that the model was trained on.
    place.write("text.txt", "the cat sat on the mat. ".repeat(100));
    place.stdout(&["eval", "run"]);
    place.write("text.txt", text);

    // The tokeniser of another run.
    place.stdout(&["train", "tiny.toml", "--out", "bytes"]);
    fs::copy(place.path("bytes/tokenizer.json"), place.path("run/tokenizer.json")).unwrap();
    for command in [&["eval", "run"][..], &["eval", "run", "--data", "other.txt"], &["generate", "run"], &["train", "--resume", "run"]] {
        let failure = place.failure(command);
        assert!(failure.error.contains("tokenizer.json: it has 256 tokens"), "{command:?}: {failure:?}");
    }
}

#[test]
fn a_folder_that_is_no_run_is_an_error() {
    let place = Place::with_text(4000);
    fs::create_dir(place.path("empty")).unwrap();
    for command in [&["eval", "empty"][..], &["generate", "empty"], &["train", "--resume", "empty"], &["eval", "none"]] {
        let failure = place.failure(command);
        assert!(failure.error.contains(command.last().unwrap()), "{command:?}: {failure:?}");
    }
}

#[test]
fn a_run_is_not_overwritten() {
    let place = Place::with_text(4000);
    place.stdout(&["train", "tiny.toml", "--set", "train.steps=2"]);
    let failure = place.failure(&["train", "tiny.toml"]);
    assert!(failure.error.contains("runs/tiny already holds a run"), "{failure:?}");
    assert!(failure.hint.contains("--resume"), "{failure:?}");
}

#[test]
#[cfg(unix)]
fn a_full_disk_at_a_checkpoint_is_an_error_and_the_earlier_checkpoint_survives() {
    let place = Place::with_text(4000);
    place.stdout(&["train", "tiny.toml", "--out", "run"]);
    let config = place.read("run/config.toml").replace("steps = 12", "steps = 24");
    assert!(config.contains("steps = 24"));
    place.write("run/config.toml", config);
    let before = newest(&place.path("run")).unwrap();
    // The limit counts blocks of 1024 bytes and its signal must not kill the process: then a write fails as on a full disk.
    let script = format!("trap '' XFSZ; ulimit -f 4; exec '{}' train --resume run", assert_cmd::cargo::cargo_bin!("regard").display());
    let output = std::process::Command::new("bash").args(["-c", &script]).current_dir(place.path("")).output().unwrap();
    let failure = Failure::of(&output);
    assert!(failure.error.contains("cannot write") && failure.error.contains("run/"), "{failure:?}");
    assert!(!failure.stderr.contains("panicked"));
    assert!(before.exists(), "the earlier checkpoint survives");
    place.stdout(&["train", "--resume", "run"]);
}

fn folders(dir: &Path) -> Vec<std::path::PathBuf> {
    fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()).collect()
}

/// The checkpoint with the highest step in a run's folder.
fn newest(run: &Path) -> Option<std::path::PathBuf> {
    let step = |path: &Path| path.file_name()?.to_str()?.strip_prefix("step-")?.parse::<usize>().ok();
    folders(&run.join("checkpoints")).into_iter().filter(|p| step(p).is_some()).max_by_key(|p| step(p))
}

/// The largest file of a folder: the weights of a checkpoint.
fn largest(dir: &Path) -> std::path::PathBuf {
    folders(dir).into_iter().max_by_key(|p| fs::metadata(p).unwrap().len()).unwrap()
}
