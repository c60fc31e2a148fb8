use std::{hint::black_box, time::Duration};

use burn::tensor::{Device, Tensor};
use regard_train::{MemoryMeter, report::Quantity};
use serde::{Deserialize, Serialize};

use super::{
    BenchConfig, Direction,
    operations::{Operation, operation},
};
use crate::{
    Error, Result, Table,
    fit::exponent,
    machine::{Machine, Rates, sync},
    measure::{Patience, measure},
};

/// What was measured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Bench {
    /// The configuration.
    pub config: BenchConfig,
    /// The machine.
    pub machine: Machine,
    /// What the machine can do at best, measured in the same run.
    pub rates: Rates,
    /// The measurements.
    pub rows: Vec<BenchRow>,
    /// How time grows.
    pub growth: Vec<Growth>,
}

/// One measurement of one operation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BenchRow {
    /// The kind of mixer.
    pub mixer: String,
    /// Which passes.
    pub direction: Direction,
    /// Length T.
    pub tokens: usize,
    /// Seconds, median.
    pub seconds: f64,
    /// Repetitions behind the median.
    pub repetitions: usize,
    /// Bytes that must move: each input, output and gradient read or written once per pass.
    pub bytes: usize,
    /// These bytes per second as a share of the machine's copy bandwidth.
    pub copy_share: f64,
    /// Floating-point operations that the definition needs.
    pub flops: f64,
    /// These operations per second as a share of the machine's matrix product.
    pub matmul_share: f64,
    /// Largest number of bytes in use beyond the inputs, if measured.
    pub peak_bytes: Option<usize>,
}

/// How the time of one operation grows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Growth {
    /// The kind of mixer.
    pub mixer: String,
    /// Which passes.
    pub direction: Direction,
    /// Exponent p of time ∝ T^p; nothing for a single length.
    pub exponent: Option<f64>,
    /// Shortest and longest length of the fit.
    pub range: [usize; 2],
}

/// Fits begin here where at least two lengths are longer: below, fixed costs dominate.
const FIT_FROM: usize = 1024;

/// Measures the operations; `observer` sees each row as it comes.
///
/// # Errors
/// If the configuration is invalid or an operation rejects its inputs.
pub fn bench(config: &BenchConfig, device: &Device, memory: Option<MemoryMeter>, observer: &mut dyn FnMut(&BenchRow)) -> Result<Bench> {
    config.validate()?;
    let rates = Rates::measure(device);
    let mut lengths = config.lengths.clone();
    lengths.sort_unstable();
    lengths.dedup();
    let (mut rows, mut growth) = (Vec::new(), Vec::new());
    for &direction in &config.directions {
        for mixer in &config.mixers {
            let first = rows.len();
            for &tokens in &lengths {
                let row = row(mixer, direction, tokens, config, &rates, device, memory)?;
                observer(&row);
                let too_long = row.seconds > config.longest_pass;
                rows.push(row);
                if too_long {
                    break;
                }
            }
            growth.push(grow(&rows[first..], mixer, direction));
        }
    }
    Ok(Bench { config: config.clone(), machine: Machine::describe(device), rates, rows, growth })
}

fn row(
    mixer: &str,
    direction: Direction,
    tokens: usize,
    config: &BenchConfig,
    rates: &Rates,
    device: &Device,
    memory: Option<MemoryMeter>,
) -> Result<BenchRow> {
    let unknown = || Error::UnknownMixer { name: mixer.into(), suggestion: None };
    let device = if direction == Direction::Training { device.clone().autodiff() } else { device.clone().inner() };
    let Operation { inputs, run, flops, backward_flops } = operation(mixer, config, tokens, &device).ok_or_else(unknown)?;
    let size = |t: &Tensor<4>| t.dims().iter().product::<usize>() * t.dtype().size();
    // Once for its errors; later runs have the same shapes.
    let output = size(&run(&inputs)?);
    let input: usize = inputs.iter().map(size).sum();
    let patience = Patience { repetitions: 50, enough: Duration::from_secs_f64(config.seconds.max(0.0)) };
    let cost = match direction {
        Direction::Forward => measure(memory, patience, || {
            black_box(run(&inputs).ok());
            sync(&device);
        }),
        Direction::Training => {
            let inputs: Vec<_> = inputs.into_iter().map(Tensor::require_grad).collect();
            measure(memory, patience, || {
                if let Ok(o) = run(&inputs) {
                    let grads = (o.clone() * o.detach()).sum().backward();
                    black_box(inputs.iter().map(|x| x.grad(&grads)).collect::<Vec<_>>());
                    sync(&device);
                }
            })
        }
    };
    let (bytes, flops) = match direction {
        Direction::Forward => (input + output, flops),
        // The backward pass reads inputs and the output's gradient and writes the inputs' gradients.
        Direction::Training => (3 * input + 2 * output, flops + backward_flops),
    };
    Ok(BenchRow {
        mixer: mixer.into(),
        direction,
        tokens,
        seconds: cost.seconds,
        repetitions: cost.repetitions,
        bytes,
        copy_share: bytes as f64 / cost.seconds / rates.copy_bytes_per_s,
        flops,
        matmul_share: flops / cost.seconds / rates.matmul_flops_per_s,
        peak_bytes: cost.peak_bytes,
    })
}

fn grow(rows: &[BenchRow], mixer: &str, direction: Direction) -> Growth {
    let long: Vec<_> = rows.iter().filter(|r| r.tokens >= FIT_FROM).collect();
    let fitted = if long.len() > 1 { long } else { rows.iter().collect() };
    let range = [fitted.first(), fitted.last()].map(|r| r.map_or(0, |r| r.tokens));
    Growth { mixer: mixer.into(), direction, exponent: exponent(fitted.iter().map(|r| (r.tokens as f64, r.seconds))), range }
}

impl BenchRow {
    /// The row for people; its columns are those of [`Bench::table`].
    pub fn cells(&self) -> Vec<String> {
        vec![
            self.mixer.clone(),
            self.direction.to_string(),
            Quantity::Length.text(self.tokens as f64, 4),
            Quantity::Seconds.text(self.seconds, 3),
            Quantity::Bytes.text(self.bytes as f64, 3),
            format!("{:.1} %", 100.0 * self.copy_share),
            format!("{:.1} %", 100.0 * self.matmul_share),
            self.peak_bytes.map_or("–".into(), |b| Quantity::Bytes.text(b as f64, 3)),
        ]
    }
}

impl Bench {
    /// The measurements for people; the last column of a mixer's longest row has the exponent.
    pub fn table(&self) -> Table {
        let columns = ["mixer", "passes", "T", "time", "moves", "of copy", "of matmul", "peak memory", "time ∝"];
        let rows = self.rows.iter().map(|row| {
            let growth = self.growth.iter().find(|g| g.mixer == row.mixer && g.direction == row.direction && g.range[1] == row.tokens);
            let exponent = growth.and_then(|g| g.exponent).map_or(String::new(), |p| format!("T^{p:.2}"));
            [row.cells(), vec![exponent]].concat()
        });
        Table { columns: columns.map(str::to_owned).to_vec(), rows: rows.collect() }
    }
}
