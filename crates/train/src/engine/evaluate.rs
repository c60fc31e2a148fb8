use std::time::Instant;

use burn::tensor::Device;
use regard_models::Model;
use serde::{Deserialize, Serialize};

use super::objective::{Score, score};
use crate::tasks::Samples;

/// A part of the data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Split {
    /// What is trained on.
    Train,
    /// What is chosen by.
    Valid,
    /// What is reported on.
    Test,
}

/// How well a model predicts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    /// Mean negative log-likelihood of a token or a class in nats; of numbers the mean squared error.
    pub loss: f64,
    /// `exp(loss)`, for tokens.
    pub perplexity: Option<f64>,
    /// Negative log-likelihood of the text in bits per byte of it, whatever the tokens are; for text only.
    pub bits_per_byte: Option<f64>,
    /// Share of targets that are the most likely class, or the most likely token, where only some positions have one.
    pub accuracy: Option<f64>,
    /// Mean absolute error, for numbers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mae: Option<f64>,
    /// Number of tokens, classes or numbers predicted.
    pub tokens: usize,
}

/// An evaluation and what it took.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Evaluated {
    /// The numbers.
    #[serde(flatten)]
    pub evaluation: Evaluation,
    /// Seconds that the passes over the batches took together.
    pub seconds: f64,
}

impl Evaluation {
    /// What the loss is measured in.
    pub fn unit(&self) -> &'static str {
        match (self.mae, self.perplexity) {
            (Some(_), _) => "mean squared error",
            (None, Some(_)) => "nats per token",
            (None, None) => "nats per example",
        }
    }
}

/// [`evaluate`] with its time.
pub(super) fn timed(model: &Model, batches: &[Samples], bytes: Option<usize>, ignore: Option<usize>, device: &Device) -> Evaluated {
    let begun = Instant::now();
    let evaluation = evaluate(model, batches, bytes, ignore, device);
    Evaluated { evaluation, seconds: begun.elapsed().as_secs_f64() }
}

/// Evaluates a model over batches, with the bytes of text that they predict, if any.
pub(super) fn evaluate(model: &Model, batches: &[Samples], bytes: Option<usize>, ignore: Option<usize>, device: &Device) -> Evaluation {
    let mut all = Score::default();
    for samples in batches {
        all += score(model, samples, ignore, device);
    }
    let count = all.count as f64;
    let loss = all.loss / count;
    let of_tokens = batches.iter().all(|samples| matches!(samples, Samples::Tokens(_)));
    Evaluation {
        loss,
        perplexity: of_tokens.then(|| loss.exp()),
        bits_per_byte: bytes.map(|bytes| all.loss / std::f64::consts::LN_2 / bytes as f64),
        accuracy: all.hits.map(|hits| hits / count),
        mae: all.absolute.map(|sum| sum / count),
        tokens: all.count,
    }
}
