//! Softmax attention beside PyTorch's `scaled_dot_product_attention`, in turns within one run. See README.md in this folder.

mod common;

use std::{error::Error, time::Instant};

use burn::tensor::{Device, Distribution, Tensor};
use common::{Torch, median, pause, peak_memory, warm};
use regard::softmax_attention::{SoftmaxOptions, softmax_attention};

const SHAPES: [[usize; 4]; 3] = [[2, 8, 1024, 64], [1, 8, 4096, 64], [12, 4, 64, 32]];

/// One timed run, in ms. With autodiff, the time is that of forward and backward.
fn regard([q, k, v, cotangent]: &[Tensor<4>; 4], causal: bool, backward: bool) -> Result<f64, Box<dyn Error>> {
    let options = SoftmaxOptions { causal, ..Default::default() };
    let start = Instant::now();
    let tracked = |x: &Tensor<4>| if backward { x.clone().require_grad() } else { x.clone() };
    let (o, _) = softmax_attention(tracked(q), tracked(k), tracked(v), options)?;
    if backward {
        std::hint::black_box(common::backward(o, cotangent));
    } else {
        std::hint::black_box(o);
    }
    Ok(start.elapsed().as_secs_f64() * 1e3)
}

fn random(shape: [usize; 4], device: &Device) -> [Tensor<4>; 4] {
    std::array::from_fn(|_| Tensor::random(shape, Distribution::Normal(0.0, 1.0), device))
}

fn main() -> Result<(), Box<dyn Error>> {
    common::run(compare)
}

#[allow(clippy::print_stdout)]
fn compare() -> Result<(), Box<dyn Error>> {
    let seconds = common::seconds(6.0)?;
    let (plain, autodiff) = (Device::flex(), Device::flex().autodiff());
    println!("training at T: resident memory it adds, beside one matrix of all scores");
    for t in [1024, 4096, 16384] {
        let inputs = random([1, 1, t, 64], &autodiff);
        let before = peak_memory();
        regard(&inputs, true, true)?;
        let scores = (t * t * 4) as f64 / f64::from(1 << 20);
        println!("{t:>8} {:>8.1} MiB of {scores:.0} MiB", peak_memory() - before);
    }
    let mut torch = Torch::start("softmax_vs_torch.py")?;
    println!("{:<18} {:<7} {:<17} {:>10} {:>10} {:>7} {:>7}", "[B, H, T, K]", "causal", "pass", "regard ms", "torch ms", "median", "best");
    for shape in SHAPES {
        let (forward, training) = (random(shape, &plain), random(shape, &autodiff));
        for (causal, backward) in [(false, false), (true, false), (false, true), (true, true)] {
            let inputs = if backward { &training } else { &forward };
            regard(inputs, causal, backward)?;
            let [b, h, t, k] = shape;
            let case = format!("{b} {h} {t} {k} {} {}", u8::from(causal), u8::from(backward));
            torch.run(&case)?;
            let (mut ours, mut theirs) = (Vec::new(), Vec::new());
            let start = Instant::now();
            while ours.len() < 5 || start.elapsed().as_secs_f64() < seconds {
                pause();
                ours.push(warm(|| regard(inputs, causal, backward))?);
                theirs.push(warm(|| torch.run(&case))?);
            }
            let (a, b) = (median(&mut ours), median(&mut theirs));
            let pass = if backward { "forward+backward" } else { "forward" };
            println!("{:<18} {causal:<7} {pass:<17} {a:>10.2} {b:>10.2} {:>7.2} {:>7.2}", format!("{shape:?}"), a / b, ours[0] / theirs[0]);
        }
    }
    torch.stop()?;
    Ok(())
}
