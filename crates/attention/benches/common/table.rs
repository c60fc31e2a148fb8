use std::{env, error::Error, fs, time::Instant};

use burn::tensor::Device;

use super::{THREADS, Torch, median, pause, peak_flops, warm};

/// A program that prints a table of one operation beside PyTorch's.
pub(crate) struct Table<'a> {
    /// The script of PyTorch's side.
    pub(crate) script: &'a str,
    /// What the script calls the operation.
    pub(crate) case: &'a str,
    /// The axes of a shape.
    pub(crate) axes: &'a str,
    /// The shapes.
    pub(crate) shapes: &'a [[usize; 4]],
    /// Least number of samples of a case.
    pub(crate) samples: usize,
    /// Seconds per case.
    pub(crate) seconds: f64,
}

impl Table<'_> {
    /// Runs every shape forward, then forward and backward, ours and PyTorch's in turns; prints medians and their ratio, the ratio of the
    /// best times, the share of the peak of multiply-adds, and PyTorch's softmax attention from T = 2048 on. `inputs` makes the tensors of a
    /// shape, `run` times one run in ms, `flops` counts its arithmetic.
    #[allow(clippy::print_stdout)]
    pub(crate) fn print<I>(
        &self,
        inputs: impl Fn([usize; 4], &Device) -> I,
        run: impl Fn(&I, bool) -> Result<f64, Box<dyn Error>>,
        flops: impl Fn([usize; 4], bool) -> f64,
    ) -> Result<(), Box<dyn Error>> {
        let (plain, autodiff) = (Device::flex(), Device::flex().autodiff());
        let peak = peak_flops();
        println!("multiply-adds on registers, one thread: {:.1} GFLOP/s", peak / 1e9);
        let mut torch = Torch::start(self.script)?;
        println!(
            "{:<18} {:<17} {:>10} {:>10} {:>7} {:>7} {:>8} {:>10}",
            self.axes, "pass", "regard ms", "torch ms", "median", "best", "of peak", "sdpa ms"
        );
        let mut rows = Vec::new();
        for &shape in self.shapes {
            let [b, h, t, d] = shape;
            for backward in [false, true] {
                let tensors = inputs(shape, if backward { &autodiff } else { &plain });
                let case = |name: &str| format!("{name} {b} {h} {t} {d} {}", u8::from(backward));
                let sdpa = t >= 2048;
                run(&tensors, backward)?;
                torch.run(&case(self.case))?;
                let (mut ours, mut theirs, mut softmax) = (Vec::new(), Vec::new(), Vec::new());
                let start = Instant::now();
                while ours.len() < self.samples || start.elapsed().as_secs_f64() < self.seconds {
                    pause();
                    ours.push(warm(|| run(&tensors, backward))?);
                    theirs.push(warm(|| torch.run(&case(self.case)))?);
                    if sdpa && softmax.len() < 3 {
                        softmax.push(torch.run(&case("sdpa"))?);
                    }
                }
                let (a, b) = (median(&mut ours), median(&mut theirs));
                let softmax = if sdpa { median(&mut softmax) } else { f64::NAN };
                let share = flops(shape, backward) / (ours[0] * 1e-3) / (peak * THREADS as f64);
                let pass = if backward { "forward+backward" } else { "forward" };
                let best = ours[0] / theirs[0];
                println!(
                    "{:<18} {pass:<17} {a:>10.2} {b:>10.2} {:>7.2} {best:>7.2} {:>7.0}% {softmax:>10.1}",
                    format!("{shape:?}"),
                    a / b,
                    100.0 * share
                );
                rows.push(serde_json::json!({
                    "shape": shape, "pass": pass, "regard_ms": a, "torch_ms": b, "ratio": a / b, "best_ratio": best,
                    "share_of_peak": share, "sdpa_ms": sdpa.then_some(softmax), "samples": ours.len(),
                }));
            }
        }
        torch.stop()?;
        if let Some(path) = env::var_os("REGARD_BENCH_JSON") {
            let report = serde_json::json!({ "threads": THREADS, "peak_gflops_per_thread": peak / 1e9, "cases": rows });
            fs::write(path, serde_json::to_string_pretty(&report)?)?;
        }
        Ok(())
    }
}
