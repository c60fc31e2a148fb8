use super::{Place, text};

/// A comparison of seconds: a short text, a small model, few steps, no measurement of lengths.
fn quick(place: &Place) {
    let config = r#"
context = 16
batch = 2
seeds = [1]
evaluations = 2
eval_tokens = 200
budget = { steps = 6 }
size = { d_model = 32, layers = 1, heads = 2 }
task = { kind = "lm" }
data = { source = "text.txt" }
scaling = { seconds = 0.0 }
sample = { tokens = 10 }
candidates = [{ name = "softmax", mixers = [{ kind = "softmax", heads = 2 }] }]
"#;
    place.write("quick.toml", config);
}

#[test]
fn a_comparison_as_json_has_every_number_of_every_candidate() {
    let place = Place::with_text(6000);
    quick(&place);
    let mixers = regard::MixerConfig::KINDS.join(",");
    let result = place.json(&["compare", "--config", "quick.toml", "--mixers", &mixers, "--out", "run", "--json", "--quiet"]);
    let candidates = result["candidates"].as_array().unwrap();
    let names: Vec<_> = candidates.iter().map(|c| c["mixer"].as_str().unwrap()).collect();
    assert_eq!(names, regard::MixerConfig::KINDS);
    let params = candidates[0]["params"].as_f64().unwrap();
    for candidate in candidates {
        for key in ["params", "val_loss", "perplexity", "bits_per_byte", "step_ms", "tokens_per_s", "peak_bytes"] {
            assert!(candidate[key].as_f64().unwrap() > 0.0, "{key}: {candidate}");
        }
        assert_eq!(candidate["seeds"].as_array().unwrap().len(), 1);
        assert!((candidate["params"].as_f64().unwrap() / params - 1.0).abs() < 0.02, "equal weights: {candidate}");
    }
    for file in ["compare.toml", "comparison.json", "report.html", "runs"] {
        assert!(place.path("run").join(file).exists(), "{file}");
    }
}

#[test]
fn a_comparison_is_a_table_on_stdout_and_progress_on_stderr() {
    let place = Place::with_text(6000);
    quick(&place);
    let output = place.run(&["compare", "--config", "quick.toml", "--seeds", "2"]);
    let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{stderr}");
    assert_eq!(stdout.lines().count(), 3, "{stdout}");
    assert!(stdout.lines().nth(2).unwrap().starts_with("softmax"), "{stdout}");
    assert!(!stdout.contains('\x1b') && !stderr.contains('\x1b'), "no colours in pipes");
    assert!(stderr.contains("comparing in runs/compare-1") && stderr.contains("report: runs/compare-1/report.html"), "{stderr}");
    assert!(stderr.contains("(seed 2, run 2/2)"), "{stderr}");

    // The next one takes the next folder, and its own compare.toml can be run again.
    place.stdout(&["compare", "--config", "runs/compare-1/compare.toml", "--quiet"]);
    assert!(place.path("runs/compare-2/report.html").exists());
}

#[test]
fn a_finished_comparison_resumes_without_training_again() {
    let place = Place::with_text(6000);
    quick(&place);
    let once = place.json(&["compare", "--config", "quick.toml", "--json"]);
    let output = place.run(&["compare", "--resume", "--json", "--budget", "steps=99"]);
    let again: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(once["candidates"], again["candidates"]);
    let stderr = text(&output.stderr);
    assert!(stderr.contains("was finished before"), "{stderr}");
    assert!(stderr.contains("other settings are left aside"), "{stderr}");
}

#[test]
fn an_interrupted_comparison_says_how_to_resume() {
    let place = Place::with_text(6000);
    quick(&place);
    let mut child = std::process::Command::new(assert_cmd::cargo::cargo_bin!("regard"))
        .args(["compare", "--config", "quick.toml", "--budget", "steps=100000"])
        .current_dir(place.path(""))
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    while !place.path("runs/compare-1/runs/softmax-seed1/metrics.jsonl").exists() {
        assert!(child.try_wait().unwrap().is_none(), "it ended by itself");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    assert!(std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    let output = child.wait_with_output().unwrap();
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(130), "{stderr}");
    assert!(stderr.contains("hint: continue with `regard compare --resume --out runs/compare-1`"), "{stderr}");
}

#[test]
fn a_folder_with_a_comparison_is_not_overwritten() {
    let place = Place::with_text(6000);
    quick(&place);
    place.stdout(&["compare", "--config", "quick.toml", "--out", "run"]);
    let failure = place.failure(&["compare", "--config", "quick.toml", "--out", "run"]);
    assert!(failure.error.contains("run already holds a comparison"), "{failure:?}");
    assert!(failure.hint.contains("--resume"), "{failure:?}");
    let failure = place.failure(&["compare", "--resume", "--out", "none"]);
    assert!(failure.error.contains("none"), "{failure:?}");
    let failure = Place::new().failure(&["compare", "--resume"]);
    assert!(failure.hint.contains("--out"), "{failure:?}");
}

#[test]
fn settings_that_cannot_be_read_say_what_can() {
    let place = Place::new();
    for (args, part) in [
        (["--budget", "soon"], "`2m`"),
        (["--size", "large"], "`tiny`, `small`"),
        (["--task", "chess"], "chess"),
        (["--seeds", "0"], "1..=1000"),
    ] {
        let failure = place.failure(&["compare", args[0], args[1]]);
        assert_eq!(failure.code, 2);
        assert!(failure.error.contains(part), "{failure:?}");
    }
    for task in ["recall", "copy"] {
        let failure = place.failure(&["compare", "--task", task, "--data", "text.txt"]);
        assert!(failure.error.contains("--data"), "{failure:?}");
    }
}

#[test]
fn a_bench_measures_every_operation_at_every_length() {
    let place = Place::new();
    let args = ["bench", "--lengths", "32,64", "--heads", "1", "--width", "8", "--seconds", "0.01"];
    let bench = place.json(&[&args[..], &["--json", "--out", "bench.html"]].concat());
    let rows = bench["rows"].as_array().unwrap();
    assert_eq!(rows.len(), 4 * 2 * 2);
    for row in rows {
        for key in ["seconds", "bytes", "copy_share", "matmul_share"] {
            assert!(row[key].as_f64().unwrap() > 0.0, "{key}: {row}");
        }
    }
    assert!(place.read("bench.html").starts_with("<!DOCTYPE html>"));
    let table = place.stdout(&[&args[..], &["--mixers", "softmax", "--passes", "forward"]].concat());
    assert_eq!(table.lines().count(), 4, "{table}");

    let failure = place.failure(&["bench", "--mixers", "sofmax"]);
    assert!(failure.hint.contains("did you mean `softmax`?"), "{failure:?}");
    let failure = place.failure(&["bench", "--lengths", "0"]);
    assert!(failure.error.contains("lengths"), "{failure:?}");
}
