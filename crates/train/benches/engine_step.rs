//! Times a whole training step of the engine: data, forward, backward, clipping by the common norm, AdamW with its groups.
//!
//! `cargo bench -p regard-train --bench engine_step -- [CONFIG] [STEPS]` prints one JSON object; without a configuration it is nanoGPT's
//! character model for a CPU on the embedded text, as in `training_step` of `regard-models`.
#![allow(clippy::print_stdout, missing_docs)]

use std::path::Path;

use burn::tensor::Device;
use regard_train::{RunConfig, Task, measure_step};

const DEFAULT: &str = r#"
seed = 1337
task = { kind = "lm" }
data = { source = "embedded", tokenizer = "char" }
train = { batch = 12, steps = 2000 }

[model]
d_model = 128
layers = 4
mixers = [{ kind = "softmax", heads = 4 }]
d_ff = 512
mlp = "gelu"
norm = "layer_no_bias"
positions = "learned"
context = 64
"#;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with("--")).collect();
    let config = match args.first() {
        Some(path) => RunConfig::load(Path::new(path)),
        None => RunConfig::from_toml(DEFAULT),
    }
    .expect("a valid configuration");
    let steps: usize = args.get(1).map_or(60, |n| n.parse().expect("STEPS is a whole number"));
    let task = Task::load(&config).expect("the data is there");
    let cost = measure_step(&config, &task, &Device::flex(), steps).expect("a valid model");
    println!(
        r#"{{"steps":{steps},"step_ms":{:.3},"evaluation_ms":{:.1},"tokens_per_s":{:.0}}}"#,
        1e3 * cost.step_seconds,
        1e3 * cost.evaluation_seconds,
        config.tokens_per_step() as f64 / cost.step_seconds
    );
}
