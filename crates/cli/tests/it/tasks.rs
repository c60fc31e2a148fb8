//! Tasks that are no texts: lists, images, series.

use std::fs;

use super::Place;

const LISTS: &str = r#"
[task]
kind = "listops"
min_length = 4
max_length = 24
depth = 3
arguments = 4

[model]
kind = "encoder"
d_model = 8
layers = 1
mixers = [{ kind = "flow", heads = 2 }]
d_ff = 16

[train]
batch = 4
steps = 4
log_every = 1

[eval]
every = 2
tokens = 240
"#;

/// A folder of 40 images of 4 × 4 pixels in two classes, as MNIST keeps them, and a series of three channels.
fn with_data() -> Place {
    let place = Place::new();
    fs::create_dir(place.path("images")).unwrap();
    let header = |sizes: &[u32]| {
        [(0x0800 + sizes.len() as u32).to_be_bytes().to_vec(), sizes.iter().flat_map(|s| s.to_be_bytes()).collect()].concat()
    };
    let pixels: Vec<u8> = (0..40_u8).flat_map(|n| [if n % 2 == 0 { 20 } else { 230 }; 16]).collect();
    let labels: Vec<u8> = (0..40).map(|n| n % 2).collect();
    for name in ["train", "t10k"] {
        place.write(&format!("images/{name}-images-idx3-ubyte"), [header(&[40, 4, 4]), pixels.clone()].concat());
        place.write(&format!("images/{name}-labels-idx1-ubyte"), [header(&[40]), labels.clone()].concat());
    }
    let rows: String = (0..200).map(|n| format!("day {n},{},{},{}\n", n % 5, n % 7, n)).collect();
    place.write("series.csv", format!("date,a,b,c\n{rows}"));
    place.write("lists.toml", LISTS);
    place
}

/// `lists.toml` with another task.
fn of_task(place: &Place, name: &str, task: &str) {
    let (_, rest) = LISTS.split_once("[model]").unwrap();
    place.write(name, format!("{task}\n[model]{rest}"));
}

#[test]
fn lists_are_trained_resumed_and_evaluated() {
    let place = with_data();
    let json = place.json(&["train", "lists.toml", "--out", "run", "--json"]);
    assert!(json["accuracy"].as_f64().is_some_and(|a| (0.0..=1.0).contains(&a)), "{json}");
    assert!(json["perplexity"].is_null() && json["val_loss"].is_number());
    assert!(place.read("run/config.toml").contains("vocab = 16"), "the run's file is complete");
    let text = place.stdout(&["eval", "run", "--split", "test", "--tokens", "480"]);
    assert!(text.contains("accuracy") && text.contains("nats per example") && text.contains("20 targets"), "{text}");
    assert!(place.read("run/report.html").contains("nested lists"));
    let failure = place.failure(&["generate", "run", "--prompt", "[MAX"]);
    assert_eq!(failure.error, "run: a model of this task writes no text", "{failure:?}");
}

#[test]
fn a_mixer_that_is_causal_only_says_so_and_works_when_told() {
    let place = with_data();
    let failure = place.failure(&["train", "lists.toml", "--mixer", "kimi_delta", "--out", "run"]);
    assert!(failure.error.contains("`kimi_delta`, which is causal only") && failure.error.contains("`causal`"), "{failure:?}");
    assert!(!place.path("run").exists(), "a failure leaves no folder behind");
    place.stdout(&[
        "train",
        "lists.toml",
        "--mixer",
        "kimi_delta",
        "--set",
        "model.causal=true",
        "--set",
        "model.pool=last",
        "--out",
        "run",
    ]);
}

#[test]
fn images_and_series_are_learned_from_files() {
    let place = with_data();
    of_task(&place, "images.toml", "task = { kind = \"classify\" }\ndata = { source = \"images\" }");
    let json =
        place.json(&["train", "images.toml", "--out", "images-run", "--set", "train.steps=40", "--set", "optimizer.rate=0.02", "--json"]);
    assert!(json["accuracy"].as_f64().unwrap() > 0.9, "two shades are told apart: {json}");
    let test = place.json(&["eval", "images-run", "--split", "test", "--json"]);
    assert_eq!(test["tokens"], 40);
    of_task(&place, "series.toml", "task = { kind = \"forecast\", input = 12, horizon = 6 }\ndata = { source = \"series.csv\" }");
    let json = place.json(&["train", "series.toml", "--out", "series-run", "--json"]);
    assert!(json["mae"].as_f64().is_some_and(|e| e > 0.0) && json["accuracy"].is_null(), "{json}");
}

#[test]
fn tasks_are_compared_by_what_they_measure() {
    let place = with_data();
    let cases = [
        ("listops", "{ kind = \"listops\", max_length = 24, min_length = 4, depth = 3 }", None, "accuracy"),
        ("classify", "{ kind = \"classify\" }", Some("images"), "accuracy"),
        ("series", "{ kind = \"series\", length = 20 }", None, "accuracy"),
        ("forecast", "{ kind = \"forecast\", input = 12, horizon = 4 }", Some("series.csv"), "mae"),
        ("control", "{ kind = \"control\", episodes = 20, steps = 8, window = 4 }", None, "mae"),
    ];
    for (name, task, data, measure) in cases {
        let data = data.map_or(String::new(), |source| format!("data = {{ source = \"{source}\" }}"));
        // No measurement of lengths, which takes its time.
        let config = format!(
            "context = 1\nbatch = 2\nseeds = [1]\nevaluations = 1\neval_tokens = 200\nbudget = {{ steps = 3 }}\n\
             size = {{ d_model = 16, layers = 1, heads = 2 }}\ntask = {task}\n{data}\nscaling = {{ seconds = 0.0 }}\n\
             candidates = [{{ name = \"softmax\", mixers = [{{ kind = \"softmax\", heads = 2 }}] }}]\n"
        );
        place.write("compare.toml", config);
        // The last is causal only.
        let json = place.json(&["compare", "--config", "compare.toml", "--mixers", "softmax,flow,lightning", "--out", name, "--json"]);
        assert_eq!((json["task"].as_str(), json["complete"].as_bool()), (Some(name), Some(true)));
        let candidates = json["candidates"].as_array().unwrap();
        assert_eq!(candidates.len(), 3);
        for candidate in candidates {
            assert!(candidate[measure].is_number() && candidate["perplexity"].is_null(), "{name}: {candidate}");
        }
        assert!(place.read(format!("{name}/report.html")).contains("Validation loss"));
    }
}

#[test]
fn images_are_compared_in_networks_with_any_mixer_and_measured_against_their_size() {
    let place = with_data();
    let config = "context = 1\nbatch = 2\nseeds = [1]\nevaluations = 1\neval_tokens = 200\nbudget = { steps = 3 }\n\
                  size = { d_model = 64, layers = 1, heads = 2 }\ntask = { kind = \"classify\", view = \"image\", augment = { flip = 0.5, mixup = 0.3 } }\n\
                  data = { source = \"images\" }\nscaling = { seconds = 0.1, shortest = 8, longest = 16 }\n\
                  candidates = [{ name = \"all\", mixers = [{ kind = \"polarized\" }] }]\n";
    place.write("compare.toml", config);
    let mixers = "vit,resnet,halo,window,channel,strip,polarized,flow,lightning";
    let json = place.json(&["compare", "--config", "compare.toml", "--mixers", mixers, "--out", "out", "--json"]);
    assert_eq!((&json["complete"], &json["image"]["size"], &json["image"]["patch"]), (&true.into(), &[4, 4].into(), &1.into()));
    let candidates = json["candidates"].as_array().unwrap();
    assert_eq!(candidates.len(), 9);
    let weights: Vec<f64> = candidates.iter().map(|c| c["params"].as_f64().unwrap()).collect();
    assert!(weights.iter().all(|w| weights.iter().all(|other| w / other < 1.02)), "{weights:?}");
    assert!(candidates.iter().all(|c| c["accuracy"].is_number()));
    let curves = json["scaling"]["curves"].as_array().unwrap();
    assert!(curves.iter().all(|c| c["points"][0]["side"] == 8 && c["points"][0]["tokens"] == 64), "{curves:?}");
    let page = place.read("out/report.html");
    assert!(page.contains("Cost against size") && page.contains("images of 4 × 4 pixels, 1 channel, 2 classes"));
    let table = place.stdout(&["compare", "--resume", "--out", "out"]);
    assert!(table.contains("images/s") && table.contains("accuracy"), "{table}");
    let failure = place.failure(&["compare", "--config", "compare.toml", "--mixers", "neighborhood", "--out", "small"]);
    assert!(failure.error.contains("does not fit the mixer `neighborhood`: `"), "{failure:?}");
    let failure = place.failure(&["compare", "--config", "compare.toml", "--mixers", "hallo", "--out", "small"]);
    assert!(failure.hint.contains("did you mean `halo`?"), "{failure:?}");
    let failure = place.failure(&["compare", "--task", "classify", "--view", "pixels", "--data", "images", "--mixers", "halo"]);
    assert!(failure.error.contains("`halo`, which is for images"), "{failure:?}");
    let failure = place.failure(&["compare", "--view", "pixels"]);
    assert_eq!(failure.error, "the task `lm` has no images: it takes no --view");
}

#[test]
fn data_that_do_not_fit_the_task_are_named_with_the_rule() {
    let place = with_data();
    let fails = |config: &str, part: &str| {
        of_task(&place, "bad.toml", config);
        let failure = place.failure(&["train", "bad.toml", "--out", "bad"]);
        assert!(failure.error.contains(part), "{config}: {failure:?}");
        assert!(!place.path("bad").exists(), "a failure leaves no folder behind");
    };
    fails("task = { kind = \"classify\" }", "`data` must be given for the task `classify`");
    fails("task = { kind = \"listops\" }\ndata = { source = \"images\" }", "`data` must be left out");
    fails("task = { kind = \"classify\" }\ndata = { source = \"nowhere/at/all\" }", "nowhere/at/all");
    fails("task = { kind = \"classify\" }\ndata = { source = \"series.csv\" }", "series.csv");
    fails(
        "task = { kind = \"classify\", shrink = 3 }\ndata = { source = \"images\" }",
        "`task.shrink` must be a divisor of the size 4 × 4",
    );
    fails(
        "task = { kind = \"classify\", view = \"image\" }\ndata = { source = \"images\" }",
        "`model.kind` must be `image` or `flowformer_vision` for images",
    );
    fails("task = { kind = \"forecast\" }\ndata = { source = \"images\" }", "it is a folder, not a CSV file");
    fails("task = { kind = \"forecast\", horizon = 500 }\ndata = { source = \"series.csv\" }", "`task.horizon` must be short enough");
    fails("task = { kind = \"lm\" }\ndata = { source = \"series.csv\" }", "`model.kind` must be `decoder` for the task `lm`, got encoder");
    place.write("series.csv", "date,a\nx,1\ny,oops\n");
    fails("task = { kind = \"forecast\" }\ndata = { source = \"series.csv\" }", "series.csv: line 3, column `a`: `oops` is no number");
    place.write("images/train-labels-idx1-ubyte", b"no");
    fails("task = { kind = \"classify\" }\ndata = { source = \"images\" }", "train-labels-idx1-ubyte: it ends within the header");
    let failure = place.failure(&["compare", "--task", "listops", "--context", "64"]);
    assert!(failure.error.contains("it takes no --context"), "{failure:?}");
    let failure = place.failure(&["compare", "--task", "classify", "--data", "mnits"]);
    assert!(failure.hint.contains("did you mean `mnist`?"), "{failure:?}");
    let failure = place.failure(&["compare", "--task", "classify"]);
    assert!(failure.error.contains("the data set `mnist` is not on this machine"), "{failure:?}");
    let failure = place.failure(&["compare", "--data", "series.csv", "--task", "series"]);
    assert!(failure.error.contains("takes no --data"), "{failure:?}");
}
