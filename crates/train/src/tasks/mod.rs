//! What is learned: batches for any step, and a fixed set to evaluate on.
//!
//! A task keeps no position. Training sequence number `n` of a run depends on the seed and on `n` alone, so that a run resumes exactly
//! wherever it stopped, and ranks that share a batch take the sequences that one rank would have taken.

mod classify;
mod config;
mod control;
mod copy;
mod examples;
mod forecast;
mod language;
mod listops;
mod recall;
mod series;

pub use classify::{Classify, ClassifyConfig, View};
pub use config::{LmConfig, TaskConfig};
pub use control::{Control, ControlConfig, ControlStep, PointMass};
pub use copy::{CopyConfig, Copying};
pub(crate) use examples::shuffled;
pub use examples::{Examples, Form, FormInput, Inputs, Targets};
pub use forecast::{Forecast, ForecastConfig};
pub use language::Language;
pub(crate) use language::windows;
pub use listops::{ListOps, ListOpsConfig};
pub use recall::{Recall, RecallConfig};
pub use series::{SeriesConfig, SyntheticSeries};

use burn::tensor::{Device, Int, Tensor, TensorData};
use examples::Source;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use regard_models::{DecoderConfig, EncoderConfig, ModelConfig, flowformer::FlowformerVisionConfig};

use crate::{Error, Result, RunConfig, Split, Tokenizer, data};

/// The token that is none of a generated task's own: filler among the tokens, "nothing to predict" among the targets.
const BLANK: u32 = 0;

/// Sequences of one length, row by row.
#[derive(Clone, Debug, PartialEq)]
pub struct Batch {
    /// The tokens.
    pub ids: Vec<u32>,
    /// What is to be predicted at each of them.
    pub targets: Vec<u32>,
    /// Tokens per sequence T.
    pub length: usize,
}

impl Batch {
    fn with_capacity(sequences: usize, length: usize) -> Self {
        let tokens = sequences * length;
        Self { ids: Vec::with_capacity(tokens), targets: Vec::with_capacity(tokens), length }
    }

    /// Number of sequences B.
    pub fn sequences(&self) -> usize {
        self.ids.len() / self.length
    }

    /// Tokens and targets on a device, `[B, T]` each.
    pub fn tensors(&self, device: &Device) -> [Tensor<2, Int>; 2] {
        let shape = [self.sequences(), self.length];
        [&self.ids, &self.targets].map(|ids| {
            let ids: Vec<i32> = ids.iter().map(|&id| id.cast_signed()).collect();
            Tensor::from_data(TensorData::new(ids, shape), device)
        })
    }
}

/// A batch of any task.
#[derive(Clone, Debug, PartialEq)]
pub enum Samples {
    /// Sequences with a token to be predicted at each place.
    Tokens(Batch),
    /// Examples with what is asked about each.
    Examples(Examples),
}

/// The order in which a run goes through its training sequences.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Order {
    /// Seed of the run.
    pub seed: u64,
    /// Sequences per forward pass of one rank.
    pub batch: usize,
    /// Forward passes per step of the optimiser.
    pub accumulation: usize,
    /// Tokens per sequence.
    pub context: usize,
    /// Number of this process, from 0.
    pub rank: usize,
    /// Number of processes that share each batch.
    pub world: usize,
}

impl Order {
    /// The numbers of the sequences of pass `pass` of step `step`.
    fn numbers(&self, step: usize, pass: usize) -> impl Iterator<Item = u64> + use<> {
        let first = ((step * self.accumulation + pass) * self.world + self.rank) * self.batch;
        (first..first + self.batch).map(|n| n as u64)
    }
}

/// A generator of its own for each sequence.
fn generator(seed: u64, number: u64) -> ChaCha8Rng {
    let mut generator = ChaCha8Rng::seed_from_u64(seed);
    generator.set_stream(number);
    generator
}

/// Sequences that no training seed below 2⁶³ draws, a set of its own for each split: at least `tokens` tokens of them.
fn generated(split: Split, tokens: usize, batch: usize, length: usize, sequence: impl Fn(u64, u64, &mut Batch)) -> Vec<Batch> {
    let seed = u64::MAX - split as u64;
    let sequences = tokens.max(1).div_ceil(length) as u64;
    (0..sequences)
        .step_by(batch)
        .map(|first| {
            let last = sequences.min(first + batch as u64);
            let mut batch = Batch::with_capacity((last - first) as usize, length);
            (first..last).for_each(|number| sequence(seed, number, &mut batch));
            batch
        })
        .collect()
}

/// A task with its data. Clones share the data.
#[derive(Clone, Debug)]
pub enum Task {
    /// See [`TaskConfig::Lm`].
    Lm(Language),
    /// See [`TaskConfig::Recall`].
    Recall(Recall),
    /// See [`TaskConfig::Copy`].
    Copy(Copying),
    /// See [`TaskConfig::ListOps`].
    ListOps(ListOps),
    /// See [`TaskConfig::Classify`].
    Classify(Classify),
    /// See [`TaskConfig::Series`].
    Series(SyntheticSeries),
    /// See [`TaskConfig::Forecast`].
    Forecast(Forecast),
    /// See [`TaskConfig::Control`].
    Control(Control),
}

impl Task {
    /// The task of a run, with the text read and turned into tokens.
    ///
    /// # Errors
    /// If the data cannot be read, is too short for the context, or the task's configuration is invalid.
    pub fn load(config: &RunConfig) -> Result<Self> {
        Self::load_with(config, None)
    }

    /// As [`load`](Self::load), with the tokeniser that a run has already, if any: its numbers are those of the model, whatever the data
    /// have become since.
    ///
    /// # Errors
    /// As [`load`](Self::load), or if the tokeniser does not know a character of the text.
    pub(crate) fn load_with(config: &RunConfig, tokenizer: Option<&Tokenizer>) -> Result<Self> {
        let task = &config.task;
        if task.predicts_tokens() && config.model.decoder().is_none() {
            return Err(Error::value("model.kind", format!("`decoder` for the task `{}`", task.kind()), config.model.kind()));
        }
        let given = match (&config.data, task.reads_data()) {
            (None, true) => return Err(Error::value("data", format!("given for the task `{}`", task.kind()), "nothing")),
            (Some(_), false) => {
                return Err(Error::value("data", format!("left out: the task `{}` makes its own", task.kind()), "a section"));
            }
            (given, _) => given.as_ref(),
        };
        let source = || given.expect("checked above");
        let context = config.model.context();
        match task {
            TaskConfig::Lm(_) => {
                let corpus = data::load(source())?;
                let tokenizer = match tokenizer {
                    Some(tokenizer) => tokenizer.clone(),
                    None => Tokenizer::named(source().tokenizer.as_deref().unwrap_or(corpus.tokenizer), &corpus)?,
                };
                Ok(Self::Lm(Language::new(&corpus, tokenizer, context)?))
            }
            TaskConfig::Recall(recall) => Ok(Self::Recall(Recall::new(recall, context)?)),
            TaskConfig::Copy(copy) => Ok(Self::Copy(Copying::new(copy, context)?)),
            TaskConfig::ListOps(config) => ListOps::new(config).map(Self::ListOps),
            TaskConfig::Classify(config) => Classify::new(config, source()).map(Self::Classify),
            TaskConfig::Series(config) => SyntheticSeries::new(config).map(Self::Series),
            TaskConfig::Forecast(config) => Forecast::new(config, source()).map(Self::Forecast),
            TaskConfig::Control(config) => Control::new(config).map(Self::Control),
        }
    }

    /// Number of different tokens that are read or predicted; 0 if the task has numbers.
    pub fn vocab(&self) -> usize {
        match self {
            Self::Lm(language) => language.tokenizer().vocab(),
            Self::Recall(recall) => recall.vocab(),
            Self::Copy(copy) => copy.vocab(),
            Self::ListOps(_) | Self::Classify(_) | Self::Series(_) | Self::Forecast(_) | Self::Control(_) => {
                match self.form().map(|form| form.input) {
                    Some(FormInput::Steps { input: regard_models::EncoderInput::Tokens { vocab }, .. }) => vocab,
                    _ => 0,
                }
            }
        }
    }

    /// What an example looks like; nothing if tokens are predicted at each place of a sequence.
    pub fn form(&self) -> Option<Form> {
        match self {
            Self::Lm(_) | Self::Recall(_) | Self::Copy(_) => None,
            Self::ListOps(task) => Some(task.form()),
            Self::Classify(task) => Some(task.form()),
            Self::Series(task) => Some(task.form()),
            Self::Forecast(task) => Some(task.form()),
            Self::Control(task) => Some(task.form()),
        }
    }

    /// Puts into a model's configuration what the task decides and the file has left out: tokens, length, classes and the like.
    ///
    /// # Errors
    /// If the model is of a kind that cannot learn the task, or its configuration says something else.
    pub fn fit(&self, model: &mut ModelConfig) -> Result<()> {
        match (self.form(), model) {
            (None, ModelConfig::Decoder(DecoderConfig { vocab, .. })) => match *vocab {
                0 => *vocab = self.vocab(),
                other if other != self.vocab() => {
                    return Err(Error::value("model.vocab", format!("{}, as the tokens", self.vocab()), other));
                }
                _ => (),
            },
            (Some(Form { input: FormInput::Steps { input, length }, head }), ModelConfig::Encoder(config)) => {
                let EncoderConfig { input: own_input, length: own_length, head: own_head, .. } = config;
                agree("model.input", own_input.get_or_insert(input), &input)?;
                agree("model.head", own_head.get_or_insert(head), &head)?;
                match *own_length {
                    0 => *own_length = length,
                    other if other != length => return Err(Error::value("model.length", format!("{length}, as in the task"), other)),
                    _ => (),
                }
            }
            (Some(Form { input: FormInput::Image { channels, height, width }, head }), ModelConfig::FlowformerVision(config)) => {
                let regard_models::Head::Classes { classes } = head else { unreachable!("images have classes") };
                if height != width {
                    return Err(Error::value("data.source", "a set of square images for this model", format!("{height} × {width} pixels")));
                }
                let FlowformerVisionConfig { image, channels: own_channels, classes: own_classes, .. } = config;
                for (key, own, wanted) in
                    [("model.image", image, height), ("model.channels", own_channels, channels), ("model.classes", own_classes, classes)]
                {
                    match *own {
                        0 => *own = wanted,
                        other if other != wanted => return Err(Error::value(key, format!("{wanted}, as the images"), other)),
                        _ => (),
                    }
                }
            }
            (None, model) => return Err(Error::value("model.kind", "`decoder` for this task", model.kind())),
            (Some(Form { input: FormInput::Steps { .. }, .. }), model) => {
                return Err(Error::value("model.kind", "`encoder` for this task", model.kind()));
            }
            (Some(_), model) => {
                return Err(Error::value("model.kind", "`flowformer_vision` for images, or `task.view` `pixels`", model.kind()));
            }
        }
        Ok(())
    }

    /// How text becomes tokens, if there is text.
    pub fn tokenizer(&self) -> Option<&Tokenizer> {
        match self {
            Self::Lm(language) => Some(language.tokenizer()),
            _ => None,
        }
    }

    /// The target that marks a position where nothing is to be predicted.
    pub fn ignore(&self) -> Option<usize> {
        match self {
            Self::Recall(_) | Self::Copy(_) => Some(BLANK as usize),
            _ => None,
        }
    }

    /// The training sequences of pass `pass` of step `step`, both from 0.
    pub fn batch(&self, order: &Order, step: usize, pass: usize) -> Samples {
        let numbers = order.numbers(step, pass);
        let tokens = |push: &dyn Fn(u64, &mut Batch)| {
            let mut batch = Batch::with_capacity(order.batch, order.context);
            order.numbers(step, pass).for_each(|number| push(number, &mut batch));
            Samples::Tokens(batch)
        };
        match self {
            Self::Lm(language) => tokens(&|number, batch| language.sequence(order, number, batch)),
            Self::Recall(recall) => tokens(&|number, batch| recall.sequence(order.seed, number, batch)),
            Self::Copy(copy) => tokens(&|number, batch| copy.sequence(order.seed, number, batch)),
            Self::ListOps(task) => Samples::Examples(task.batch(order, numbers)),
            Self::Classify(task) => Samples::Examples(task.batch(order, numbers)),
            Self::Series(task) => Samples::Examples(task.batch(order, numbers)),
            Self::Forecast(task) => Samples::Examples(task.batch(order, numbers)),
            Self::Control(task) => Samples::Examples(task.batch(order, numbers)),
        }
    }

    /// The sequences of a split in batches of at most `batch`, at least `tokens` tokens as far as the split goes, and the bytes of
    /// text that they predict, if any. Text is cut into disjoint windows of `context` tokens: each token is predicted once. Examples count
    /// as `context` tokens each.
    ///
    /// # Errors
    /// If the task has no such split.
    pub fn evaluation(&self, split: Split, tokens: usize, batch: usize, context: usize) -> Result<(Vec<Samples>, Option<usize>)> {
        let (count, whole) =
            (tokens.div_ceil(context.max(1)), |batches: Vec<Examples>| batches.into_iter().map(Samples::Examples).collect());
        let of_tokens = |batches: Vec<Batch>| batches.into_iter().map(Samples::Tokens).collect();
        match self {
            Self::Lm(language) => {
                language.evaluation(split, tokens, batch, context).map(|(batches, bytes)| (of_tokens(batches), Some(bytes)))
            }
            Self::Recall(recall) => Ok((of_tokens(recall.evaluation(split, tokens, batch)), None)),
            Self::Copy(copy) => Ok((of_tokens(copy.evaluation(split, tokens, batch)), None)),
            Self::ListOps(task) => Ok((whole(task.evaluation(split, count.min(ENDLESS), batch)?), None)),
            Self::Classify(task) => Ok((whole(task.evaluation(split, count, batch)?), None)),
            Self::Series(task) => Ok((whole(task.evaluation(split, count.min(ENDLESS), batch)?), None)),
            Self::Forecast(task) => Ok((whole(task.evaluation(split, count, batch)?), None)),
            Self::Control(task) => Ok((whole(task.evaluation(split, count, batch)?), None)),
        }
    }
}

/// Most examples of a generator in an evaluation, where "all" is asked for.
const ENDLESS: usize = 10_000;

fn agree<T: PartialEq + std::fmt::Debug>(key: &'static str, own: &T, wanted: &T) -> Result<()> {
    if own == wanted { Ok(()) } else { Err(Error::value(key, format!("{wanted:?}, as in the task, or left out"), format!("{own:?}"))) }
}

#[cfg(test)]
mod tests;
