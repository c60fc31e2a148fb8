//! Lightning attention beside the same algorithm in eager PyTorch, and beside its softmax attention, in turns within one run. See
//! README.md in this folder.

use std::{
    env,
    error::Error,
    hint::black_box,
    io::{BufRead, BufReader, Write},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use burn::tensor::{Device, Distribution, Tensor};
use pulp::{Arch, Simd, WithSimd};
use regard::lightning_attention::{LightningOpts, lightning_attention};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const THREADS: usize = 2;
/// B, H, T, width of keys and values. `REGARD_BENCH_SHAPES` replaces them: `1x8x512x64,…`.
const SHAPES: &str = "1x8x512x64,4x8x512x64,1x8x2048x64,4x8x2048x64,1x8x2048x128,4x8x2048x128,1x8x16384x64,1x8x16384x128,2x8x16384x64";

type Shape = [usize; 4];

/// PyTorch in a process of its own, that runs one case when told to.
struct Torch {
    process: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Torch {
    fn start(python: &str) -> Result<Self, Box<dyn Error>> {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/lightning_vs_torch.py");
        let mut process = Command::new(python)
            .args([script, &THREADS.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|e| format!("{python}: {e}; set REGARD_TORCH_PYTHON to a Python with torch"))?;
        let input = process.stdin.take().ok_or("no stdin")?;
        let output = BufReader::new(process.stdout.take().ok_or("no stdout")?);
        Ok(Self { process, input, output })
    }

    /// One timed run, in ms.
    fn run(&mut self, shape: Shape, (form, block): (&str, usize), backward: bool) -> Result<f64, Box<dyn Error>> {
        let slopes = slopes(shape[1]);
        writeln!(self.input, r#"{{"shape":{shape:?},"slopes":{slopes:?},"form":"{form}","block":{block},"backward":{backward}}}"#)?;
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        Ok(line.trim().parse()?)
    }

    /// The form and block that are fastest here.
    fn best_form(&mut self, shape: Shape, backward: bool) -> Result<(&'static str, usize), Box<dyn Error>> {
        let mut best = (f64::INFINITY, ("in_turn", 64));
        for form in ["in_turn", "batched"] {
            for block in [64, 128] {
                self.run(shape, (form, block), backward)?;
                let time = (0..2).map(|_| self.run(shape, (form, block), backward)).collect::<Result<Vec<_>, _>>()?;
                let time = time.into_iter().fold(f64::INFINITY, f64::min);
                if time < best.0 {
                    best = (time, (form, block));
                }
            }
        }
        Ok(best.1)
    }

    fn stop(self) -> std::io::Result<()> {
        let Self { mut process, input, .. } = self;
        drop(input);
        process.wait().map(drop)
    }
}

/// A geometric row of decays, as the paper's code has it in the first layer.
fn slopes(heads: usize) -> Vec<f64> {
    (1..=heads).map(|h| 2_f64.powf(-8.0 * h as f64 / heads as f64)).collect()
}

/// One timed run, in ms; with `backward`, forward and backward.
fn regard([q, k, v, cotangent]: &[Tensor<4>; 4], backward: bool) -> Result<f64, Box<dyn Error>> {
    let slopes = slopes(q.dims()[1]);
    // PyTorch's threads go on spinning for a while after their last product.
    thread::sleep(Duration::from_millis(20));
    let start = Instant::now();
    let tracked = |x: &Tensor<4>| if backward { x.clone().require_grad() } else { x.clone() };
    let (o, _) = lightning_attention(tracked(q), tracked(k), tracked(v), &slopes, LightningOpts::default())?;
    if backward {
        black_box((o * cotangent.clone()).sum().backward());
    } else {
        black_box(o);
    }
    Ok(start.elapsed().as_secs_f64() * 1e3)
}

/// Multiply-adds in twelve independent chains.
struct Chains(usize);

impl WithSimd for Chains {
    type Output = f64;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> f64 {
        let (x, y) = (simd.splat_f32s(black_box(0.999)), simd.splat_f32s(black_box(0.001)));
        let mut chains = [x; 12];
        for _ in 0..self.0 {
            for chain in &mut chains {
                *chain = simd.mul_add_e_f32s(*chain, x, y);
            }
        }
        black_box(chains.map(|chain| simd.reduce_sum_f32s(chain)));
        (2 * self.0 * chains.len() * S::F32_LANES) as f64
    }
}

/// Floating-point operations per second of all threads in multiply-adds that touch no memory: the peak.
fn peak() -> f64 {
    let run = || {
        let start = Instant::now();
        let work = Arch::new().dispatch(Chains(2_000_000));
        work / start.elapsed().as_secs_f64()
    };
    let all = || {
        thread::scope(|scope| (0..THREADS).map(|_| scope.spawn(run)).collect::<Vec<_>>().into_iter().map(|t| t.join().unwrap_or(0.0)).sum())
    };
    (0..20).map(|_| all()).fold(0.0, f64::max)
}

/// What the definition needs: the state updated and read, K·V multiply-adds each per token; backward twice that.
fn flops([b, h, t, width]: Shape, backward: bool) -> f64 {
    let forward = 4.0 * (b * h * t) as f64 * (width * width) as f64;
    if backward { 3.0 * forward } else { forward }
}

/// The highest resident memory of this process so far, in bytes; 0 where the system does not tell.
fn peak_memory() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let kib = status.lines().find_map(|l| l.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.parse::<f64>().ok());
    kib.unwrap_or(0.0) * 1024.0
}

fn random(shape: Shape, device: &Device) -> [Tensor<4>; 4] {
    std::array::from_fn(|_| Tensor::random(shape, Distribution::Normal(0.0, 1.0), device))
}

fn median(times: &mut [f64]) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

fn shapes() -> Result<Vec<Shape>, Box<dyn Error>> {
    let text = env::var("REGARD_BENCH_SHAPES").unwrap_or_else(|_| SHAPES.into());
    let shape = |text: &str| -> Result<Shape, Box<dyn Error>> {
        let sizes = text.split('x').map(str::parse).collect::<Result<Vec<usize>, _>>()?;
        sizes.try_into().map_err(|_| format!("{text} is not BxHxTxK").into())
    };
    text.split(',').map(shape).collect()
}

#[allow(clippy::print_stdout)]
fn main() -> Result<(), Box<dyn Error>> {
    // Before any use of rayon, whose threads Burn and the kernels share.
    if env::var_os("RAYON_NUM_THREADS").is_none() {
        // SAFETY: no other thread runs yet.
        unsafe { env::set_var("RAYON_NUM_THREADS", THREADS.to_string()) };
    }
    let seconds: f64 = env::var("REGARD_BENCH_SECONDS").ok().map_or(Ok(4.0), |s| s.parse())?;
    let (plain, autodiff) = (Device::flex(), Device::flex().autodiff());
    for t in [4096, 16384, 65536] {
        let inputs = random([1, 1, t, 64], &autodiff);
        let before = peak_memory();
        regard(&inputs, true)?;
        println!(r#"{{"training_at_t":{t},"bytes_per_token_beside_inputs":{:.0}}}"#, (peak_memory() - before) / t as f64);
    }
    let peak = peak();
    println!(r#"{{"fma_peak_gflops":{:.1},"threads":{THREADS}}}"#, peak / 1e9);
    let mut torch = Torch::start(&env::var("REGARD_TORCH_PYTHON").unwrap_or_else(|_| "python3".into()))?;
    for shape in shapes()? {
        for (device, backward) in [(&plain, false), (&autodiff, true)] {
            let inputs = random(shape, device);
            let form = torch.best_form(shape, backward)?;
            let softmax = shape[2] >= 2048;
            regard(&inputs, backward)?;
            let (mut ours, mut theirs, mut sdpa) = (Vec::new(), Vec::new(), Vec::new());
            let start = Instant::now();
            while ours.len() < 5 || start.elapsed().as_secs_f64() < seconds {
                ours.push(regard(&inputs, backward)?);
                theirs.push(torch.run(shape, form, backward)?);
                if softmax && sdpa.len() < 5 {
                    sdpa.push(torch.run(shape, ("sdpa", 0), backward)?);
                }
            }
            let (a, b) = (median(&mut ours), median(&mut theirs));
            let (best_a, best_b) = (ours[0], theirs[0]);
            let share = flops(shape, backward) / (a * 1e-3) / peak;
            let best_share = flops(shape, backward) / (best_a * 1e-3) / peak;
            let pass = if backward { "forward+backward" } else { "forward" };
            let (name, block) = form;
            let sdpa = if softmax { format!("{:.4}", a / median(&mut sdpa)) } else { "null".into() };
            println!(
                r#"{{"shape":{shape:?},"pass":"{pass}","regard_ms":{a:.3},"torch_ms":{b:.3},"torch_form":"{name}, block {block}","ratio":{:.3},"best_ratio":{:.3},"sdpa_ratio":{sdpa},"peak_share":{share:.3},"best_peak_share":{best_share:.3}}}"#,
                a / b,
                best_a / best_b,
            );
        }
    }
    torch.stop()?;
    Ok(())
}
