use std::{
    cell::Cell,
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use burn::tensor::Device;
use regard::MixerConfig;
use regard_train::{Event, OptimizerConfig, data::DataConfig};

use super::*;
use crate::Error;

/// A folder that is removed in the end.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("regard-compare-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A comparison of seconds: all kinds, few steps, a text of one sentence.
fn config(folder: &Path) -> CompareConfig {
    let text = folder.join("text.txt");
    fs::write(&text, "The quick brown fox jumps over the lazy dog, <again> & again.\n".repeat(60)).unwrap();
    let size = Size { d_model: 32, layers: 1, heads: 2 };
    CompareConfig {
        context: 32,
        batch: 2,
        evaluations: 2,
        eval_tokens: 64,
        budget: Budget::Steps(4),
        size,
        data: Some(DataConfig::new(text.to_str().unwrap())),
        scaling: ScalingConfig { seconds: Some(0.01), shortest: 16, longest: 64, batch: 1 },
        sample: SampleConfig { tokens: 8, ..SampleConfig::default() },
        candidates: Candidate::all(size.heads),
        ..CompareConfig::lm()
    }
}

fn context() -> Context<'static> {
    Context { command: Some("regard compare --data <text>".into()), ..Context::new(Device::flex()) }
}

/// Remembers what happened, and stops when a run has taken so many logged steps.
#[derive(Default)]
struct Spy {
    finished: usize,
    skipped: usize,
    steps: usize,
    stop_at: Option<usize>,
    stop: Cell<bool>,
}

impl CompareObserver for Spy {
    fn event(&mut self, event: &CompareEvent<'_>) {
        match event {
            CompareEvent::RunFinished { .. } => self.finished += 1,
            CompareEvent::RunSkipped { .. } => self.skipped += 1,
            CompareEvent::Training(Event::Step(_)) => {
                self.steps += 1;
                self.stop.set(Some(self.steps) == self.stop_at);
            }
            _ => {}
        }
    }

    fn should_stop(&self) -> bool {
        self.stop.get()
    }
}

/// Opening and closing tags match, and attributes are quoted: well-formed but for what HTML leaves open.
fn assert_well_formed(html: &str) {
    const VOID: [&str; 3] = ["meta", "br", "hr"];
    let (_, mut rest) = html.split_once("<!DOCTYPE html>").expect("a doctype");
    let mut open = Vec::new();
    while let Some(start) = rest.find('<') {
        let end = start + rest[start..].find('>').expect("a closing bracket");
        let tag = &rest[start + 1..end];
        rest = &rest[end + 1..];
        if let Some(name) = tag.strip_prefix('/') {
            assert_eq!(open.pop(), Some(name), "closed before its time");
            continue;
        }
        assert_eq!(tag.matches('"').count() % 2, 0, "quotes of <{tag}>");
        let name = tag.split_whitespace().next().expect("a name");
        if name == "style" {
            rest = &rest[rest.find("</style>").expect("the end of the style sheet")..];
        }
        if !VOID.contains(&name) && !tag.ends_with('/') {
            open.push(name);
        }
    }
    assert!(open.is_empty(), "left open: {open:?}");
}

#[test]
fn a_comparison_leaves_a_folder_that_explains_itself() {
    let folder = Folder::new("whole");
    let (config, out) = (config(&folder.0), folder.0.join("out"));
    let comparison = compare(&config, &out, context()).unwrap();
    assert!(comparison.complete);
    assert_eq!(comparison.candidates.len(), MixerConfig::KINDS.len());

    let json: serde_json::Value = serde_json::from_str(&fs::read_to_string(out.join("comparison.json")).unwrap()).unwrap();
    for candidate in json["candidates"].as_array().unwrap() {
        for key in
            ["mixer", "params", "val_loss", "perplexity", "bits_per_byte", "step_ms", "tokens_per_s", "seeds", "state_bytes", "sample"]
        {
            assert!(!candidate[key].is_null(), "{key} of {candidate}");
        }
        assert!(candidate.get("peak_bytes").is_some(), "present though nothing measures memory here");
        assert!((candidate["val_loss"].as_f64().unwrap().exp() - candidate["perplexity"].as_f64().unwrap()).abs() < 1e-9);
    }

    for plot in ["validation-loss-against-tokens", "validation-loss-against-time", "time-against-length"] {
        assert!(fs::read_to_string(out.join(format!("plots/{plot}.svg"))).unwrap().contains("softmax"), "{plot}");
    }

    let html = fs::read_to_string(out.join("report.html")).unwrap();
    assert_well_formed(&html);
    for resource in ["http://", "https://", "src=", "<link", "@import", "url("] {
        assert!(!html.contains(resource), "the page refers to something outside: {resource}");
    }
    for kind in MixerConfig::KINDS {
        assert!(html.contains(&format!("<td>{kind}")), "{kind} is not in the table");
        let page = fs::read_to_string(out.join(format!("runs/{kind}-seed1/report.html"))).unwrap();
        assert_well_formed(&page);
        assert!(page.contains("Loss against tokens"));
    }
    assert!(html.contains("regard compare --data &lt;text&gt;"), "the command");

    let again = CompareConfig::load(&out.join("compare.toml")).unwrap();
    assert_eq!(again, CompareConfig { steps: Some(4), ..config });
    assert!(matches!(compare(&again, &out, context()), Err(Error::Exists { .. })));
}

#[test]
fn an_interrupted_comparison_goes_on_without_repeating_finished_runs() {
    let folder = Folder::new("resume");
    let mut config = config(&folder.0);
    config.seeds = vec![1, 2];
    config.candidates.truncate(1);
    let whole = compare(&config, &folder.0.join("whole"), context()).unwrap();

    let out = folder.0.join("out");
    let mut spy = Spy { stop_at: Some(6), ..Spy::default() };
    let error = compare(&config, &out, Context { observer: Some(&mut spy), ..context() }).unwrap_err();
    assert!(matches!(error, Error::Interrupted { .. }), "{error}");
    assert!(error.hint().unwrap().contains("--resume"));
    assert_eq!(spy.finished, 1);
    assert!(fs::read_to_string(out.join("report.html")).unwrap().contains("Not finished yet"));

    let mut spy = Spy::default();
    let resumed = resume(&out, Context { observer: Some(&mut spy), ..context() }).unwrap();
    assert_eq!((spy.skipped, spy.finished), (1, 1));
    let losses = |c: &Comparison| c.candidates[0].seeds.iter().map(|s| s.evaluation.as_ref().unwrap().loss).collect::<Vec<_>>();
    assert_eq!(losses(&resumed), losses(&whole), "as if it had never been interrupted");

    let mut spy = Spy::default();
    resume(&out, Context { observer: Some(&mut spy), ..context() }).unwrap();
    assert_eq!((spy.skipped, spy.steps), (2, 0));
}

#[test]
fn a_candidate_that_fails_is_reported_and_the_others_go_on() {
    let folder = Folder::new("failed");
    let mut config = config(&folder.0);
    config.candidates.truncate(1);
    config.optimizer = OptimizerConfig { rate: 1e38, final_rate: 0.0, warmup: 0, clip: 0.0, ..config.optimizer };
    let out = folder.0.join("out");
    let comparison = compare(&config, &out, context()).unwrap();
    assert!(comparison.complete);
    let candidate = &comparison.candidates[0];
    assert!(candidate.failed.as_ref().unwrap().contains("at step"), "{candidate:?}");
    assert_eq!((candidate.val_loss, candidate.perplexity), (None, None));
    let html = fs::read_to_string(out.join("report.html")).unwrap();
    assert_well_formed(&html);
    assert!(html.contains("failed: "));
    assert!(comparison.table().rows[0].contains(&"failed".to_owned()));
}

#[test]
fn recall_is_judged_by_accuracy() {
    let folder = Folder::new("recall");
    let config = CompareConfig { data: None, task: CompareConfig::recall().task, context: 64, ..config(&folder.0) };
    let comparison = compare(&config, &folder.0.join("out"), context()).unwrap();
    assert!(comparison.by_accuracy());
    assert!(comparison.candidates.iter().all(|c| c.accuracy.is_some() && c.bits_per_byte.is_none() && c.sample.is_none()));
    assert!(fs::read_to_string(folder.0.join("out/report.html")).unwrap().contains("Accuracy against tokens"));
}

#[test]
fn a_time_budget_becomes_the_same_steps_for_all() {
    let folder = Folder::new("seconds");
    let config = CompareConfig {
        budget: Budget::Seconds(3.0),
        scaling: ScalingConfig { seconds: None, ..config(&folder.0).scaling },
        ..config(&folder.0)
    };
    let out = folder.0.join("out");
    let comparison = compare(&config, &out, context()).unwrap();
    assert!(comparison.steps >= 2);
    assert_eq!(CompareConfig::load(&out.join("compare.toml")).unwrap().steps, Some(comparison.steps));
    let scaling = comparison.scaling.unwrap();
    let lengths: BTreeSet<_> = scaling.curves.iter().flat_map(|c| c.points.iter().map(|p| p.tokens)).collect();
    assert!(lengths.contains(&16));
}

#[test]
fn wrong_configurations_are_errors_that_name_the_key() {
    let folder = Folder::new("wrong");
    let base = config(&folder.0);
    let cases: [(CompareConfig, &str); 6] = [
        (CompareConfig { seeds: vec![], ..base.clone() }, "`seeds` must be at least 1"),
        (CompareConfig { seeds: vec![3, 3], ..base.clone() }, "`seeds` must be different from one another, got 3"),
        (CompareConfig { candidates: vec![], ..base.clone() }, "`candidates` must be at least 1"),
        (CompareConfig { candidates: [base.candidates.clone(), base.candidates.clone()].concat(), ..base.clone() }, "of different names"),
        (CompareConfig { context: 0, ..base.clone() }, "`context` must be at least 1"),
        (CompareConfig { sample: SampleConfig { temperature: -1.0, ..SampleConfig::default() }, ..base.clone() }, "sample.temperature"),
    ];
    for (config, want) in cases {
        let error = compare(&config, &folder.0.join("out"), context()).unwrap_err().to_string();
        assert!(error.contains(want), "{error}");
    }
    let toml = base.to_toml().unwrap().replace("eval_tokens", "eval_token");
    let error = CompareConfig::from_toml(&toml).unwrap_err();
    assert_eq!(error.hint().unwrap(), "did you mean `eval_tokens`?");
    assert!(matches!(resume(&folder.0.join("nothing"), context()), Err(Error::NotAComparison { .. })));
}
