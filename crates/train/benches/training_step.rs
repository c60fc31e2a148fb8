//! Times a whole training step of the engine: data, forward, backward, clipping by the common norm, AdamW with its groups. The model is a
//! small one of characters: with any mixer, in nanoGPT's CPU setting (`nanogpt`: batch 12, context 64, width 128) or a wider one (`wide`:
//! batch 8, context 256, width 256).
//!
//! `cargo bench --workspace --bench training_step -- [MIXER] [SETTING] [STEPS]` prints one JSON object; a path to a configuration may stand
//! in the place of MIXER. `benches/training_step.py` runs it side by side with PyTorch.
#![allow(clippy::print_stdout, missing_docs)]

use std::{
    ffi::{c_int, c_long},
    path::Path,
};

use burn::tensor::Device;
use regard::MixerConfig;
use regard_models::ModelConfig;
use regard_train::{RunConfig, Task, measure_step};

/// As in the command `regard`.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const MODEL: &str = r#"
seed = 1337
task = { kind = "lm" }
data = { source = "embedded", tokenizer = "char" }
train = { batch = 12, steps = 2000 }
optimizer = { rate = 1e-3, beta2 = 0.99, clip = 1.0 }

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

unsafe extern "C" {
    fn mi_option_set(option: c_int, value: c_long);
}

fn main() {
    // As in the command: freed memory is kept for ten seconds, and work starts on a thread of the pool.
    // SAFETY: it stores a number.
    unsafe { mi_option_set(15, 10_000) };
    rayon::scope(|_| run());
}

fn run() {
    let args: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with("--")).collect();
    let name = args.first().map_or("softmax", String::as_str);
    let mut config = match Path::new(name) {
        path if path.exists() => RunConfig::load(path),
        _ => RunConfig::from_toml(MODEL),
    }
    .expect("a valid configuration");
    let ModelConfig::Decoder(model) = &mut config.model else { panic!("the model is a decoder") };
    if !Path::new(name).exists() && name != "softmax" {
        model.mixers = vec![MixerConfig::named(name, 4).expect("MIXER is one of the list that `regard list` prints")];
    }
    match args.get(1).map_or("nanogpt", String::as_str) {
        "nanogpt" => (),
        "wide" => (config.train.batch, model.context, model.d_model, model.d_ff) = (8, 256, 256, 1024),
        other => panic!("SETTING is nanogpt or wide, not {other}"),
    }
    let steps: usize = args.get(2).map_or(60, |n| n.parse().expect("STEPS is a whole number"));
    let task = Task::load(&config).expect("the data is there");
    let cost = measure_step(&config, &task, &Device::flex(), steps).expect("a valid model");
    println!(
        r#"{{"mixer":"{name}","steps":{steps},"step_ms":{:.3},"evaluation_ms":{:.1},"tokens_per_s":{:.0}}}"#,
        1e3 * cost.step_seconds,
        1e3 * cost.evaluation_seconds,
        config.tokens_per_step() as f64 / cost.step_seconds
    );
}
