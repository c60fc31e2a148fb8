//! Lightning attention beside the same algorithm in eager PyTorch, and beside its softmax attention, in turns within one run. See
//! README.md in this folder.

mod common;

use std::{env, error::Error, hint::black_box, time::Instant};

use burn::tensor::{Device, Distribution, Tensor};
use common::{THREADS, Torch, median, pause, peak_flops, peak_memory, warm};
use regard::lightning_attention::{LightningOpts, lightning_attention};
use serde_json::json;

/// B, H, T, width of keys and values. `REGARD_BENCH_SHAPES` replaces them.
const SHAPES: &str = "1x8x512x64,4x8x512x64,1x8x2048x64,4x8x2048x64,1x8x2048x128,4x8x2048x128,1x8x16384x64,2x8x16384x64,1x8x16384x128";

type Shape = [usize; 4];

/// A geometric row of decays, as the paper's code has it in the first layer.
fn slopes(heads: usize) -> Vec<f64> {
    (1..=heads).map(|h| 2_f64.powf(-8.0 * h as f64 / heads as f64)).collect()
}

/// One timed run, in ms; with `backward`, forward and backward.
fn regard([q, k, v, cotangent]: &[Tensor<4>; 4], backward: bool) -> Result<f64, Box<dyn Error>> {
    let slopes = slopes(q.dims()[1]);
    let start = Instant::now();
    let tracked = |x: &Tensor<4>| if backward { x.clone().require_grad() } else { x.clone() };
    let (o, _) = lightning_attention(tracked(q), tracked(k), tracked(v), &slopes, LightningOpts::default())?;
    if backward {
        black_box(common::backward(o, cotangent));
    } else {
        black_box(o);
    }
    Ok(start.elapsed().as_secs_f64() * 1e3)
}

/// A form and block of PyTorch's side.
type Form = (&'static str, usize);

fn torch(torch: &mut Torch, shape: Shape, (form, block): Form, backward: bool) -> Result<f64, Box<dyn Error>> {
    let request = json!({ "shape": shape, "slopes": slopes(shape[1]), "form": form, "block": block, "backward": backward });
    torch.run(&request.to_string())
}

/// The form and block that are fastest here.
fn best_form(process: &mut Torch, shape: Shape, backward: bool) -> Result<Form, Box<dyn Error>> {
    let mut best = (f64::INFINITY, ("in_turn", 64));
    for form in ["in_turn", "batched"].into_iter().flat_map(|form| [64, 128].map(|block| (form, block))) {
        for _ in 0..3 {
            let time = torch(process, shape, form, backward)?;
            if time < best.0 {
                best = (time, form);
            }
        }
    }
    Ok(best.1)
}

/// Floating-point operations, a multiply-add counted as two: what the definition needs, and what blocks of C tokens need, triangles
/// counted as halves.
fn flops([b, h, t, d]: Shape, backward: bool) -> [f64; 2] {
    let (square, triangles) = ((d * d) as f64, (LightningOpts::default().block * d) as f64);
    // Forward: the state updated and read, scores and their product with the values. Backward: the states again, dQ; dS, dK and dV.
    let [needed, done] = if backward { [6.0 * square, 7.0 * square + 4.0 * triangles] } else { [2.0 * square, 2.0 * square + triangles] };
    [needed, done].map(|x| 2.0 * (b * h * t) as f64 * x)
}

fn random(shape: Shape, device: &Device) -> [Tensor<4>; 4] {
    std::array::from_fn(|_| Tensor::random(shape, Distribution::Normal(0.0, 1.0), device))
}

fn shapes() -> Result<Vec<Shape>, Box<dyn Error>> {
    let text = env::var("REGARD_BENCH_SHAPES").unwrap_or_else(|_| SHAPES.into());
    let shape = |text: &str| -> Result<Shape, Box<dyn Error>> {
        let sizes = text.split('x').map(str::parse).collect::<Result<Vec<usize>, _>>()?;
        sizes.try_into().map_err(|_| format!("{text} is not BxHxTxK").into())
    };
    text.split(',').map(shape).collect()
}

fn main() -> Result<(), Box<dyn Error>> {
    common::run(compare)
}

#[allow(clippy::print_stdout)]
fn compare() -> Result<(), Box<dyn Error>> {
    let seconds = common::seconds(4.0)?;
    let (plain, autodiff) = (Device::flex(), Device::flex().autodiff());
    for t in [4096, 16384, 65536] {
        let inputs = random([1, 1, t, 64], &autodiff);
        let before = peak_memory();
        regard(&inputs, true)?;
        let bytes = (peak_memory() - before) * f64::from(1 << 20) / t as f64;
        // Output, its gradient and three more.
        println!("{}", json!({ "training_at_t": t, "bytes_per_token": bytes.round(), "of_which_results": 5 * 64 * 4 }));
    }
    let peak = peak_flops() * THREADS as f64;
    println!("{}", json!({ "threads": THREADS, "peak_gflops": peak / 1e9 }));
    let mut process = Torch::start("lightning_vs_torch.py")?;
    for shape in shapes()? {
        for (device, backward) in [(&plain, false), (&autodiff, true)] {
            let inputs = random(shape, device);
            let form = best_form(&mut process, shape, backward)?;
            regard(&inputs, backward)?;
            let (mut ours, mut theirs, mut sdpa) = (Vec::new(), Vec::new(), Vec::new());
            let start = Instant::now();
            while ours.len() < 5 || start.elapsed().as_secs_f64() < seconds {
                pause();
                ours.push(warm(|| regard(&inputs, backward))?);
                theirs.push(warm(|| torch(&mut process, shape, form, backward))?);
                if shape[2] >= 2048 && sdpa.len() < 3 {
                    sdpa.push(torch(&mut process, shape, ("sdpa", 0), backward)?);
                }
            }
            let (a, b) = (median(&mut ours), median(&mut theirs));
            let [needed, done] = flops(shape, backward).map(|flops| flops / (ours[0] * 1e-3) / peak);
            let sdpa = (!sdpa.is_empty()).then(|| median(&mut sdpa));
            let line = json!({
                "shape": shape, "pass": if backward { "forward+backward" } else { "forward" }, "samples": ours.len(),
                "regard_ms": a, "torch_ms": b, "torch_form": format!("{}, block {}", form.0, form.1),
                "ratio": a / b, "best_ratio": ours[0] / theirs[0], "sdpa_ms": sdpa, "sdpa_ratio": sdpa.map(|sdpa| a / sdpa),
                "share_of_peak": done, "share_of_peak_by_definition": needed,
            });
            println!("{line}");
        }
    }
    process.stop()?;
    Ok(())
}
