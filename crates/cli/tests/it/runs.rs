use std::{
    process::{Child, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use super::{Place, text};

#[test]
fn training_prints_a_summary_and_leaves_a_folder() {
    let place = Place::with_text(4000);
    let output = place.run(&["train", "tiny.toml", "--out", "run"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let summary = text(&output.stdout);
    for part in ["status", "finished, step 12 of 12", "parameters", "perplexity", "bits per byte"] {
        assert!(summary.contains(part), "{part}: {summary}");
    }
    for file in ["config.toml", "metrics.jsonl", "checkpoints", "report.html"] {
        assert!(place.path("run").join(file).exists(), "{file}");
    }
    let report = place.read("run/report.html");
    assert!(report.starts_with("<!DOCTYPE html>"), "{}", &report[..40]);
}

#[test]
fn training_as_json_is_one_object_and_quiet_says_nothing_else() {
    let place = Place::with_text(4000);
    let output = place.run(&["train", "tiny.toml", "--json", "--quiet"]);
    assert_eq!(text(&output.stderr), "");
    let result: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(result["status"], "finished");
    assert_eq!(result["step"], 12);
    for key in ["params", "tokens", "seconds", "step_ms", "tokens_per_s", "peak_bytes", "val_loss", "perplexity", "bits_per_byte"] {
        assert!(result[key].as_f64().unwrap() > 0.0, "{key}: {result}");
    }
    assert!(result["peak_bytes"].as_f64().unwrap() < 1e9);
}

#[test]
fn a_run_can_be_trained_again_from_its_own_configuration() {
    let place = Place::with_text(4000);
    place.stdout(&["train", "tiny.toml", "--out", "one"]);
    place.stdout(&["train", "one/config.toml", "--out", "two"]);
    assert_eq!(losses(&place, "one"), losses(&place, "two"));
}

#[test]
fn another_mixer_takes_the_place_of_the_files() {
    let place = Place::with_text(4000);
    for kind in regard::MixerConfig::KINDS {
        let result = place.json(&["train", "tiny.toml", "--mixer", kind, "--set", "train.steps=2", "--json"]);
        assert_eq!(result["dir"], format!("runs/tiny-{kind}"));
        assert!(place.read(format!("runs/tiny-{kind}/config.toml")).contains(&format!("kind = \"{kind}\"")));
    }
}

#[test]
fn a_killed_run_resumes_with_the_losses_of_one_that_was_never_stopped() {
    let place = Place::with_text(4000);
    let steps = ["--set", "train.steps=400", "--set", "eval.every=20"];
    let start = |out: &str| {
        let args: Vec<&str> = ["train", "tiny.toml", "--out", out].into_iter().chain(steps).collect();
        place.command(&args).output().map(|o| assert!(o.status.success(), "{}", text(&o.stderr))).unwrap();
    };
    start("whole");

    let args: Vec<&str> = ["train", "tiny.toml", "--out", "killed"].into_iter().chain(steps).collect();
    let mut child = spawn(&place, &args);
    wait_for(&mut child, || place.path("killed/checkpoints/step-40").exists() || place.path("killed/checkpoints/step-60").exists());
    child.kill().unwrap(); // SIGKILL
    child.wait().unwrap();
    let stopped = losses(&place, "killed").len();
    assert!(stopped < 400, "it was killed too late to prove anything");

    let summary = place.stdout(&["train", "--resume", "killed"]);
    assert!(summary.contains("finished, step 400 of 400"), "{summary}");
    assert_eq!(losses(&place, "whole"), losses(&place, "killed"));
}

#[test]
#[cfg(unix)]
fn a_terminated_run_says_how_to_resume_and_does() {
    let place = Place::with_text(4000);
    let steps = ["--set", "train.steps=400", "--set", "eval.every=100"];
    for signal in ["TERM", "INT"] {
        let out = format!("run-{signal}");
        let args: Vec<&str> = ["train", "tiny.toml", "--json", "--out", &out].into_iter().chain(steps).collect();
        let mut child = spawn(&place, &args);
        wait_for(&mut child, || place.path(format!("{out}/metrics.jsonl")).exists() && losses(&place, &out).len() > 5);
        let kill = std::process::Command::new("kill").args([format!("-{signal}"), child.id().to_string()]).status().unwrap();
        assert!(kill.success());
        let output = child.wait_with_output().unwrap();
        let stderr = text(&output.stderr);
        assert_eq!(output.status.code(), Some(130), "{stderr}");
        assert!(stderr.contains("\nstopped at step "), "{stderr}");
        assert!(stderr.contains(&format!("hint: continue with `regard train --resume {out}`")), "{stderr}");
        let result: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(result["status"], "interrupted");

        place.stdout(&["train", "--resume", &out]);
        let args: Vec<&str> = ["train", "tiny.toml", "--out", "whole"].into_iter().chain(steps).collect();
        if !place.path("whole").exists() {
            place.stdout(&args);
        }
        assert_eq!(losses(&place, "whole"), losses(&place, &out), "after SIG{signal}");
    }
}

#[test]
fn a_trained_model_is_evaluated_and_writes_text() {
    let place = Place::with_text(4000);
    let trained = place.json(&["train", "tiny.toml", "--out", "run", "--json", "--set", "eval.tokens=1000000"]);
    std::fs::remove_file(place.path("tiny.toml")).unwrap();

    let result = place.json(&["eval", "run", "--json"]);
    let difference = result["loss"].as_f64().unwrap() - trained["val_loss"].as_f64().unwrap();
    assert!(difference.abs() < 1e-5, "{result} {trained}");
    let facts = place.stdout(&["eval", "run", "--split", "train", "--tokens", "100"]);
    assert!(["perplexity", "time per token", "peak memory"].iter().all(|part| facts.contains(part)), "{facts}");
    assert!(["token_seconds", "peak_bytes"].iter().all(|key| result[key].as_f64().unwrap() > 0.0), "{result}");
    place.write("other.txt", "the dog sat on the cat. ".repeat(20));
    assert!(place.json(&["eval", "run", "--data", "other.txt", "--json"])["bits_per_byte"].as_f64().unwrap() > 0.0);

    let write = ["generate", "run", "--prompt", "the cat", "--tokens", "30", "--seed", "1"];
    let once = place.stdout(&write);
    assert!(once.starts_with("the cat") && once.len() > "the cat".len() + 10, "{once:?}");
    assert_eq!(once, place.stdout(&write), "the same seed writes the same text");
    let object = place.json(&[write.as_slice(), &["--json"]].concat());
    assert_eq!(object["prompt"], "the cat");
    assert_eq!(format!("the cat{}\n", object["text"].as_str().unwrap()), once);
    for key in ["prompt_tokens", "prompt_seconds", "token_seconds", "state_bytes", "peak_bytes"] {
        assert!(object[key].as_f64().unwrap() > 0.0, "{key}: {object}");
    }
    let cost = text(&place.run(&write).stderr);
    assert!(["per token", "tokens/s", "state", "peak memory"].iter().all(|part| cost.contains(part)), "{cost}");
}

fn spawn(place: &Place, args: &[&str]) -> Child {
    std::process::Command::new(assert_cmd::cargo::cargo_bin!("regard"))
        .args(args)
        .current_dir(place.path(""))
        .env_remove("RUST_LOG")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

fn wait_for(child: &mut Child, ready: impl Fn() -> bool) {
    let start = Instant::now();
    while !ready() {
        assert!(child.try_wait().unwrap().is_none(), "it ended before it could be stopped");
        assert!(start.elapsed() < Duration::from_mins(2), "nothing happened for two minutes");
        sleep(Duration::from_millis(2));
    }
}

/// The losses of all complete lines of a run's metrics: step and bits.
fn losses(place: &Place, run: &str) -> Vec<(u64, u64)> {
    place
        .read(format!("{run}/metrics.jsonl"))
        .split_inclusive('\n')
        .filter(|line| line.ends_with('\n'))
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap())
        .filter(|record| record["kind"] == "step")
        .map(|record| (record["step"].as_u64().unwrap(), record["loss"].as_f64().unwrap().to_bits()))
        .collect()
}
