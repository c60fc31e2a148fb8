//! Softmax attention beside PyTorch's `scaled_dot_product_attention`, in turns within one run. See README.md in this folder.

use std::{
    env,
    error::Error,
    io::{BufRead, BufReader, Write},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    time::Instant,
};

use burn::tensor::{Device, Distribution, Tensor};
use regard::softmax_attention::{SoftmaxOptions, softmax_attention};

const THREADS: usize = 2;
const SHAPES: [[usize; 4]; 3] = [[2, 8, 1024, 64], [1, 8, 4096, 64], [12, 4, 64, 32]];

/// PyTorch in a process of its own, that runs one case when told to.
struct Torch {
    process: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Torch {
    fn start(python: &str) -> Result<Self, Box<dyn Error>> {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/softmax_vs_torch.py");
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

    fn run(&mut self, [b, h, t, k]: [usize; 4], causal: bool, backward: bool) -> Result<f64, Box<dyn Error>> {
        writeln!(self.input, "{b} {h} {t} {k} {} {}", u8::from(causal), u8::from(backward))?;
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        Ok(line.trim().parse()?)
    }

    fn stop(self) -> std::io::Result<()> {
        let Self { mut process, input, .. } = self;
        drop(input);
        process.wait().map(drop)
    }
}

/// One timed run, in ms. With autodiff, the time is that of forward and backward.
fn regard([q, k, v, cotangent]: &[Tensor<4>; 4], causal: bool, backward: bool) -> Result<f64, Box<dyn Error>> {
    let options = SoftmaxOptions { causal, ..Default::default() };
    let start = Instant::now();
    let tracked = |x: &Tensor<4>| if backward { x.clone().require_grad() } else { x.clone() };
    let (o, _) = softmax_attention(tracked(q), tracked(k), tracked(v), options)?;
    if backward {
        std::hint::black_box((o * cotangent.clone()).sum().backward());
    } else {
        std::hint::black_box(o);
    }
    Ok(start.elapsed().as_secs_f64() * 1e3)
}

/// The highest resident memory of this process so far, in MiB; 0 where the system does not tell.
fn peak_memory() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let kib = status.lines().find_map(|l| l.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.parse::<f64>().ok());
    kib.unwrap_or(0.0) / 1024.0
}

fn random(shape: [usize; 4], device: &Device) -> [Tensor<4>; 4] {
    std::array::from_fn(|_| Tensor::random(shape, Distribution::Normal(0.0, 1.0), device))
}

fn median(times: &mut [f64]) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

#[allow(clippy::print_stdout)]
fn main() -> Result<(), Box<dyn Error>> {
    // Before any use of rayon, whose threads Burn and the kernels share.
    if env::var_os("RAYON_NUM_THREADS").is_none() {
        // SAFETY: no other thread runs yet.
        unsafe { env::set_var("RAYON_NUM_THREADS", THREADS.to_string()) };
    }
    let seconds: f64 = env::var("REGARD_BENCH_SECONDS").ok().map_or(Ok(6.0), |s| s.parse())?;
    let (plain, autodiff) = (Device::flex(), Device::flex().autodiff());
    println!("training at T: resident memory it adds, beside one matrix of all scores");
    for t in [1024, 4096, 16384] {
        let inputs = random([1, 1, t, 64], &autodiff);
        let before = peak_memory();
        regard(&inputs, true, true)?;
        let scores = (t * t * 4) as f64 / f64::from(1 << 20);
        println!("{t:>8} {:>8.1} MiB of {scores:.0} MiB", peak_memory() - before);
    }
    let mut torch = Torch::start(&env::var("REGARD_TORCH_PYTHON").unwrap_or_else(|_| "python3".into()))?;
    println!("{:<18} {:<7} {:<17} {:>10} {:>10} {:>7} {:>7}", "[B, H, T, K]", "causal", "pass", "regard ms", "torch ms", "median", "best");
    for shape in SHAPES {
        let (forward, training) = (random(shape, &plain), random(shape, &autodiff));
        for (causal, backward) in [(false, false), (true, false), (false, true), (true, true)] {
            let inputs = if backward { &training } else { &forward };
            regard(inputs, causal, backward)?;
            torch.run(shape, causal, backward)?;
            let (mut ours, mut theirs) = (Vec::new(), Vec::new());
            let start = Instant::now();
            while ours.len() < 5 || start.elapsed().as_secs_f64() < seconds {
                ours.push(regard(inputs, causal, backward)?);
                theirs.push(torch.run(shape, causal, backward)?);
            }
            let (a, b) = (median(&mut ours), median(&mut theirs));
            let pass = if backward { "forward+backward" } else { "forward" };
            println!("{:<18} {causal:<7} {pass:<17} {a:>10.2} {b:>10.2} {:>7.2} {:>7.2}", format!("{shape:?}"), a / b, ours[0] / theirs[0]);
        }
    }
    torch.stop()?;
    Ok(())
}
