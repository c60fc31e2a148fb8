//! The linear mechanisms on a GPU by device events, one JSON object a line; `linear.py` in this folder runs it beside its peer.
#![allow(clippy::print_stdout, missing_docs)]

use std::error::Error;

use burn::tensor::{DType, Device, Distribution, Tensor};
use regard::{
    kimi_delta::{KimiDeltaOptions, kimi_delta},
    lightning_attention::{DecayRule, LightningOpts, lightning_attention, lightning_step},
};

/// As in the command `regard`.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Batch and tokens; the same as in `linear_peers.py`.
const CASES: [(&str, usize, usize); 3] = [("b4_t2048", 4, 2048), ("b4_t8192", 4, 8192), ("b1_t65536", 1, 65536)];
const HEADS: usize = 16;
const WIDTH: usize = 128;
/// Together larger than the second-level cache at every case.
const SETS: usize = 3;
const WARMUP: usize = 3;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operation {
    Lightning,
    KimiDelta,
}

impl Operation {
    fn name(self) -> &'static str {
        match self {
            Self::Lightning => "lightning",
            Self::KimiDelta => "kda",
        }
    }

    /// q, k, v, log decays and β, tokens before heads; Lightning has the first three alone.
    fn inputs(self, batch: usize, tokens: usize, device: &Device) -> Vec<Tensor<4>> {
        let shape = [batch, tokens, HEADS, WIDTH];
        let normal = || Tensor::<4>::random(shape, Distribution::Normal(0.0, 1.0), device);
        let half = |x: Tensor<4>| x.cast(DType::BF16);
        if self == Self::Lightning {
            return vec![half(normal()), half(normal()), half(normal())];
        }
        let unit = |x: Tensor<4>| half(x.clone() / (x.powi_scalar(2).sum_dim(3) + 1e-6).sqrt());
        let uniform = |shape, low, high| Tensor::<4>::random(shape, Distribution::Uniform(low, high), device);
        let beta = uniform([batch, tokens, HEADS, 1], 0.0, 1.0);
        vec![unit(normal()), unit(normal()), half(normal()), uniform(shape, -0.1, 0.0), beta]
    }

    fn run(self, inputs: Vec<Tensor<4>>) -> Result<Tensor<4>, Box<dyn Error>> {
        let mut inputs = inputs.into_iter();
        let mut next = || inputs.next().ok_or("too few inputs");
        let (q, k, v) = (next()?, next()?, next()?);
        Ok(match self {
            Self::Lightning => {
                let [q, k, v] = [q, k, v].map(|x| x.swap_dims(1, 2));
                lightning_attention(q, k, v, &DecayRule::Fla.slopes(HEADS, 2, 0), LightningOpts::default())?.0
            }
            Self::KimiDelta => {
                let options = KimiDeltaOptions { check_decay: false, ..Default::default() };
                kimi_delta(q, k, v, next()?, next()?.squeeze_dim(3), options)?.0
            }
        })
    }
}

/// Milliseconds of what the device does in `work`, by its own events.
fn event(device: &Device, work: impl FnOnce() + Send) -> Result<f64, Box<dyn Error>> {
    let ((), duration) = device.profile(work).map_err(|e| format!("{e:?}"))?;
    let ticks = burn::tensor::try_read_sync(duration.resolve()).flatten().ok_or("the device measured nothing")?;
    Ok(ticks.duration().as_secs_f64() * 1e3)
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

fn report(case: &str, pass: &str, ms: f64) {
    println!(r#"{{"by":"regard","case":"{case}","pass":"{pass}","ms":{ms:.4}}}"#);
}

fn measure(operation: Operation, (case, batch, tokens): (&str, usize, usize), device: &Device, runs: usize) -> Result<(), Box<dyn Error>> {
    let name = format!("{}_{case}", operation.name());
    let sets: Vec<_> = (0..SETS).map(|_| operation.inputs(batch, tokens, device)).collect();
    let mut forward = Vec::new();
    for run in 0..runs + WARMUP {
        let set = sets[run % SETS].clone();
        forward.push(event(device, || drop(operation.run(set).expect("a valid shape")))?);
    }
    report(&name, "forward", median(forward.split_off(WARMUP)));
    let autodiff = device.clone().autodiff();
    let mut backward = Vec::new();
    for run in 0..runs + WARMUP {
        let set = sets[run % SETS].iter().map(|x| Tensor::<4>::from_inner(x.clone()).to_device(&autodiff).require_grad()).collect();
        let o = operation.run(set)?;
        backward.push(event(device, || drop(o.backward()))?);
    }
    report(&name, "backward", median(backward.split_off(WARMUP)));
    Ok(())
}

/// ‖got − want‖ / ‖want‖ of the output and all gradients, bf16 on the device against f64 on the CPU.
fn errors(operation: Operation, device: &Device) -> Result<Vec<f64>, Box<dyn Error>> {
    let cpu = Device::flex().autodiff();
    let drawn = operation.inputs(1, 777, device);
    let run = |inputs: Vec<Tensor<4>>| -> Result<Vec<Tensor<4>>, Box<dyn Error>> {
        let inputs: Vec<_> = inputs.into_iter().map(Tensor::require_grad).collect();
        let o = operation.run(inputs.clone())?;
        let grads = o.clone().backward();
        let grads = inputs.iter().map(|x| x.grad(&grads).ok_or("no gradient")).collect::<Result<Vec<_>, _>>()?;
        let plain = |x: Tensor<4>| x.to_device(&Device::flex()).cast(DType::F64);
        Ok(std::iter::once(o.inner()).chain(grads).map(plain).collect())
    };
    let autodiff = device.clone().autodiff();
    let got = run(drawn.iter().map(|x| Tensor::from_inner(x.clone()).to_device(&autodiff)).collect())?;
    let want = run(drawn.into_iter().map(|x| Tensor::from_inner(x.to_device(&Device::flex()).cast(DType::F64)).to_device(&cpu)).collect())?;
    let norm = |x: Tensor<4>| x.powi_scalar(2).sum().sqrt().into_scalar::<f64>();
    Ok(got.into_iter().zip(want).map(|(got, want)| norm(got - want.clone()) / norm(want)).collect())
}

/// One decoding step of 64 sequences, in place.
fn step(device: &Device, runs: usize) -> Result<(), Box<dyn Error>> {
    let slopes = DecayRule::Fla.slopes(HEADS, 2, 0);
    let draw = || Tensor::<3>::random([64, HEADS, WIDTH], Distribution::Normal(0.0, 1.0), device).cast(DType::BF16);
    let mut state = Tensor::<4>::zeros([64, HEADS, WIDTH, WIDTH], device);
    let mut times = Vec::new();
    for _ in 0..runs + WARMUP {
        let [q, k, v] = [draw(), draw(), draw()];
        let mut next = std::mem::replace(&mut state, Tensor::empty([0; 4], device));
        let slot = &mut next;
        times.push(event(device, || drop(lightning_step(q, k, v, &slopes, 1.0, slot).expect("a valid shape")))?);
        state = next;
    }
    report("lightning_step_b64", "forward", median(times.split_off(WARMUP)));
    Ok(())
}

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with("--")).collect();
    let runs = args.iter().find_map(|a| a.parse().ok()).unwrap_or(20);
    let names: Vec<_> = args.iter().filter(|a| a.parse::<usize>().is_err()).collect();
    let wanted = |name: &str| names.is_empty() || names.iter().any(|a| name.contains(a.as_str()));
    let device = Device::cuda(0);
    for operation in [Operation::Lightning, Operation::KimiDelta] {
        if !CASES.iter().any(|case| wanted(&format!("{}_{}", operation.name(), case.0))) {
            continue;
        }
        let errors = errors(operation, &device)?;
        println!(r#"{{"by":"regard","case":"{}_check","errors":{errors:?}}}"#, operation.name());
        if errors.iter().any(|error| !(*error < 2e-2)) {
            return Err(format!("{}: relative errors {errors:?} of output and gradients: nothing is measured", operation.name()).into());
        }
        for case in CASES {
            if wanted(&format!("{}_{}", operation.name(), case.0)) {
                measure(operation, case, &device, runs)?;
            }
        }
    }
    if wanted("lightning_step") {
        step(&device, runs)?;
    }
    Ok(())
}
