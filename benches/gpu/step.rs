//! A training step of a GPT-2 of the small size on a GPU, and the products that it consists of, one JSON object a line; `step.py` in this
//! folder runs it beside PyTorch. See README.md.
#![allow(clippy::print_stdout, missing_docs)]

use std::{error::Error, time::Instant};

use burn::tensor::{DType, Device, Distribution, Tensor};
use regard::blocks::{linear, matmul};
use regard_train::{Hooks, RunConfig, Task, Trainer, measure_pace};

/// As in the command `regard`.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// As the model in `step.py`.
const RUN: &str = r#"
seed = 1337
task = { kind = "copy", vocab = 32000 }
train = { batch = 8, steps = 100, precision = "bf16" }
optimizer = { rate = 1e-3, clip = 1.0 }

[model]
d_model = 768
layers = 12
mixers = [{ kind = "softmax", heads = 12 }]
d_ff = 3072
mlp = "gelu_tanh"
norm = "layer_no_bias"
positions = "learned"
context = 1024
"#;
const TOKENS: usize = 8192;
/// Inputs and outputs of its linear layers.
const LAYERS: [[usize; 2]; 5] = [[768, 2304], [768, 768], [768, 3072], [3072, 768], [768, 32000]];

/// A small one of the same kind, to be trained on both devices.
const SMALL: &str = r#"
seed = 1337
task = { kind = "copy" }
train = { batch = 16, steps = 60, precision = "bf16" }
optimizer = { rate = 3e-3, clip = 0.5 }
eval = { every = 60, tokens = 4096 }

[model]
d_model = 64
layers = 2
mixers = [{ kind = "softmax", heads = 2 }]
d_ff = 256
mlp = "gelu_tanh"
norm = "layer_no_bias"
positions = "learned"
context = 48
"#;

/// Loss on validation data after a short run.
fn trained(precision: &str, device: &Device) -> Result<f64, Box<dyn Error>> {
    let dir = tempfile::tempdir()?;
    let config = RunConfig::from_toml(&SMALL.replace("bf16", precision))?;
    let outcome = Trainer::create(&config, &dir.path().join("run"), device)?.run(Hooks::default())?;
    Ok(outcome.evaluation.ok_or("a run ends with an evaluation")?.loss)
}

/// Trains on the device and on the CPU: what is timed has to learn the same.
fn check(device: &Device) -> Result<(), Box<dyn Error>> {
    let want = trained("f32", &Device::flex())?;
    for (precision, tolerance) in [("f32", 1e-2), ("bf16", 5e-2)] {
        let got = trained(precision, device)?;
        println!(r#"{{"by":"regard","case":"check","precision":"{precision}","loss":{got:.5},"cpu":{want:.5}}}"#);
        if !((got - want).abs() <= tolerance * want) {
            return Err(format!("a loss of {got} after 60 steps in {precision}, {want} on the CPU: nothing is measured").into());
        }
    }
    Ok(())
}

fn step(device: &Device) -> Result<(), Box<dyn Error>> {
    for precision in ["bf16", "f32"] {
        let config = RunConfig::from_toml(&RUN.replace("bf16", precision))?;
        let task = Task::load(&config)?;
        let seconds = measure_pace(&config, &task, device, [6, 10])?;
        println!(r#"{{"by":"regard","case":"step","precision":"{precision}","ms":{:.3}}}"#, 1e3 * seconds);
    }
    Ok(())
}

/// Steps alone, for a profiler.
fn trace(device: &Device) -> Result<(), Box<dyn Error>> {
    let config = RunConfig::from_toml(RUN)?;
    let task = Task::load(&config)?;
    let seconds = measure_pace(&config, &task, device, [1, 5])?;
    println!("{:.3} ms", 1e3 * seconds);
    Ok(())
}

fn random(shape: [usize; 2], dtype: DType, device: &Device) -> Tensor<2> {
    Tensor::<2>::random(shape, Distribution::Normal(0.0, 1.0), device).cast(dtype)
}

/// Milliseconds of `work`, `count` times one after the other.
fn time(device: &Device, count: usize, mut work: impl FnMut()) -> Result<f64, Box<dyn Error>> {
    (0..3).for_each(|_| work());
    device.sync()?;
    let start = Instant::now();
    (0..count).for_each(|_| work());
    device.sync()?;
    Ok(1e3 * start.elapsed().as_secs_f64() / count as f64)
}

/// Rates of the products of each layer: forward, of the gradient of the input, of that of the weight. Inputs take turns, together larger
/// than the second-level cache.
fn products(device: &Device, dtype: DType, count: usize) -> Result<(), Box<dyn Error>> {
    for [n, m] in LAYERS {
        let sets: Vec<_> = (0..3).map(|_| [[TOKENS, n], [n, m], [TOKENS, m]].map(|shape| random(shape, dtype, device))).collect();
        let mut turn = 0;
        let mut next = || {
            turn += 1;
            sets[turn % sets.len()].clone()
        };
        let forward = time(device, count, || {
            let [x, w, _] = next();
            drop(linear(x, w, None));
        })?;
        let of_input = time(device, count, || {
            let [_, w, dy] = next();
            drop(matmul(dy, w.transpose()));
        })?;
        let of_weight = time(device, count, || {
            let [x, _, dy] = next();
            drop(matmul(x.transpose(), dy));
        })?;
        let rate = |ms: f64| 2.0 * (TOKENS * n * m) as f64 / ms * 1e-9;
        for (pass, ms) in [("forward", forward), ("of_input", of_input), ("of_weight", of_weight)] {
            println!(r#"{{"by":"regard","case":"{n}x{m}","dtype":"{dtype:?}","pass":"{pass}","ms":{ms:.4},"TFLOP/s":{:.0}}}"#, rate(ms));
        }
    }
    Ok(())
}

fn main() -> Result<(), Box<dyn Error>> {
    let device = Device::cuda(0);
    let args: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with("--")).collect();
    let wanted = |name: &str| args.is_empty() || args.iter().any(|a| a == name);
    if wanted("check") {
        check(&device)?;
    }
    if wanted("products") {
        products(&device, DType::BF16, 50)?;
        products(&device, DType::F32, 5)?;
    }
    if wanted("step") {
        step(&device)?;
    }
    if args.iter().any(|a| a == "trace") {
        trace(&device)?;
    }
    Ok(())
}
