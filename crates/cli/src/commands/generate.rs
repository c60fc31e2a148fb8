use std::path::PathBuf;

use regard_train::{Generated, Run, Sampling, generate, report::Quantity};
use serde_json::json;

use crate::{device::DeviceArg, failure::Failure, output::Output};

/// Write text with a trained model
///
/// The text goes to stdout while it is written, after the prompt. The state of the model is kept between tokens: mechanisms with a
/// state of constant size take the same time for every token, however long the text.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  regard generate runs/shakespeare-char --prompt 'ROMEO:'
  regard generate runs/shakespeare-char --tokens 1000 --temperature 0.6 --top-k 20 --seed 7
  regard generate runs/shakespeare-char --temperature 0        always the likeliest token")]
pub(crate) struct Args {
    /// The folder of the run
    run: PathBuf,
    /// Text to continue
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    prompt: String,
    /// How many tokens to write
    #[arg(long, value_name = "N", default_value_t = 300)]
    tokens: usize,
    /// Below 1 the likely tokens become likelier; 0 takes the likeliest always
    #[arg(long, value_name = "X", default_value_t = 0.8)]
    temperature: f64,
    /// Draw among the N likeliest tokens
    #[arg(long, value_name = "N")]
    top_k: Option<usize>,
    /// Draw among the likeliest tokens that hold this share of the probability
    #[arg(long, value_name = "X")]
    top_p: Option<f64>,
    /// Seed of the draws: the same seed writes the same text
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    #[command(flatten)]
    device: DeviceArg,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args, output: &Output) -> Result<(), Failure> {
    let run = Run::open(&args.run)?;
    let Some(tokenizer) = run.tokenizer() else {
        return Err(Failure::new(format!("{}: a model of this task writes no text", args.run.display()))
            .with_hint("`regard generate` needs a run of the task `lm`"));
    };
    let model = run.decoder(&args.device.device.open()?)?;
    let peak = || args.device.device.memory().map(|meter| (meter.peak)());
    let sampling = Sampling { temperature: args.temperature, top_k: args.top_k, top_p: args.top_p, seed: args.seed };
    if args.json {
        let generated = generate(&model, tokenizer, &args.prompt, args.tokens, &sampling, &mut |_| {})?;
        return output.json(&json!({
            "prompt": args.prompt,
            "text": generated.text,
            "tokens": generated.tokens,
            "seed": args.seed,
            "prompt_tokens": generated.prompt_tokens,
            "prompt_seconds": generated.prompt_seconds,
            "token_seconds": generated.token_seconds,
            "state_bytes": generated.state_bytes,
            "peak_bytes": peak(),
        }));
    }
    let mut result = Ok(());
    // The prompt comes with the first piece: a prompt that is refused is no result.
    let mut prompt = Some(args.prompt.as_str());
    let generated = generate(&model, tokenizer, &args.prompt, args.tokens, &sampling, &mut |piece| {
        for text in prompt.take().into_iter().chain([piece]) {
            if result.is_ok() {
                result = output.stream(text);
            }
        }
    })?;
    result?;
    output.stream(prompt.unwrap_or_default())?;
    output.data("")?;
    output.note(&cost(&generated, peak()));
    Ok(())
}

/// What the text took, for people.
fn cost(generated: &Generated, peak: Option<usize>) -> String {
    let (time, bytes) = (|seconds| Quantity::Seconds.text(seconds, 3), |bytes| Quantity::Bytes.text(bytes as f64, 3));
    let per_token = match generated.token_seconds {
        Some(seconds) => format!("{} per token ({} tokens/s), ", time(seconds), Quantity::Count.text(1.0 / seconds, 3)),
        None => String::new(),
    };
    let peak = peak.map_or_else(String::new, |peak| format!(", peak memory {}", bytes(peak)));
    format!(
        "{per_token}prompt of {} tokens in {}; state {}{peak}",
        generated.prompt_tokens,
        time(generated.prompt_seconds),
        bytes(generated.state_bytes)
    )
}
