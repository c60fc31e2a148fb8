use std::{fs, path::PathBuf};

use clap::builder::PossibleValuesParser;
use regard_repro::bench::{BenchConfig, Direction, Number, OPERATIONS, bench, html};

use crate::{
    device::DeviceArg,
    failure::Failure,
    output::{Output, results},
};

/// Measure the operations of the mechanisms over sequence lengths
///
/// One causal operation at a time, without projections: median time, the bytes that must move and the arithmetic of its definition as
/// shares of what this machine copies and multiplies at best (measured in the same run), peak memory beyond the inputs, and the
/// exponent p of time ∝ T^p. An operation goes no further once a pass takes longer than a few seconds.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Mechanisms with an operation of their own, ids of `regard list` [default: all]
    #[arg(long, value_name = "A,B,…", value_delimiter = ',', value_parser = PossibleValuesParser::new(OPERATIONS))]
    mixers: Vec<String>,
    /// Lengths T [default: 512 to 8192, doubled]
    #[arg(long, value_name = "T,T,…", value_delimiter = ',')]
    lengths: Vec<usize>,
    /// Sequences at once
    #[arg(long, value_name = "B", default_value_t = BenchConfig::default().batch)]
    batch: usize,
    /// Heads
    #[arg(long, value_name = "H", default_value_t = BenchConfig::default().heads)]
    heads: usize,
    /// Width of a head, of keys and of values
    #[arg(long, value_name = "K", default_value_t = BenchConfig::default().width)]
    width: usize,
    /// Which passes: forward, or training (forward and backward) [default: both]
    #[arg(long, value_name = "A,B", value_delimiter = ',')]
    passes: Vec<Direction>,
    /// Type of the inputs: f32, f16 or bf16
    #[arg(long, default_value_t = BenchConfig::default().dtype)]
    dtype: Number,
    /// Seconds for the repetitions of one measurement
    #[arg(long, value_name = "S", default_value_t = BenchConfig::default().seconds)]
    seconds: f64,
    #[command(flatten)]
    device: DeviceArg,
    /// Write a page with plots
    #[arg(long, value_name = "FILE.html")]
    out: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

const EXAMPLES: &str = "\
Examples:
  regard bench
  regard bench --mixers softmax,lightning --lengths 1024,4096,16384 --passes training
  regard bench --device cuda --dtype bf16 --heads 16 --width 128 --json --out bench.html";

pub(crate) fn run(args: &Args, output: &Output) -> Result<(), Failure> {
    let config = args.config();
    config.validate()?;
    let device = args.device.device.open()?;
    let bench = bench(&config, &device, args.device.device.memory(), &mut |row| output.note(&row.cells().join("  ")))?;
    if let Some(path) = &args.out {
        fs::write(path, html(&bench)).map_err(|e| Failure::new(format!("cannot write {}: {e}", path.display())))?;
        output.note(&format!("page: {}", path.display()));
    }
    if args.json { output.json(&bench) } else { output.data(&results(&bench.table())) }
}

impl Args {
    fn config(&self) -> BenchConfig {
        let mut config = BenchConfig {
            batch: self.batch,
            heads: self.heads,
            width: self.width,
            dtype: self.dtype,
            seconds: self.seconds,
            ..BenchConfig::default()
        };
        if !self.mixers.is_empty() {
            config.mixers.clone_from(&self.mixers);
        }
        if !self.lengths.is_empty() {
            config.lengths.clone_from(&self.lengths);
        }
        if !self.passes.is_empty() {
            config.directions.clone_from(&self.passes);
        }
        config
    }
}
