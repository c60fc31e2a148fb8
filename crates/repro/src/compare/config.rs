use std::path::Path;

use regard::MixerConfig;
use regard_models::{
    DecoderConfig, EncoderConfig, ImageConfig, MapMixerConfig, ModelConfig,
    image::{MapPositions, StemKind},
};
use regard_train::{
    EvalConfig, LmConfig, OptimizerConfig, RunConfig, TaskConfig, TrainConfig,
    data::DataConfig,
    tasks::{ClassifyConfig, CopyConfig, RecallConfig, View},
};
use serde::{Deserialize, Serialize};

use super::{Budget, Candidate, Size};
use crate::{Error, Result};

/// All that decides a comparison, but for the device: the file `compare.toml` of its folder.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CompareConfig {
    /// Tokens per training sequence; of a task with sequences of its own, their length, whatever is given here.
    pub context: usize,
    /// Sequences per step.
    pub batch: usize,
    /// Steps of each run, the same for all. Found from `budget` when the comparison begins, and kept from then on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub steps: Option<usize>,
    /// One run per candidate and seed.
    pub seeds: Vec<u64>,
    /// Evaluations in a run, at equal distances, the last at its end.
    #[serde(default = "default_evaluations")]
    pub evaluations: usize,
    /// Validation tokens of an evaluation, as far as there are so many.
    #[serde(default = "default_eval_tokens")]
    pub eval_tokens: usize,
    /// How much everyone may train.
    pub budget: Budget,
    /// Size of the models.
    pub size: Size,
    /// Rows and columns of pixels that are a token, of images; nothing = [`ImageConfig::usual_patch`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub patch: Option<usize>,
    /// What is learned.
    pub task: TaskConfig,
    /// The data, for a task that needs some.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<DataConfig>,
    /// Optimiser and schedule, the same for all. A warm-up longer than a tenth of the steps is shortened to that.
    #[serde(default = "default_optimizer")]
    pub optimizer: OptimizerConfig,
    /// How cost grows with length.
    #[serde(default)]
    pub scaling: ScalingConfig,
    /// The text that each model writes at the end.
    #[serde(default)]
    pub sample: SampleConfig,
    /// What is compared.
    pub candidates: Vec<Candidate>,
}

/// How the cost of a mixer over the length of its input is measured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ScalingConfig {
    /// Seconds for all candidates; nothing = what a budget in seconds leaves, otherwise 30. 0 = no measurement.
    pub seconds: Option<f64>,
    /// Shortest length in tokens; of images their side in pixels.
    pub shortest: usize,
    /// Longest length, or side.
    pub longest: usize,
    /// Sequences, or images, at once.
    pub batch: usize,
}

impl Default for ScalingConfig {
    fn default() -> Self {
        Self { seconds: None, shortest: 512, longest: 32_768, batch: 1 }
    }
}

impl ScalingConfig {
    fn of_images() -> Self {
        Self { shortest: 32, longest: 512, ..Self::default() }
    }
}

/// Validation tokens of an evaluation of images: a thousand of those that are cut into 16 × 16 patches.
const IMAGE_EVAL_TOKENS: usize = 1000 * 256;

/// How sample texts are drawn.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SampleConfig {
    /// The beginning; nothing = the beginning of the validation text.
    pub prompt: Option<String>,
    /// Tokens to write; 0 = no sample.
    pub tokens: usize,
    /// Temperature; 0 = always the most likely token.
    pub temperature: f64,
    /// Seed of the draws.
    pub seed: u64,
}

impl Default for SampleConfig {
    fn default() -> Self {
        Self { prompt: None, tokens: 240, temperature: 0.7, seed: 1 }
    }
}

fn default_evaluations() -> usize {
    8
}

fn default_eval_tokens() -> usize {
    16_384
}

/// Runs here are short: the rate is higher than that of long ones.
fn default_optimizer() -> OptimizerConfig {
    OptimizerConfig { rate: 3e-3, final_rate: 3e-4, ..OptimizerConfig::default() }
}

impl CompareConfig {
    /// The usual mixers in tiny models, one seed, two minutes; a task that reads data gets those it is known for. Images are seen as images.
    pub fn new(task: TaskConfig) -> Self {
        match task {
            TaskConfig::Classify(classify) => Self::seeing(TaskConfig::Classify(ClassifyConfig { view: View::Image, ..classify })),
            other => Self::seeing(other),
        }
    }

    /// [`new`](Self::new) with images as the task sees them.
    pub fn seeing(task: TaskConfig) -> Self {
        let size = Size::TINY;
        let sequences = Self {
            context: 128,
            batch: 8,
            steps: None,
            seeds: vec![1],
            evaluations: default_evaluations(),
            eval_tokens: default_eval_tokens(),
            budget: Budget::Seconds(120.0),
            size,
            patch: None,
            data: task.usual_data().map(|(_, source)| DataConfig::new(source)),
            task,
            optimizer: default_optimizer(),
            scaling: ScalingConfig::default(),
            sample: SampleConfig::default(),
            candidates: Candidate::usual(size.heads),
        };
        if !sequences.of_images() {
            return sequences;
        }
        Self {
            batch: 32,
            evaluations: 4,
            eval_tokens: IMAGE_EVAL_TOKENS,
            scaling: ScalingConfig::of_images(),
            candidates: Candidate::usual_images(size.heads),
            ..sequences
        }
    }

    /// [`new`](Self::new) for language modelling.
    pub fn lm() -> Self {
        Self::new(TaskConfig::Lm(LmConfig::default()))
    }

    /// [`new`](Self::new) for associative recall with its default options.
    pub fn recall() -> Self {
        Self::new(TaskConfig::Recall(RecallConfig::default()))
    }

    /// [`new`](Self::new) for copying by position with its default options.
    pub fn copy() -> Self {
        Self::new(TaskConfig::Copy(CopyConfig::default()))
    }

    /// Reads the text of a file.
    ///
    /// # Errors
    /// If it is not TOML, a key is unknown or missing, or a value has the wrong type.
    pub fn from_toml(text: &str) -> Result<Self> {
        Ok(regard_train::from_toml(text)?)
    }

    /// Reads a file.
    ///
    /// # Errors
    /// As [`from_toml`](Self::from_toml), with the name of the file, or if it cannot be read.
    pub fn load(path: &Path) -> Result<Self> {
        Ok(regard_train::load_toml(path)?)
    }

    /// The text of a file.
    ///
    /// # Errors
    /// If a number has no place in TOML: a seed above 2⁶³ - 1.
    pub fn to_toml(&self) -> Result<String> {
        let error = |e: toml::ser::Error| regard_train::Error::Config { path: None, line: None, message: e.to_string(), suggestion: None };
        Ok(toml::to_string(self).map_err(error)?)
    }

    /// Checks what the parts do not check themselves.
    ///
    /// # Errors
    /// If a value breaks its rule.
    pub fn validate(&self) -> Result<()> {
        let at_least_one = [
            ("context", self.context),
            ("batch", self.batch),
            ("steps", self.steps.unwrap_or(1)),
            ("seeds", self.seeds.len()),
            ("evaluations", self.evaluations),
            ("eval_tokens", self.eval_tokens),
            ("size.d_model", self.size.d_model),
            ("size.layers", self.size.layers),
            ("size.heads", self.size.heads),
            ("patch", self.patch.unwrap_or(1)),
            ("scaling.shortest", self.scaling.shortest),
            ("scaling.batch", self.scaling.batch),
            ("candidates", self.candidates.len()),
        ];
        if let Some((key, _)) = at_least_one.into_iter().find(|(_, value)| *value == 0) {
            return Err(Error::value(key, "at least 1", 0));
        }
        self.budget.check()?;
        if self.scaling.seconds.is_some_and(|s| !(s >= 0.0 && s.is_finite())) {
            return Err(Error::value("scaling.seconds", "at least 0", self.scaling.seconds.unwrap_or_default()));
        }
        if !(self.sample.temperature >= 0.0 && self.sample.temperature.is_finite()) {
            return Err(Error::value("sample.temperature", "at least 0", self.sample.temperature));
        }
        if !self.of_images() {
            self.candidates.iter().try_for_each(|candidate| candidate.sequence_mixers().map(drop))?;
        }
        let folders: Vec<_> = self.candidates.iter().map(Candidate::folder).collect();
        if let Some(twice) = (1..folders.len()).find(|i| folders[..*i].contains(&folders[*i])) {
            return Err(Error::value("candidates", "of different names", &self.candidates[twice].name));
        }
        if let Some(twice) = (1..self.seeds.len()).find(|i| self.seeds[..*i].contains(&self.seeds[*i])) {
            return Err(Error::value("seeds", "different from one another", self.seeds[twice]));
        }
        Ok(())
    }

    /// Training tokens of one step.
    pub fn tokens_per_step(&self) -> usize {
        self.batch * self.context
    }

    /// Whether images are seen as images: any mixer goes, and cost is measured against their side.
    pub fn of_images(&self) -> bool {
        matches!(&self.task, TaskConfig::Classify(classify) if classify.view == View::Image)
    }

    /// The candidate of a name, for the task.
    ///
    /// # Errors
    /// As [`Candidate::parse`], or [`Candidate::parse_image`].
    pub fn candidate(&self, name: &str) -> Result<Candidate> {
        let heads = self.size.heads;
        if self.of_images() { Candidate::parse_image(name, heads) } else { Candidate::parse(name, heads) }
    }

    /// The model of a candidate with an inner width of the channel mixers: a decoder where tokens are predicted, a network for images where
    /// images are seen, else an encoder, whose mixers look in both directions if all of them can and the task does not go forward in time.
    ///
    /// # Errors
    /// If a mixer is not one for the task.
    pub(super) fn model(&self, candidate: &Candidate, vocab: usize, d_ff: usize) -> Result<ModelConfig> {
        let Size { d_model, layers, .. } = self.size;
        if self.of_images() {
            let mixers = candidate.mixers.clone();
            // A ResNet knows places by its borders, and begins with convolutions.
            let convolutions = mixers.iter().all(|mixer| matches!(mixer, MapMixerConfig::Conv(_)));
            let (stem, positions) = if convolutions { (StemKind::Conv, MapPositions::None) } else { Default::default() };
            let patch = self.patch.unwrap_or_default();
            return Ok(ImageConfig { d_ff, stem, positions, patch, ..ImageConfig::open(d_model, layers, mixers) }.into());
        }
        let mixers = candidate.sequence_mixers()?;
        if self.task.predicts_tokens() {
            return Ok(DecoderConfig { d_ff, ..DecoderConfig::new(vocab, d_model, layers, mixers, self.context) }.into());
        }
        let causal = matches!(self.task, TaskConfig::Control(_)) || !mixers.iter().all(MixerConfig::is_bidirectional);
        Ok(EncoderConfig { d_ff, causal, ..EncoderConfig::open(d_model, layers, mixers) }.into())
    }

    /// The run of a model over `steps` steps: the same for all but for the model and the seed.
    pub(super) fn run(&self, model: ModelConfig, steps: usize, seed: u64) -> RunConfig {
        let warmup = self.optimizer.warmup.min(steps / 10);
        RunConfig {
            seed,
            task: self.task.clone(),
            data: self.data.clone(),
            model,
            train: TrainConfig { log_every: (steps / 200).max(1), ..TrainConfig::new(self.batch, regard_train::Budget::Steps(steps)) },
            optimizer: OptimizerConfig { warmup, ..self.optimizer.clone() },
            eval: EvalConfig { every: steps.div_ceil(self.evaluations), tokens: self.eval_tokens, batch: None, ..EvalConfig::default() },
        }
    }
}
