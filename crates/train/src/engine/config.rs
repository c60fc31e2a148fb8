use std::path::Path;

use regard_models::ModelConfig;
use serde::{Deserialize, Serialize};

use crate::{
    Error, Result, TaskConfig,
    data::DataConfig,
    toml_file::{from_toml, load_toml},
};

/// All that decides a run, but for the device: the file `config.toml` of its folder.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunConfig {
    /// Seed of initial weights, data order and dropout.
    #[serde(default)]
    pub seed: u64,
    /// What is learned.
    pub task: TaskConfig,
    /// The data, for a task that needs some.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<DataConfig>,
    /// The network; a decoder unless its `kind` says otherwise. What the task decides may be left out: `vocab` of a decoder, whose `context`
    /// is also the length of the training sequences, `input`, `length` and `head` of an encoder, and `image`, `channels` and `classes` of a network for images.
    pub model: ModelConfig,
    /// Batches and length of the run.
    pub train: TrainConfig,
    /// Optimiser and schedule.
    #[serde(default)]
    pub optimizer: OptimizerConfig,
    /// Evaluation.
    #[serde(default)]
    pub eval: EvalConfig,
}

/// How long to train.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Budget {
    /// Steps of the optimiser.
    Steps(usize),
    /// Training tokens, rounded up to whole steps.
    Tokens(usize),
    /// Seconds, evaluations included; turned into steps by timing a few before the run.
    Seconds(f64),
}

/// Batches and length of a run. Exactly one of `steps`, `tokens` and `seconds` is given; the file of a run that was started has `steps`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainConfig {
    /// Sequences per forward pass.
    pub batch: usize,
    /// See [`Budget::Steps`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub steps: Option<usize>,
    /// See [`Budget::Tokens`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens: Option<usize>,
    /// See [`Budget::Seconds`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seconds: Option<f64>,
    /// Forward passes per step.
    #[serde(default = "one")]
    pub grad_accumulation: usize,
    /// Whether cheap activations are computed again in the backward pass instead of being kept.
    #[serde(default)]
    pub activation_checkpointing: bool,
    /// Float type of the forward and backward passes; weights and the optimiser are f32 in any case. bf16 is for softmax, latent, Lightning,
    /// Kimi Delta and Flow attention without a mixture of experts.
    #[serde(default, skip_serializing_if = "Precision::is_f32")]
    pub precision: Precision,
    /// Steps between two lines of `metrics.jsonl`.
    #[serde(default = "ten")]
    pub log_every: usize,
    /// Steps between two checkpoints; by default one at each evaluation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkpoint_every: Option<usize>,
}

/// See [`TrainConfig::precision`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Precision {
    /// f32 throughout.
    #[default]
    F32,
    /// Weights are rounded to bf16 for each pass, activations are bf16; sums, norms, states and the loss are f32. Evaluation is f32.
    Bf16,
}

impl Precision {
    #[allow(clippy::trivially_copy_pass_by_ref, reason = "as serde calls it")]
    fn is_f32(&self) -> bool {
        *self == Self::F32
    }
}

fn one() -> usize {
    1
}

fn ten() -> usize {
    10
}

impl TrainConfig {
    /// `batch` sequences per step over a budget.
    pub fn new(batch: usize, budget: Budget) -> Self {
        let mut config = Self {
            batch,
            steps: None,
            tokens: None,
            seconds: None,
            grad_accumulation: one(),
            activation_checkpointing: false,
            precision: Precision::F32,
            log_every: ten(),
            checkpoint_every: None,
        };
        match budget {
            Budget::Steps(steps) => config.steps = Some(steps),
            Budget::Tokens(tokens) => config.tokens = Some(tokens),
            Budget::Seconds(seconds) => config.seconds = Some(seconds),
        }
        config
    }

    /// The one budget that is given.
    ///
    /// # Errors
    /// If none is, or several are, or it is not positive.
    pub fn budget(&self) -> Result<Budget> {
        let positive = |key, ok: bool, got: String| if ok { Ok(()) } else { Err(Error::value(key, "positive", got)) };
        match (self.steps, self.tokens, self.seconds) {
            (Some(steps), None, None) => positive("train.steps", steps > 0, steps.to_string()).map(|()| Budget::Steps(steps)),
            (None, Some(tokens), None) => positive("train.tokens", tokens > 0, tokens.to_string()).map(|()| Budget::Tokens(tokens)),
            (None, None, Some(seconds)) => {
                positive("train.seconds", seconds > 0.0 && seconds.is_finite(), seconds.to_string()).map(|()| Budget::Seconds(seconds))
            }
            (None, None, None) => Err(Error::value("train.steps", "given, or `train.tokens`, or `train.seconds`", "none of them")),
            _ => Err(Error::value("train.steps", "the only one of `steps`, `tokens` and `seconds`", "several")),
        }
    }
}

/// How the rate changes over a run, after a linear warm-up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ScheduleKind {
    /// Half a cosine down to `final_rate`.
    #[default]
    Cosine,
    /// Constant, then in a straight line down to `final_rate` over the share `decay` of the steps (warm-up, stable, decay).
    Wsd,
}

/// AdamW and its schedule.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct OptimizerConfig {
    /// Highest rate.
    pub rate: f64,
    /// Rate at the end; at most `rate`.
    pub final_rate: f64,
    /// Steps of linear warm-up.
    pub warmup: usize,
    /// How the rate goes down.
    pub schedule: ScheduleKind,
    /// Share of the steps over which [`ScheduleKind::Wsd`] decays, in (0, 1].
    pub decay: f64,
    /// Decay of the mean of the gradients.
    pub beta1: f64,
    /// Decay of the mean of their squares.
    pub beta2: f64,
    /// Added to the root of the latter.
    pub epsilon: f64,
    /// Decoupled weight decay of matrices; norms, biases, decay rates and the like have none.
    pub weight_decay: f64,
    /// Largest norm of all gradients together; 0 = not clipped.
    pub clip: f64,
}

impl Default for OptimizerConfig {
    fn default() -> Self {
        Self {
            rate: 1e-3,
            final_rate: 1e-4,
            warmup: 100,
            schedule: ScheduleKind::Cosine,
            decay: 0.2,
            beta1: 0.9,
            beta2: 0.99,
            epsilon: 1e-8,
            weight_decay: 0.1,
            clip: 1.0,
        }
    }
}

/// When and on how much a run is evaluated. The last step always is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EvalConfig {
    /// Steps between two evaluations.
    pub every: usize,
    /// Tokens of the validation split to predict, at least, as far as it goes.
    pub tokens: usize,
    /// Sequences per forward pass; by default as in training.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub batch: Option<usize>,
    /// Evaluations without a lower loss after which the run ends early; by default it never does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub patience: Option<usize>,
}

impl Default for EvalConfig {
    fn default() -> Self {
        Self { every: 250, tokens: 100_000, batch: None, patience: None }
    }
}

impl RunConfig {
    /// Reads the text of a file.
    ///
    /// # Errors
    /// If it is not TOML, a key is unknown or missing, or a value has the wrong type.
    pub fn from_toml(text: &str) -> Result<Self> {
        from_toml(text)
    }

    /// Reads a file.
    ///
    /// # Errors
    /// As [`from_toml`](Self::from_toml), with the name of the file, or if it cannot be read.
    pub fn load(path: &Path) -> Result<Self> {
        load_toml(path)
    }

    /// The text of a file.
    ///
    /// # Errors
    /// If a number has no place in TOML: a seed above 2⁶³ - 1.
    pub fn to_toml(&self) -> Result<String> {
        toml::to_string(self).map_err(|e| Error::Config { path: None, line: None, message: e.to_string(), suggestion: None })
    }

    /// Training tokens of one step; patches count as tokens. Known when the model has taken its length from the task.
    pub fn tokens_per_step(&self) -> usize {
        self.train.batch * self.train.grad_accumulation * self.model.context()
    }

    /// Checks what the parts do not check themselves.
    ///
    /// # Errors
    /// If a value breaks its rule.
    pub fn validate(&self) -> Result<()> {
        let at_least_one = [
            ("model.context", self.model.decoder().map_or(1, |model| model.context)),
            ("train.batch", self.train.batch),
            ("train.grad_accumulation", self.train.grad_accumulation),
            ("train.log_every", self.train.log_every),
            ("train.checkpoint_every", self.train.checkpoint_every.unwrap_or(1)),
            ("eval.every", self.eval.every),
            ("eval.tokens", self.eval.tokens),
            ("eval.batch", self.eval.batch.unwrap_or(1)),
            ("eval.patience", self.eval.patience.unwrap_or(1)),
        ];
        if let Some((key, _)) = at_least_one.into_iter().find(|(_, value)| *value == 0) {
            return Err(Error::value(key, "at least 1", 0));
        }
        if i64::try_from(self.seed).is_err() {
            return Err(Error::value("seed", "at most 9223372036854775807", self.seed));
        }
        self.train.budget()?;
        self.check_precision()?;
        self.optimizer.validate()
    }

    /// bf16 is for what has been tried in it.
    fn check_precision(&self) -> Result<()> {
        const KINDS: [&str; 5] = ["flow", "kimi_delta", "latent", "lightning", "softmax"];
        let (mixers, experts) = match &self.model {
            _ if self.train.precision == Precision::F32 => return Ok(()),
            ModelConfig::Decoder(model) => (&model.mixers, model.moe.is_some()),
            ModelConfig::Encoder(model) => (&model.mixers, false),
            ModelConfig::FlowformerVision(_) | ModelConfig::FlowformerSeries(_) | ModelConfig::Image(_) => {
                return Err(Error::value("train.precision", "f32 for this model", "bf16"));
            }
        };
        if experts {
            return Err(Error::value("train.precision", "f32 for a mixture of experts", "bf16"));
        }
        match mixers.iter().find(|mixer| !KINDS.contains(&mixer.kind())) {
            Some(mixer) => Err(Error::value("train.precision", format!("f32 for the mixer `{}`", mixer.kind()), "bf16")),
            None => Ok(()),
        }
    }
}

impl OptimizerConfig {
    fn validate(&self) -> Result<()> {
        let rules: [(&'static str, f64, &str, bool); 8] = [
            ("optimizer.rate", self.rate, "positive", self.rate > 0.0 && self.rate.is_finite()),
            ("optimizer.final_rate", self.final_rate, "from 0 to `optimizer.rate`", (0.0..=self.rate).contains(&self.final_rate)),
            ("optimizer.decay", self.decay, "in (0, 1]", self.decay > 0.0 && self.decay <= 1.0),
            ("optimizer.beta1", self.beta1, "in [0, 1)", (0.0..1.0).contains(&self.beta1)),
            ("optimizer.beta2", self.beta2, "in [0, 1)", (0.0..1.0).contains(&self.beta2)),
            ("optimizer.epsilon", self.epsilon, "positive", self.epsilon > 0.0),
            ("optimizer.weight_decay", self.weight_decay, "at least 0", self.weight_decay >= 0.0),
            ("optimizer.clip", self.clip, "at least 0", self.clip >= 0.0),
        ];
        match rules.into_iter().find(|rule| !rule.3) {
            Some((key, value, rule, _)) => Err(Error::value(key, rule, value)),
            None => Ok(()),
        }
    }
}
