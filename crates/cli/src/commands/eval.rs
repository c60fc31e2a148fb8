use std::path::{Path, PathBuf};

use clap::ValueEnum;
use regard_train::{
    Evaluation, Run, Split,
    data::{self, DataConfig},
    report::Quantity,
};

use crate::{
    device::DeviceArg,
    failure::Failure,
    output::{Output, facts},
};

/// Evaluate a trained model on a split of its data, or on other text
///
/// Text is cut into windows of the model's context and every token is predicted once; of images, series and the like every example is
/// answered. Without --tokens all of the split is read.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  regard eval runs/shakespeare-char
  regard eval runs/shakespeare-char --split train --tokens 100000
  regard eval runs/shakespeare-char --data other.txt --json")]
pub(crate) struct Args {
    /// The folder of the run
    run: PathBuf,
    /// Which part of the run's own data
    #[arg(long, value_enum, default_value = "valid")]
    split: SplitName,
    /// Read other text instead, with the run's tokenizer: a file whole, of a folder or a data set the split
    #[arg(long, value_name = "PATH|NAME")]
    data: Option<String>,
    /// Stop after at least this many tokens; an example counts as its length
    #[arg(long, value_name = "N")]
    tokens: Option<usize>,
    #[command(flatten)]
    device: DeviceArg,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum SplitName {
    Train,
    Valid,
    Test,
}

pub(crate) fn run(args: &Args, output: &Output) -> Result<(), Failure> {
    let run = Run::open(&args.run)?;
    let device = args.device.device.open()?;
    let tokens = args.tokens.unwrap_or(usize::MAX);
    let evaluated = match &args.data {
        Some(source) => run.evaluate_text(&device, &text(source, args.split)?, tokens)?,
        None => run.evaluate(&device, args.split.into(), tokens)?,
    };
    let (tokens, seconds) = (evaluated.evaluation.tokens as f64, evaluated.seconds);
    let peak = args.device.device.memory().map(|meter| (meter.peak)());
    if args.json {
        let mut object = serde_json::to_value(&evaluated.evaluation).map_err(|e| Failure::new(format!("JSON: {e}")))?;
        object["seconds"] = seconds.into();
        object["token_seconds"] = (seconds / tokens).into();
        object["peak_bytes"] = peak.into();
        return output.json(&object);
    }
    let mut rows = rows(&evaluated.evaluation);
    let per_token = Quantity::Seconds.text(seconds / tokens, 3);
    rows.push(("time per token", format!("{per_token} ({} tokens/s)", Quantity::Count.text(tokens / seconds, 3))));
    rows.extend(peak.map(|bytes| ("peak memory", Quantity::Bytes.text(bytes as f64, 3))));
    output.data(&facts(&rows))
}

impl From<SplitName> for Split {
    fn from(name: SplitName) -> Self {
        match name {
            SplitName::Train => Self::Train,
            SplitName::Valid => Self::Valid,
            SplitName::Test => Self::Test,
        }
    }
}

/// A file as a whole, or the split of anything else.
fn text(source: &str, split: SplitName) -> Result<String, Failure> {
    let corpus = data::load(&DataConfig::new(source))?;
    if Path::new(source).is_file() {
        return Ok(corpus.train + &corpus.valid);
    }
    match split {
        SplitName::Train => Ok(corpus.train),
        SplitName::Valid => Ok(corpus.valid),
        SplitName::Test => corpus
            .test
            .ok_or_else(|| Failure::new(format!("{source} has no test split")).with_hint("it has `--split train` and `--split valid`")),
    }
}

/// The numbers of an evaluation for people.
pub(super) fn rows(evaluation: &Evaluation) -> Vec<(&'static str, String)> {
    let mut rows = vec![("loss", format!("{:.4} ({})", evaluation.loss, evaluation.unit()))];
    match evaluation.accuracy {
        Some(accuracy) => rows.push(("accuracy", format!("{:.2} %", 100.0 * accuracy))),
        None => rows.extend(evaluation.perplexity.map(|perplexity| ("perplexity", format!("{perplexity:.4}")))),
    }
    rows.extend(evaluation.mae.map(|mae| ("mean absolute error", format!("{mae:.4}"))));
    if let Some(bits) = evaluation.bits_per_byte {
        rows.push(("bits per byte", format!("{bits:.4}")));
    }
    rows.push((
        "evaluated on",
        format!(
            "{} {}",
            Quantity::Count.text(evaluation.tokens as f64, 4),
            if evaluation.perplexity.is_some() { "tokens" } else { "targets" }
        ),
    ));
    rows
}
