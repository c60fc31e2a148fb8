//! What the programs that compare with PyTorch share.

#[allow(dead_code, reason = "not every program prints one")]
pub(crate) mod table;

use std::{
    env,
    error::Error,
    ffi::{c_int, c_long},
    hint::black_box,
    io::{BufRead, BufReader, Write},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use burn::tensor::{Gradients, Tensor};

/// Threads of both sides.
pub(crate) const THREADS: usize = 2;

/// The allocator of the command `regard`.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

unsafe extern "C" {
    /// Of mimalloc.
    fn mi_option_set(option: c_int, value: c_long);
}

type Outcome = Result<(), Box<dyn Error>>;

/// Runs our side as the command does, on a thread of the pool and with freed memory kept for ten seconds, with [`THREADS`] threads unless
/// `RAYON_NUM_THREADS` says otherwise.
pub(crate) fn run(program: fn() -> Outcome) -> Outcome {
    // Before any use of rayon, whose threads Burn and the kernels share.
    if env::var_os("RAYON_NUM_THREADS").is_none() {
        // SAFETY: no other thread runs yet.
        unsafe { env::set_var("RAYON_NUM_THREADS", THREADS.to_string()) };
    }
    // SAFETY: it stores a number.
    unsafe { mi_option_set(15, 10_000) };
    rayon::scope(|_| program().map_err(|e| e.to_string()))?;
    Ok(())
}

/// Computes all gradients for a cotangent of an output: those of `o · cotangent`, written as a product of a row and a column, whose own
/// gradient is one pass over memory. PyTorch's side is given the cotangent.
#[allow(dead_code, reason = "not every program asks for it")]
pub(crate) fn backward(o: Tensor<4>, cotangent: &Tensor<4>) -> Gradients {
    let len = o.shape().num_elements();
    o.reshape([1, len]).matmul(cotangent.clone().reshape([len, 1])).backward()
}

/// A run after others for a while, as in use: the first after a pause finds threads asleep, and at times all on one core.
#[allow(dead_code, reason = "not every program asks for it")]
pub(crate) fn warm(mut run: impl FnMut() -> Result<f64, Box<dyn Error>>) -> Result<f64, Box<dyn Error>> {
    let start = Instant::now();
    while start.elapsed().as_millis() < 30 {
        run()?;
    }
    run()
}

/// Lets PyTorch's threads fall asleep, which go on spinning for a while after their last product.
#[allow(dead_code, reason = "not every program asks for it")]
pub(crate) fn pause() {
    thread::sleep(Duration::from_millis(20));
}

/// Seconds per case: `REGARD_BENCH_SECONDS` or so many.
pub(crate) fn seconds(default: f64) -> Result<f64, Box<dyn Error>> {
    Ok(env::var("REGARD_BENCH_SECONDS").ok().map_or(Ok(default), |s| s.parse())?)
}

/// PyTorch in a process of its own, that runs one case when told to.
pub(crate) struct Torch {
    process: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Torch {
    /// Starts a script of this folder with the Python that `REGARD_TORCH_PYTHON` names.
    pub(crate) fn start(script: &str) -> Result<Self, Box<dyn Error>> {
        let python = env::var("REGARD_TORCH_PYTHON").unwrap_or_else(|_| "python3".into());
        let script = format!("{}/benches/{script}", env!("CARGO_MANIFEST_DIR"));
        let mut process = Command::new(&python)
            .args([script, THREADS.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|e| format!("{python}: {e}; set REGARD_TORCH_PYTHON to a Python with torch"))?;
        let input = process.stdin.take().ok_or("no stdin")?;
        let output = BufReader::new(process.stdout.take().ok_or("no stdout")?);
        Ok(Self { process, input, output })
    }

    /// One timed run of a case, in ms.
    pub(crate) fn run(&mut self, case: &str) -> Result<f64, Box<dyn Error>> {
        writeln!(self.input, "{case}")?;
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        Ok(line.trim().parse()?)
    }

    /// Ends the process.
    pub(crate) fn stop(self) -> std::io::Result<()> {
        let Self { mut process, input, .. } = self;
        drop(input);
        process.wait().map(drop)
    }
}

/// The highest resident memory of this process so far, in MiB; 0 where the system does not tell.
pub(crate) fn peak_memory() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let kib = status.lines().find_map(|l| l.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.parse::<f64>().ok());
    kib.unwrap_or(0.0) / 1024.0
}

/// Sorts the times.
pub(crate) fn median(times: &mut [f64]) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

/// Floating-point operations per second of one thread that does nothing but fused multiply-adds on registers.
#[allow(dead_code, reason = "not every program asks for it")]
pub(crate) fn peak_flops() -> f64 {
    const ROUNDS: usize = 1 << 20;
    const CHAINS: usize = 12;
    struct Chains;
    impl pulp::WithSimd for Chains {
        type Output = (f64, usize);
        #[inline(always)]
        fn with_simd<S: pulp::Simd>(self, simd: S) -> (f64, usize) {
            let factor = simd.splat_f32s(black_box(0.999));
            let mut sums = [simd.splat_f32s(black_box(1.0)); CHAINS];
            let start = Instant::now();
            for _ in 0..ROUNDS {
                for sum in &mut sums {
                    *sum = simd.mul_add_f32s(*sum, factor, factor);
                }
            }
            let seconds = start.elapsed().as_secs_f64();
            black_box(sums.map(|sum| simd.reduce_sum_f32s(sum)));
            (seconds, 2 * ROUNDS * CHAINS * S::F32_LANES)
        }
    }
    let runs = (0..20).map(|_| pulp::Arch::new().dispatch(Chains));
    runs.map(|(seconds, flops)| flops as f64 / seconds).fold(0.0, f64::max)
}
