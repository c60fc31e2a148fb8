use std::path::{Path, PathBuf};

use burn::tensor::Device;
use clap::builder::PossibleValuesParser;
use regard_models::MapMixerConfig;
use regard_repro::machine::Machine;
use regard_train::{
    Hooks, Outcome, Run, Sampling, Status, Trainer, generate,
    report::{Quantity, RunFacts, write_run_report},
};
use serde_json::json;

use crate::{
    cli::command_line,
    device::DeviceArg,
    failure::Failure,
    interrupt,
    output::{Output, facts},
    overrides::{self, Override},
    progress,
};

/// Train one model from a configuration file
///
/// A run is a folder: config.toml (complete, it can be trained again), metrics.jsonl (one JSON object per logged step and evaluation),
/// checkpoints and report.html. Ctrl-C writes a checkpoint and stops; `--resume` goes on from the last one and gives the same losses,
/// bit for bit on the CPU, as a run that was never stopped.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// The configuration, a TOML file
    #[arg(required_unless_present = "resume", conflicts_with = "resume")]
    config: Option<PathBuf>,
    /// Go on with the run in this folder
    #[arg(long, value_name = "DIR")]
    resume: Option<PathBuf>,
    /// Folder of the new run [default: runs/ and the name of the file]
    #[arg(long, value_name = "DIR", conflicts_with = "resume")]
    out: Option<PathBuf>,
    /// Replace one key of the file; VALUE is TOML, a bare word is text
    #[arg(long = "set", value_name = "KEY=VALUE", conflicts_with = "resume")]
    overrides: Vec<Override>,
    /// Train this mechanism instead of the file's, with as many heads; those over maps go into models of kind `image`
    #[arg(long, value_name = "ID", conflicts_with = "resume", value_parser = PossibleValuesParser::new(MapMixerConfig::KINDS))]
    mixer: Option<String>,
    #[command(flatten)]
    device: DeviceArg,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Tokens of the text in the page of a run.
const SAMPLE_TOKENS: usize = 400;

const EXAMPLES: &str = "\
Examples:
  regard train recipes/shakespeare-char.toml
  regard train recipes/shakespeare-char.toml --mixer lightning --set train.steps=500 --out runs/short
  regard train recipes/shakespeare-char.toml --set 'model.mixers=[{kind=\"kimi_delta\",heads=4},{kind=\"softmax\",heads=4}]'
  regard train recipes/listops.toml --mixer softmax
  regard train recipes/fashion-neighborhood.toml --mixer channel
  regard train --resume runs/short";

pub(crate) fn run(args: &Args, output: &Output) -> Result<(), Failure> {
    let device = args.device.device.open()?;
    let trainer = match (&args.resume, &args.config) {
        (Some(dir), _) => Trainer::resume(dir, &device)?,
        (None, Some(path)) => {
            let config = overrides::load(path, &args.overrides, args.mixer.as_deref())?;
            let dir = args.out.clone().unwrap_or_else(|| default_folder(path, args.mixer.as_deref()));
            Trainer::create(&config, &dir, &device)
                .map_err(|error| overrides::blame(path, &args.overrides, args.mixer.as_deref(), &config, error))?
        }
        (None, None) => unreachable!("clap asks for one of the two"),
    };
    let stop = interrupt::catch()?;
    let mut observer = progress::of_run(&trainer.run_folder().dir().display().to_string(), output);
    let hooks = Hooks { stop: Some(&stop), observer: observer.as_deref_mut().map(|o| o as _), memory: args.device.device.memory() };
    let outcome = trainer.run(hooks)?;
    drop(observer); // gives the terminal back
    let page = write_report(&outcome, &device)?;
    if args.json {
        output.json(&describe(&outcome))?;
    } else {
        output.data(&summary(&outcome))?;
    }
    output.note(&format!("report: {}", page.display()));
    match outcome.status {
        Status::Interrupted => Err(Failure::interrupted(
            format!("stopped at step {} of {}", outcome.step, outcome.steps),
            format!("continue with `regard train --resume {}`", outcome.dir.display()),
        )),
        _ => Ok(()),
    }
}

/// Writes the page of the run; a finished one shows a text that its model wrote.
fn write_report(outcome: &Outcome, device: &Device) -> Result<PathBuf, Failure> {
    let run = Run::open(&outcome.dir)?;
    let sample = match run.tokenizer() {
        Some(tokenizer) if outcome.status != Status::Interrupted => {
            let text = generate(&run.decoder(device)?, tokenizer, "", SAMPLE_TOKENS, &Sampling::default(), &mut |_| {})?.text;
            Some((String::new(), text))
        }
        _ => None,
    };
    let facts = RunFacts {
        machine: Machine::describe(device).facts().into_iter().map(|(name, value)| (name.to_owned(), value)).collect(),
        command: Some(command_line()),
        sample,
        peak_bytes: outcome.peak_bytes,
    };
    Ok(write_run_report(&outcome.dir, &facts)?)
}

fn default_folder(config: &Path, mixer: Option<&str>) -> PathBuf {
    let stem = config.file_stem().map_or_else(|| "run".into(), |s| s.to_string_lossy());
    Path::new("runs").join(mixer.map_or_else(|| stem.to_string(), |mixer| format!("{stem}-{mixer}")))
}

fn status(outcome: &Outcome) -> &'static str {
    match outcome.status {
        Status::Interrupted => "interrupted",
        Status::EarlyStopped => "stopped early",
        Status::Finished => "finished",
    }
}

fn summary(outcome: &Outcome) -> String {
    let evaluation = outcome.evaluation.as_ref();
    let mut rows = vec![
        ("run", outcome.dir.display().to_string()),
        ("status", format!("{}, step {} of {}", status(outcome), outcome.step, outcome.steps)),
        ("parameters", Quantity::Count.text(outcome.params as f64, 3)),
        (
            "trained on",
            format!("{} tokens in {}", Quantity::Count.text(outcome.tokens as f64, 3), Quantity::Seconds.text(outcome.seconds, 3)),
        ),
        (
            "a step",
            format!("{} ({} tokens/s)", Quantity::Seconds.text(outcome.step_ms / 1e3, 3), Quantity::Count.text(outcome.tokens_per_s, 3)),
        ),
    ];
    if let Some(bytes) = outcome.peak_bytes {
        rows.push(("peak memory", Quantity::Bytes.text(bytes as f64, 3)));
    }
    rows.extend(evaluation.into_iter().flat_map(super::eval::rows));
    facts(&rows)
}

fn describe(outcome: &Outcome) -> serde_json::Value {
    let evaluation = outcome.evaluation.as_ref();
    json!({
        "dir": outcome.dir,
        "status": status(outcome),
        "step": outcome.step,
        "steps": outcome.steps,
        "tokens": outcome.tokens,
        "params": outcome.params,
        "seconds": outcome.seconds,
        "step_ms": outcome.step_ms,
        "tokens_per_s": outcome.tokens_per_s,
        "peak_bytes": outcome.peak_bytes,
        "val_loss": evaluation.map(|e| e.loss),
        "perplexity": evaluation.and_then(|e| e.perplexity),
        "bits_per_byte": evaluation.and_then(|e| e.bits_per_byte),
        "accuracy": evaluation.and_then(|e| e.accuracy),
        "mae": evaluation.and_then(|e| e.mae),
    })
}
