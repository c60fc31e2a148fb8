//! Operations on maps of images beside PyTorch's, in turns within one run. See README.md in this folder.

mod common;

use std::{error::Error, time::Instant};

use burn::tensor::{Device, Distribution, Tensor};
use common::{Torch, median, pause, peak_memory, warm};
use regard::{
    SpatialMixer,
    bi_level_routing::{route, routed_attention},
    channel_attention::channel_attention,
    halo_attention::{HaloOptions, halo_attention},
    neighborhood_attention::{NeighborhoodAlgorithm, NeighborhoodOptions, WindowAxis, neighborhood_attention},
    polarized_attention::PolarizedAttentionConfig,
    strip_attention::{StripOptions, strip_attention},
};

type Outcome<T> = Result<T, Box<dyn Error>>;

/// One timed run, in ms; with gradients of all inputs if asked for.
type Run = Box<dyn Fn(bool) -> Outcome<f64>>;

fn random<const D: usize>(shape: [usize; D], backward: bool) -> Tensor<D> {
    let device = if backward { Device::flex().autodiff() } else { Device::flex() };
    Tensor::random(shape, Distribution::Normal(0.0, 1.0), &device)
}

/// Times `f` of inputs of one shape each, made anew for runs with gradients.
fn timed<const D: usize, const N: usize>(shapes: [[usize; D]; N], f: impl Fn([Tensor<D>; N]) -> Outcome<Tensor<D>> + 'static) -> Run {
    let plain = shapes.map(|shape| random(shape, false));
    let tracked = shapes.map(|shape| random(shape, true));
    Box::new(move |backward| {
        let inputs = if backward { tracked.clone().map(Tensor::require_grad) } else { plain.clone() };
        let start = Instant::now();
        let o = f(inputs)?;
        if backward {
            std::hint::black_box(o.sum().backward());
        } else {
            std::hint::black_box(o);
        }
        Ok(start.elapsed().as_secs_f64() * 1e3)
    })
}

fn neighborhood<const D: usize>(shape: [usize; D], window: usize, algorithm: NeighborhoodAlgorithm) -> Run {
    timed([shape; 3], move |[q, k, v]| {
        let options = NeighborhoodOptions { algorithm, ..Default::default() };
        Ok(neighborhood_attention(q, k, v, &[WindowAxis::new(window)].repeat(D - 3), options)?.0)
    })
}

/// One token after another, in plain loops, forward alone.
fn naive(grid: [usize; 3], window: [usize; 3]) -> Run {
    const H: usize = 4;
    const K: usize = 32;
    let n: usize = grid.iter().product();
    let data = || random([n * H * K], false).into_data().iter::<f32>().collect::<Vec<_>>();
    let (q, k, v) = (data(), data(), data());
    Box::new(move |_| {
        let start = Instant::now();
        let mut out = vec![0.0_f32; n * H * K];
        let token = |x: [usize; 3]| (x[0] * grid[1] + x[1]) * grid[2] + x[2];
        let seen = |x: usize, axis: usize| {
            let start = x.saturating_sub(window[axis] / 2).min(grid[axis] - window[axis]);
            start..start + window[axis]
        };
        let mut scores = Vec::new();
        for (i, h) in (0..n).flat_map(|i| (0..H).map(move |h| (i, h))) {
            let x = [i / (grid[1] * grid[2]), i / grid[2] % grid[1], i % grid[2]];
            let at = |i: usize| (i * H + h) * K..(i * H + h + 1) * K;
            scores.clear();
            let mut total = 0.0;
            for z in seen(x[0], 0) {
                for y in seen(x[1], 1) {
                    for w in seen(x[2], 2) {
                        let j = token([z, y, w]);
                        let dot: f32 = q[at(i)].iter().zip(&k[at(j)]).map(|(a, b)| a * b).sum();
                        let power = (dot / (K as f32).sqrt()).exp();
                        total += power;
                        scores.push((j, power));
                    }
                }
            }
            let out = &mut out[at(i)];
            for (j, power) in &scores {
                for (o, v) in out.iter_mut().zip(&v[at(*j)]) {
                    *o += power / total * v;
                }
            }
        }
        std::hint::black_box(&out);
        Ok(start.elapsed().as_secs_f64() * 1e3)
    })
}

fn halo() -> Run {
    let vectors = || [(); 2].map(|()| random::<2>([27, 8], true).require_grad());
    timed([[1, 64, 64, 8, 8]; 3], move |[q, k, v]| {
        let relative = if q.is_require_grad() { vectors() } else { vectors().map(Tensor::inner) };
        Ok(halo_attention(q, k, v, relative, &HaloOptions::default())?)
    })
}

fn routed() -> Run {
    timed([[1, 64, 64, 2, 32]; 3], |[q, k, v]| {
        let flat = |x: &Tensor<5>| x.clone().inner().reshape([1, 64, 64, 64]);
        let routing = route(&flat(&q), &flat(&k), 8, 4, 0.125)?;
        Ok(routed_attention(q, k, v, &routing.routes, 0.125)?)
    })
}

fn polarized() -> Outcome<Run> {
    let make = |device: &Device| PolarizedAttentionConfig::default().init(256, device);
    let (plain, tracked) = (make(&Device::flex())?, make(&Device::flex().autodiff())?);
    Ok(timed([[8, 64, 48, 256]], move |[x]| Ok(if x.is_require_grad() { tracked.forward(x) } else { plain.forward(x) })))
}

/// A case of ours with the names of its variants in PyTorch.
type Case = (&'static str, &'static str, Run, &'static [&'static str]);

fn cases() -> Outcome<Vec<Case>> {
    use NeighborhoodAlgorithm::{Auto, Tiles};
    let (dense, plain): (&[_], &[_]) = (&["dense", "flex"], &["eager"]);
    let windows =
        |[q, k, v]: [Tensor<5>; 3]| Ok(neighborhood_attention(q, k, v, &[WindowAxis::blocks(7); 2], NeighborhoodOptions::default())?.0);
    Ok(vec![
        ("na1d", "fused", neighborhood([1, 4096, 4, 32], 129, Auto), dense),
        ("na1d", "tiles", neighborhood([1, 4096, 4, 32], 129, Tiles), &[]),
        ("na1d", "naive", naive([1, 1, 4096], [1, 1, 129]), &[]),
        ("na2d_13", "fused", neighborhood([1, 64, 64, 4, 32], 13, Auto), dense),
        ("na2d_13", "tiles", neighborhood([1, 64, 64, 4, 32], 13, Tiles), &[]),
        ("na2d_13", "naive", naive([1, 64, 64], [1, 13, 13]), &[]),
        ("na2d_7", "fused", neighborhood([1, 56, 56, 4, 32], 7, Auto), dense),
        ("na2d_7", "tiles", neighborhood([1, 56, 56, 4, 32], 7, Tiles), &[]),
        ("na2d_7", "naive", naive([1, 56, 56], [1, 7, 7]), &[]),
        ("na3d", "fused", neighborhood([1, 16, 16, 16, 4, 32], 5, Auto), dense),
        ("na3d", "tiles", neighborhood([1, 16, 16, 16, 4, 32], 5, Tiles), &[]),
        ("na3d", "naive", naive([16; 3], [5; 3]), &[]),
        ("window", "fused", timed([[1, 56, 56, 4, 32]; 3], windows), plain),
        ("halo", "fused", halo(), plain),
        ("routed", "fused", routed(), plain),
        ("channel", "tensors", timed([[4, 3, 3136, 32]; 3], |[x, y, z]| Ok(channel_attention(x, y, z, 0.177)?)), plain),
        ("strip", "fused", timed([[4, 1, 3136, 1], [4, 1, 49, 1], [4, 1, 49, 64]], strip), plain),
        ("polarized", "collapsed", polarized()?, plain),
    ])
}

fn strip([q, k, v]: [Tensor<4>; 3]) -> Outcome<Tensor<4>> {
    Ok(strip_attention(q, k, v, StripOptions::default())?)
}

fn main() -> Result<(), Box<dyn Error>> {
    common::run(compare)
}

#[allow(clippy::print_stdout)]
fn compare() -> Outcome<()> {
    let seconds = common::seconds(3.0)?;
    let only = std::env::args().skip(1).find(|arg| !arg.starts_with('-'));
    println!("memory that training adds at 128 × 128 tokens of 4 heads of 32, by window; the first has the rest of the process, too");
    // All inputs are there before the first run.
    let runs = [3, 3, 7, 13, 31].map(|window| (window, neighborhood([1, 128, 128, 4, 32], window, NeighborhoodAlgorithm::Auto)));
    for (window, run) in runs {
        let before = peak_memory();
        run(true)?;
        println!("{window:>8} {:>8.1} MiB", peak_memory() - before);
    }
    let mut torch = Torch::start("vision_vs_torch.py")?;
    println!(
        "{:<10} {:<10} {:<17} {:>10} {:>8} {:>10} {:>7} {:>7}",
        "case", "ours", "pass", "regard ms", "torch", "torch ms", "median", "best"
    );
    for (case, name, run, variants) in cases()? {
        if only.as_ref().is_some_and(|only| !case.starts_with(only)) {
            continue;
        }
        for backward in [false, true] {
            if name == "naive" && backward {
                continue;
            }
            run(backward)?;
            let line = |variant: &str| format!("{case} {variant} {}", u8::from(backward));
            for variant in variants {
                torch.run(&line(variant))?;
            }
            let mut ours = Vec::new();
            let mut theirs = vec![Vec::new(); variants.len()];
            let start = Instant::now();
            while ours.len() < 5 || start.elapsed().as_secs_f64() < seconds {
                pause();
                ours.push(warm(|| run(backward))?);
                for (times, variant) in theirs.iter_mut().zip(variants) {
                    times.push(warm(|| torch.run(&line(variant)))?);
                }
            }
            let pass = if backward { "forward+backward" } else { "forward" };
            let a = median(&mut ours);
            print!("{case:<10} {name:<10} {pass:<17} {a:>10.2}");
            for (times, variant) in theirs.iter_mut().zip(variants) {
                let b = median(times);
                print!(" {variant:>8} {b:>10.2} {:>7.2} {:>7.2}", a / b, ours[0] / times[0]);
            }
            println!();
        }
    }
    torch.stop()?;
    Ok(())
}
