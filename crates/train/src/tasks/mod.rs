//! What is learned: batches for any step, and a fixed set to evaluate on.
//!
//! A task keeps no position. Training sequence number `n` of a run depends on the seed and on `n` alone, so that a run resumes exactly
//! wherever it stopped, and ranks that share a batch take the sequences that one rank would have taken.

mod augment;
mod batch;
mod classify;
mod config;
mod control;
mod copy;
mod examples;
mod fit;
mod forecast;
mod language;
mod listops;
mod recall;
mod series;

pub use augment::{Alteration, Augment, AugmentConfig, RandAugment};
pub use batch::{Batch, Order, Samples};
use batch::{generated, generator};
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

use examples::Source;

use crate::{Error, Result, RunConfig, Split, Tokenizer, data};

/// The token that is none of a generated task's own: filler among the tokens, "nothing to predict" among the targets.
const BLANK: u32 = 0;

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
            Self::Classify(task) => {
                let count = if task.is_endless() { count.min(ENDLESS) } else { count };
                Ok((whole(task.evaluation(split, count, batch)?), None))
            }
            Self::Series(task) => Ok((whole(task.evaluation(split, count.min(ENDLESS), batch)?), None)),
            Self::Forecast(task) => Ok((whole(task.evaluation(split, count, batch)?), None)),
            Self::Control(task) => Ok((whole(task.evaluation(split, count, batch)?), None)),
        }
    }
}

/// Most examples of a generator in an evaluation, where "all" is asked for.
const ENDLESS: usize = 10_000;

#[cfg(test)]
mod tests;
