use regard_models::{MapMixerConfig, ModelConfig};
use regard_train::{Evaluation, report::Quantity};
use serde::{Deserialize, Serialize};

use super::{scaling::Scaling, weights::MatchedCandidate};
use crate::{Table, machine::Machine};

/// The outcome of a comparison: the file `comparison.json` of its folder.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// The task's kind.
    pub task: String,
    /// The name of the data set, or its path; nothing for a task that makes its own.
    pub data: Option<String>,
    /// What a token is: `byte`, `character`, `word`, `token`.
    pub unit: String,
    /// Number of different tokens.
    pub vocab: usize,
    /// What the images are, where images are seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<ImageFacts>,
    /// Width D of the models.
    pub d_model: usize,
    /// Layers L of the models.
    pub layers: usize,
    /// Heads H of the mixers.
    pub heads: usize,
    /// Tokens per training sequence.
    pub context: usize,
    /// Steps of each run.
    pub steps: usize,
    /// Training tokens of each run.
    pub tokens: usize,
    /// Whether all runs and measurements are done.
    pub complete: bool,
    /// Wall-clock seconds of the comparison so far.
    pub seconds: f64,
    /// The command that repeats it, if known.
    pub command: Option<String>,
    /// The machine.
    pub machine: Machine,
    /// The candidates, in the order of the configuration.
    pub candidates: Vec<CandidateResult>,
    /// Cost against length.
    pub scaling: Option<Scaling>,
}

/// Images and how they are cut into tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageFacts {
    /// Channels.
    pub channels: usize,
    /// Rows and columns.
    pub size: [usize; 2],
    /// Number of classes.
    pub classes: usize,
    /// Rows and columns of pixels that are a token.
    pub patch: usize,
}

impl ImageFacts {
    /// Those of a network for images.
    pub(super) fn of(model: &ModelConfig) -> Option<Self> {
        let ModelConfig::Image(config) = model else { return None };
        Some(Self { channels: config.channels, size: config.image, classes: config.classes, patch: config.patch })
    }
}

/// One candidate: means over the seeds that finished; nothing where none did.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CandidateResult {
    /// Its name.
    pub mixer: String,
    /// The mixers of its layers, repeated.
    pub mixers: Vec<MapMixerConfig>,
    /// Trained weights.
    pub params: usize,
    /// Inner width of its channel mixers, solved for equal weights.
    pub d_ff: usize,
    /// Floating-point operations of training per token, forward and backward.
    pub flops_per_token: f64,
    /// Validation loss: nats per token or example, or mean squared error.
    pub val_loss: Option<f64>,
    /// Lowest and highest over the seeds.
    pub val_loss_range: Option<[f64; 2]>,
    /// Standard deviation over the seeds; nothing for fewer than two.
    pub val_loss_std: Option<f64>,
    /// `exp(val_loss)`, for tokens.
    pub perplexity: Option<f64>,
    /// Validation loss in bits per byte of text.
    pub bits_per_byte: Option<f64>,
    /// Share of right answers, for tasks that have them.
    pub accuracy: Option<f64>,
    /// Mean absolute error, for tasks with numbers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mae: Option<f64>,
    /// Lowest and highest accuracy over the seeds.
    pub accuracy_range: Option<[f64; 2]>,
    /// Milliseconds per training step, median.
    pub step_ms: Option<f64>,
    /// Training tokens per second.
    pub tokens_per_s: Option<f64>,
    /// Largest number of bytes in use while training.
    pub peak_bytes: Option<usize>,
    /// Bytes that decoding keeps per sequence, after numbers of tokens.
    pub state_bytes: Vec<StateBytes>,
    /// What the model of the first seed writes after the prompt.
    pub sample: Option<Sample>,
    /// Each run.
    pub seeds: Vec<SeedResult>,
    /// What went wrong, if no run finished.
    pub failed: Option<String>,
}

/// Size of the state of a whole model after a number of tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateBytes {
    /// Tokens taken in.
    pub tokens: usize,
    /// Bytes held.
    pub bytes: usize,
}

/// A text that a model wrote.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sample {
    /// What it continued.
    pub prompt: String,
    /// What it wrote.
    pub text: String,
}

/// One run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SeedResult {
    /// Its seed.
    pub seed: u64,
    /// Its folder, inside that of the comparison.
    pub run: String,
    /// The evaluation at its end.
    pub evaluation: Option<Evaluation>,
    /// Milliseconds per training step, median.
    pub step_ms: Option<f64>,
    /// Training tokens per second.
    pub tokens_per_s: Option<f64>,
    /// Largest number of bytes in use while training, if measured.
    pub peak_bytes: Option<usize>,
    /// Bytes of the decoding state.
    #[serde(default)]
    pub state_bytes: Vec<StateBytes>,
    /// What its model writes.
    pub sample: Option<Sample>,
    /// What went wrong, if it did not finish.
    pub failed: Option<String>,
}

impl CandidateResult {
    /// Takes the runs of a candidate together.
    pub(super) fn gather(candidate: &MatchedCandidate, seeds: Vec<SeedResult>) -> Self {
        let values = |of: fn(&SeedResult) -> Option<f64>| seeds.iter().filter_map(of).collect::<Vec<_>>();
        let losses = values(|s| s.evaluation.as_ref().map(|e| e.loss));
        let accuracies = values(|s| s.evaluation.as_ref().and_then(|e| e.accuracy));
        let val_loss = mean(&losses);
        Self {
            mixer: candidate.name.clone(),
            mixers: candidate.mixers.clone(),
            params: candidate.params,
            d_ff: candidate.d_ff,
            flops_per_token: candidate.flops_per_token,
            val_loss,
            val_loss_range: range(&losses),
            val_loss_std: deviation(&losses),
            // Only tokens have one.
            perplexity: val_loss
                .filter(|_| seeds.iter().any(|s| s.evaluation.as_ref().is_some_and(|e| e.perplexity.is_some())))
                .map(f64::exp),
            bits_per_byte: mean(&values(|s| s.evaluation.as_ref().and_then(|e| e.bits_per_byte))),
            accuracy: mean(&accuracies),
            mae: mean(&values(|s| s.evaluation.as_ref().and_then(|e| e.mae))),
            accuracy_range: range(&accuracies),
            step_ms: mean(&values(|s| s.step_ms)),
            tokens_per_s: mean(&values(|s| s.tokens_per_s)),
            peak_bytes: seeds.iter().filter_map(|s| s.peak_bytes).max(),
            state_bytes: seeds.iter().map(|s| &s.state_bytes).find(|b| !b.is_empty()).cloned().unwrap_or_default(),
            sample: seeds.iter().find_map(|s| s.sample.clone()),
            failed: if losses.is_empty() { seeds.iter().find_map(|s| s.failed.clone()) } else { None },
            seeds,
        }
    }
}

fn mean(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

fn range(values: &[f64]) -> Option<[f64; 2]> {
    (!values.is_empty()).then(|| values.iter().fold([f64::INFINITY, f64::NEG_INFINITY], |[l, h], v| [l.min(*v), h.max(*v)]))
}

fn deviation(values: &[f64]) -> Option<f64> {
    let mean = mean(values)?;
    let squares: f64 = values.iter().map(|v| (v - mean).powi(2)).sum();
    (values.len() > 1).then(|| (squares / (values.len() - 1) as f64).sqrt())
}

impl Comparison {
    /// What the loss is measured in.
    pub fn loss_unit(&self) -> &'static str {
        let seeds = self.candidates.iter().flat_map(|c| &c.seeds);
        seeds.filter_map(|s| s.evaluation.as_ref()).map(regard_train::Evaluation::unit).next().unwrap_or("nats per token")
    }

    /// Whether candidates are ranked by their share of right answers rather than by their loss.
    pub fn by_accuracy(&self) -> bool {
        self.candidates.iter().any(|c| c.accuracy.is_some())
    }

    /// The candidates, best first; failed ones last.
    pub fn ranking(&self) -> Vec<&CandidateResult> {
        let badness = |c: &CandidateResult| match (self.by_accuracy(), c.accuracy, c.val_loss) {
            (true, Some(accuracy), _) => -accuracy,
            (false, _, Some(loss)) => loss,
            _ => f64::INFINITY,
        };
        let mut order: Vec<_> = self.candidates.iter().collect();
        order.sort_by(|a, b| badness(a).total_cmp(&badness(b)));
        order
    }

    /// Exponents of time and memory over length, or the side of images, for a candidate, where measured.
    pub fn exponents(&self, mixer: &str) -> [Option<f64>; 2] {
        let curve = self.scaling.as_ref().and_then(|s| s.curves.iter().find(|c| c.mixer == mixer));
        curve.map_or([None; 2], |c| [c.time_exponent, c.memory_exponent])
    }

    /// The headline numbers for people, best candidate first.
    pub fn table(&self) -> Table {
        let mut columns = vec!["mixer", "params", "val loss"];
        let by_error = self.candidates.iter().any(|c| c.mae.is_some());
        columns.extend(match (self.by_accuracy(), by_error) {
            (true, _) => &["accuracy"][..],
            (false, true) => &["MAE"],
            (false, false) => &["perplexity", "bits/byte"],
        });
        // Of images a token is a patch, and nothing is decoded.
        let (rate, per) = if self.image.is_some() { ("images/s", self.context.max(1) as f64) } else { ("tokens/s", 1.0) };
        columns.extend(["step", rate, "peak memory", "time ∝"]);
        if self.image.is_none() {
            columns.extend(["state after 1", "1k tokens"]);
        }
        let text = |quantity: Quantity, value: Option<f64>, digits| value.map_or("–".into(), |v| quantity.text(v, digits));
        let rows = self.ranking().into_iter().map(|c| {
            let spread = c.val_loss_std.map_or(String::new(), |std| format!(" ± {std:.3}"));
            let loss = match (&c.failed, c.val_loss) {
                (Some(_), _) => "failed".into(),
                (None, loss) => loss.map_or("–".into(), |l| format!("{l:.3}{spread}")),
            };
            let mut row = vec![c.mixer.clone(), Quantity::Count.text(c.params as f64, 4), loss];
            if self.by_accuracy() {
                row.push(c.accuracy.map_or("–".into(), |a| format!("{:.1} %", 100.0 * a)));
            } else if by_error {
                row.push(c.mae.map_or("–".into(), |mae| format!("{mae:.4}")));
            } else {
                row.extend([text(Quantity::Plain, c.perplexity, 4), text(Quantity::Plain, c.bits_per_byte, 4)]);
            }
            let state = |index: usize| c.state_bytes.get(index).map(|s| s.bytes as f64);
            row.extend([
                text(Quantity::Seconds, c.step_ms.map(|ms| ms / 1e3), 3),
                text(Quantity::Count, c.tokens_per_s.map(|rate| rate / per), 3),
                text(Quantity::Bytes, c.peak_bytes.map(|b| b as f64), 3),
                self.exponents(&c.mixer)[0].map_or("–".into(), |p| format!("{}^{p:.2}", if self.image.is_some() { "side" } else { "T" })),
            ]);
            if self.image.is_none() {
                row.extend([text(Quantity::Bytes, state(0), 3), text(Quantity::Bytes, state(1), 3)]);
            }
            row
        });
        Table { rows: rows.collect(), columns: columns.into_iter().map(str::to_owned).collect() }
    }
}
