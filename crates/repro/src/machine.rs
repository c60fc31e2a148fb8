//! The machine that numbers were measured on, and what it can do at best.

use std::{fs, hint::black_box, thread, time::Instant};

use burn::tensor::{DType, Device, Distribution, Tensor};
use regard_train::report::Quantity;
use serde::{Deserialize, Serialize};
use sysinfo::{CpuRefreshKind, MemoryRefreshKind, RefreshKind, System};

/// A machine and what runs on it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    /// Model of the CPU.
    pub cpu: String,
    /// Physical cores, if the system says.
    pub cores: Option<usize>,
    /// Threads that this process may run at once.
    pub threads: usize,
    /// Bytes of memory.
    pub memory_bytes: u64,
    /// Operating system and kernel.
    pub os: String,
    /// The device that tensors live on.
    pub device: String,
    /// Version of this program.
    pub regard: String,
    /// Whether this program was built with optimisation.
    pub optimized: bool,
}

impl Machine {
    /// This machine, with the device that computes.
    pub fn describe(device: &Device) -> Self {
        let kinds = RefreshKind::nothing().with_cpu(CpuRefreshKind::nothing()).with_memory(MemoryRefreshKind::nothing().with_ram());
        let system = System::new_with_specifics(kinds).ok();
        let unknown = || "unknown".to_owned();
        let cpu = system.as_ref().and_then(|s| s.cpus().first().map(|c| c.brand().trim().to_owned()));
        let os = [System::long_os_version().ok(), System::kernel_version().ok().map(|k| format!("kernel {k}"))];
        Self {
            cpu: cpu.filter(|c| !c.is_empty()).unwrap_or_else(System::cpu_arch),
            cores: System::physical_core_count().ok(),
            threads: threads(),
            memory_bytes: system.map_or(0, |s| s.total_memory()),
            os: Some(os.into_iter().flatten().collect::<Vec<_>>().join(", ")).filter(|t| !t.is_empty()).unwrap_or_else(unknown),
            device: name(device),
            regard: env!("CARGO_PKG_VERSION").into(),
            optimized: !cfg!(debug_assertions),
        }
    }

    /// The same as names and values, for people.
    pub fn facts(&self) -> Vec<(&'static str, String)> {
        let cores = self.cores.map_or(String::new(), |cores| format!("{cores} cores, "));
        let build = if self.optimized { "" } else { ", built without optimisation" };
        vec![
            ("CPU", self.cpu.clone()),
            ("Parallelism", format!("{cores}{} threads", self.threads)),
            ("Memory", Quantity::Bytes.text(self.memory_bytes as f64, 3)),
            ("System", self.os.clone()),
            ("Device", self.device.clone()),
            ("Version", format!("regard {}{build}", self.regard)),
        ]
    }
}

/// As in a program's text, and a GPU with its name and driver.
fn name(device: &Device) -> String {
    let device = device.clone().inner();
    let place = format!("{device:?}").trim_start_matches("Device<").trim_end_matches('>').to_owned();
    let Some(card) = regard::card_name(&device) else { return place };
    let driver = nvidia_driver().filter(|_| card.contains("NVIDIA")).map_or(String::new(), |driver| format!(", driver {driver}"));
    format!("{place}, {card}{driver}")
}

/// The version of NVIDIA's driver, where Linux shows it.
fn nvidia_driver() -> Option<String> {
    let text = fs::read_to_string("/proc/driver/nvidia/version").ok()?;
    let version = |word: &&str| word.contains('.') && word.chars().all(|c| c.is_ascii_digit() || c == '.');
    text.lines().next()?.split_whitespace().find(version).map(str::to_owned)
}

fn threads() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}

/// What a machine can do at best, measured.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rates {
    /// Bytes read and written per second when a buffer much larger than the caches is copied.
    pub copy_bytes_per_s: f64,
    /// Floating-point operations per second of a large f32 matrix product, a multiply-add counted as two.
    pub matmul_flops_per_s: f64,
    /// The same in bf16, on a GPU.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub matmul_bf16_flops_per_s: Option<f64>,
}

impl Rates {
    /// Measures both on the device; takes about a second.
    pub fn measure(device: &Device) -> Self {
        let device = device.clone().inner();
        let half = !is_cpu(&device) && device.supports_dtype(DType::BF16);
        Self {
            copy_bytes_per_s: if is_cpu(&device) { copy_on_cpu() } else { copy_on_device(&device) },
            matmul_flops_per_s: matmul(&device, DType::F32),
            matmul_bf16_flops_per_s: half.then(|| matmul(&device, DType::BF16)),
        }
    }

    /// The same as names and values, for people.
    pub fn facts(&self) -> Vec<(&'static str, String)> {
        let half = self.matmul_bf16_flops_per_s.map_or(String::new(), |rate| format!(", {:.0} GFLOP/s (bf16)", rate / 1e9));
        vec![
            ("Copy bandwidth", format!("{:.1} GB/s (read and write)", self.copy_bytes_per_s / 1e9)),
            ("Matrix product", format!("{:.0} GFLOP/s (f32){half}", self.matmul_flops_per_s / 1e9)),
        ]
    }
}

/// Whether the device, without automatic differentiation, is the CPU.
pub(crate) fn is_cpu(device: &Device) -> bool {
    *device == Device::flex()
}

/// Shortest of several runs after one that warms up: what the machine can do undisturbed.
fn best_seconds(runs: usize, mut work: impl FnMut()) -> f64 {
    work();
    let times = (0..runs).map(|_| {
        let start = Instant::now();
        work();
        start.elapsed().as_secs_f64()
    });
    times.fold(f64::INFINITY, f64::min)
}

/// All threads copy a piece of their own.
fn copy_on_cpu() -> f64 {
    const BYTES: usize = 128 << 20;
    let source = vec![1_u8; BYTES];
    let mut target = vec![0_u8; BYTES];
    let piece = BYTES.div_ceil(threads());
    let seconds = best_seconds(5, || {
        thread::scope(|scope| {
            for (to, from) in target.chunks_mut(piece).zip(source.chunks(piece)) {
                scope.spawn(|| to.copy_from_slice(black_box(from)));
            }
        });
        black_box(&target);
    });
    2.0 * BYTES as f64 / seconds
}

fn copy_on_device(device: &Device) -> f64 {
    const NUMBERS: usize = 256 << 20;
    let source = Tensor::<1>::zeros([NUMBERS], device);
    let seconds = best_seconds(5, || {
        // Adding 1 reads and writes every number once; a clone alone would copy nothing.
        let copy = source.clone() + 1.0;
        sync(device);
        drop(copy);
    });
    2.0 * 4.0 * NUMBERS as f64 / seconds
}

fn matmul(device: &Device, dtype: DType) -> f64 {
    // Many short runs on the CPU: what else the machine does must leave one alone.
    let (n, runs) = if is_cpu(device) { (1024, 40) } else { (8192, 5) };
    let draw = || Tensor::<2>::random([n, n], Distribution::Normal(0.0, 1.0), device).cast(dtype);
    let (a, b) = (draw(), draw());
    let seconds = best_seconds(runs, || {
        let product = a.clone().matmul(b.clone());
        sync(device);
        black_box(product);
    });
    2.0 * (n as f64).powi(3) / seconds
}

/// Waits for the device. One that failed shows it at the next read of a tensor.
pub(crate) fn sync(device: &Device) {
    if let Err(error) = device.sync() {
        log::warn!("waiting for the device failed: {error:?}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_has_a_name_threads_and_memory() {
        let machine = Machine::describe(&Device::flex());
        assert!(!machine.cpu.is_empty() && machine.threads > 0 && machine.memory_bytes > 1 << 20, "{machine:?}");
        assert!(machine.facts().iter().all(|(name, value)| !name.is_empty() && !value.is_empty()));
    }

    #[test]
    fn rates_are_within_what_machines_do() {
        let rates = Rates::measure(&Device::flex());
        assert!((1e8..1e13).contains(&rates.copy_bytes_per_s), "{rates:?}");
        assert!((1e7..1e15).contains(&rates.matmul_flops_per_s), "{rates:?}");
    }
}
