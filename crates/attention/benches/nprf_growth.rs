//! Forward and backward of NPRF over the length, by each of its algorithms in turns. See README.md in this folder.

use std::{env, error::Error, time::Instant};

use burn::tensor::{Device, Distribution, Tensor};
use regard::nprf::{NprfAlgorithm, NprfOptions, nprf};

const ALGORITHMS: [NprfAlgorithm; 3] = [NprfAlgorithm::Fft, NprfAlgorithm::Dense, NprfAlgorithm::Auto];
const WIDTHS: [usize; 2] = [16, 64];
const SHORTEST: usize = 1024;

/// One forward and backward pass, in ms.
fn run(tokens: usize, width: usize, causal: bool, algorithm: NprfAlgorithm, device: &Device) -> Result<f64, Box<dyn Error>> {
    let draw = |shape: [usize; 4]| Tensor::<4>::random(shape, Distribution::Normal(0.0, 1.0), device).require_grad();
    let [q, k, v] = [(); 3].map(|()| draw([1, 1, tokens, width]));
    let projection = Tensor::random([1, width, width], Distribution::Normal(0.0, 1.0), device);
    let bias = Tensor::random([1, 2 * tokens - 1], Distribution::Normal(0.0, 0.5), device).require_grad();
    let options = NprfOptions { causal, algorithm, ..NprfOptions::default() };
    let start = Instant::now();
    let (o, _) = nprf(q, k, v, projection, Some(bias), &options)?;
    std::hint::black_box(o.sum().backward());
    Ok(start.elapsed().as_secs_f64() * 1e3)
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

/// The slope of a line through (ln T, ln time).
fn exponent(points: &[(usize, f64)]) -> f64 {
    let logs: Vec<_> = points.iter().map(|&(t, ms)| ((t as f64).ln(), ms.ln())).collect();
    let n = logs.len() as f64;
    let (x, y) = (logs.iter().map(|p| p.0).sum::<f64>() / n, logs.iter().map(|p| p.1).sum::<f64>() / n);
    logs.iter().map(|p| (p.0 - x) * (p.1 - y)).sum::<f64>() / logs.iter().map(|p| (p.0 - x).powi(2)).sum::<f64>()
}

#[allow(clippy::print_stdout, reason = "a bench prints its table")]
fn main() -> Result<(), Box<dyn Error>> {
    let longest: usize = env::var("REGARD_BENCH_TOKENS").map_or(Ok(16_384), |t| t.parse())?;
    let device = Device::flex().autodiff();
    println!("forward+backward in ms, one head, M = K = V");
    println!("{:>4} {:<13} {:>7} {:>10} {:>10} {:>10}", "K", "", "T", "fft", "dense", "auto");
    for width in WIDTHS {
        for causal in [false, true] {
            let name = if causal { "causal" } else { "bidirectional" };
            let mut columns = [const { Vec::new() }; 3];
            let mut tokens = SHORTEST;
            while tokens <= longest {
                let mut times = [const { Vec::new() }; 3];
                let start = Instant::now();
                while times[0].is_empty() || (times[0].len() < 7 && start.elapsed().as_secs_f64() < 3.0) {
                    for (times, algorithm) in times.iter_mut().zip(ALGORITHMS) {
                        times.push(run(tokens, width, causal, algorithm, &device)?);
                    }
                }
                let [fft, dense, auto] = times.map(median);
                println!("{width:>4} {name:<13} {tokens:>7} {fft:>10.1} {dense:>10.1} {auto:>10.1}");
                for (column, ms) in columns.iter_mut().zip([fft, dense, auto]) {
                    column.push((tokens, ms));
                }
                tokens *= 2;
            }
            let [fft, dense, auto] = columns.map(|c| exponent(&c));
            println!("{width:>4} {name:<13} {:>7} {fft:>10.2} {dense:>10.2} {auto:>10.2}", "T^");
        }
    }
    Ok(())
}
