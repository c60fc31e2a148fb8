//! Attention on a GPU by device events, one JSON object a line; `run.py` in this folder runs it beside its peers. See README.md.
#![allow(clippy::print_stdout, missing_docs)]

use std::error::Error;

use burn::tensor::{DType, Device, Distribution, Tensor};
use regard::softmax_attention::{SoftmaxOptions, softmax_attention};

/// As in the command `regard`.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// One problem: bf16, `[B, H, T, K]` queries, `[B, G, S, K]` keys and values.
#[derive(Clone, Copy)]
struct Case {
    name: &'static str,
    batch: usize,
    heads: usize,
    groups: usize,
    queries: usize,
    keys: usize,
    width: usize,
    causal: bool,
    backward: bool,
}

const fn case(name: &'static str, [batch, heads, groups]: [usize; 3], [queries, keys]: [usize; 2], width: usize) -> Case {
    Case { name, batch, heads, groups, queries, keys, width, causal: queries > 1, backward: queries > 1 }
}

/// The same as in `peers.py`.
const CASES: [Case; 5] = [
    case("causal_t2048", [4, 16, 16], [2048, 2048], 128),
    case("causal_t8192", [4, 16, 16], [8192, 8192], 128),
    case("causal_gqa_t8192", [4, 16, 4], [8192, 8192], 128),
    case("causal_w64_t8192", [4, 16, 16], [8192, 8192], 64),
    case("decode_s8192", [64, 32, 8], [1, 8192], 128),
];
/// Together larger than the second-level cache at every case.
const SETS: usize = 3;

fn random(shape: [usize; 4], dtype: DType, device: &Device) -> Tensor<4> {
    Tensor::<4>::random(shape, Distribution::Normal(0.0, 1.0), device).cast(dtype)
}

fn inputs(case: Case, dtype: DType, device: &Device) -> [Tensor<4>; 3] {
    let Case { batch, heads, groups, queries, keys, width, .. } = case;
    [[batch, heads, queries, width], [batch, groups, keys, width], [batch, groups, keys, width]].map(|shape| random(shape, dtype, device))
}

fn attend([q, k, v]: [Tensor<4>; 3], causal: bool) -> Result<Tensor<4>, regard::Error> {
    Ok(softmax_attention(q, k, v, SoftmaxOptions { causal, ..Default::default() })?.0)
}

/// ‖got − want‖ / ‖want‖ of the output and the gradients of queries, keys and values, bf16 on the device against f64 on the CPU.
fn errors(device: &Device) -> Result<[f64; 4], Box<dyn Error>> {
    let cpu = Device::flex().autodiff();
    let shape = Case { batch: 1, heads: 4, groups: 2, queries: 777, keys: 777, ..CASES[0] };
    let drawn = inputs(shape, DType::BF16, &device.clone().inner());
    let run = |inputs: [Tensor<4>; 3]| -> Result<Vec<Tensor<4>>, Box<dyn Error>> {
        let inputs = inputs.map(Tensor::require_grad);
        let o = attend(inputs.clone(), true)?;
        let grads = o.clone().powi_scalar(2).sum().backward();
        let grads = inputs.iter().map(|x| x.grad(&grads).ok_or("no gradient")).collect::<Result<Vec<_>, _>>()?;
        let plain = |x: Tensor<4>| x.to_device(&Device::flex()).cast(DType::F64);
        Ok(std::iter::once(o.inner()).chain(grads).map(plain).collect())
    };
    let autodiff = device.clone().autodiff();
    let got = run(drawn.clone().map(|x| Tensor::from_inner(x).to_device(&autodiff)))?;
    let want = run(drawn.map(|x| Tensor::from_inner(x.to_device(&Device::flex()).cast(DType::F64)).to_device(&cpu)))?;
    let norm = |x: Tensor<4>| x.powi_scalar(2).sum().sqrt().into_scalar::<f64>();
    Ok(std::array::from_fn(|i| norm(got[i].clone() - want[i].clone()) / norm(want[i].clone())))
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

fn measure(case: Case, device: &Device, runs: usize) -> Result<(), Box<dyn Error>> {
    let sets: Vec<_> = (0..SETS).map(|_| inputs(case, DType::BF16, device)).collect();
    let mut forward = Vec::new();
    for run in 0..runs + 3 {
        let set = sets[run % SETS].clone();
        forward.push(event(device, || drop(attend(set, case.causal).expect("a valid shape")))?);
    }
    report(case, "forward", median(forward.split_off(3)));
    if case.backward {
        let autodiff = device.clone().autodiff();
        let cotangent = random([case.batch, case.heads, case.queries, case.width], DType::BF16, device);
        let mut backward = Vec::new();
        for run in 0..runs + 3 {
            let set = sets[run % SETS].clone().map(|x| Tensor::<4>::from_inner(x).to_device(&autodiff).require_grad());
            let o = attend(set, case.causal)?;
            let loss = (o * Tensor::from_inner(cotangent.clone()).to_device(&autodiff)).sum();
            backward.push(event(device, || drop(loss.backward()))?);
        }
        report(case, "backward", median(backward.split_off(3)));
    }
    Ok(())
}

fn report(case: Case, pass: &str, ms: f64) {
    println!(r#"{{"by":"regard","case":"{}","pass":"{pass}","ms":{ms:.4}}}"#, case.name);
}

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with("--")).collect();
    let runs = args.iter().find_map(|a| a.parse().ok()).unwrap_or(20);
    let device = Device::cuda(0);
    let errors = errors(&device)?;
    println!(r#"{{"by":"regard","case":"check","errors":{errors:?}}}"#);
    if errors.iter().any(|error| !(*error < 1e-2)) {
        return Err(format!("relative errors {errors:?} of output and gradients: nothing is measured").into());
    }
    for case in CASES {
        if args.iter().any(|a| a.parse::<usize>().is_err()) && !args.iter().any(|a| a == case.name) {
            continue;
        }
        measure(case, &device, runs)?;
    }
    Ok(())
}
