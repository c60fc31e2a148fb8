use std::time::Instant;

use burn::tensor::Device;
use regard::blocks::cross_entropy;
use regard_models::Decoder;
use serde::{Deserialize, Serialize};

use crate::tasks::Batch;

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
    /// Mean negative log-likelihood of a token in nats.
    pub loss: f64,
    /// `exp(loss)`.
    pub perplexity: f64,
    /// Negative log-likelihood of the text in bits per byte of it, whatever the tokens are; for text only.
    pub bits_per_byte: Option<f64>,
    /// Share of targets that are the most likely token, where only some positions have one.
    pub accuracy: Option<f64>,
    /// Number of tokens predicted.
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

/// [`evaluate`] with its time.
pub(super) fn timed(model: &Decoder, batches: &[Batch], bytes: Option<usize>, ignore: Option<usize>, device: &Device) -> Evaluated {
    let begun = Instant::now();
    let evaluation = evaluate(model, batches, bytes, ignore, device);
    Evaluated { evaluation, seconds: begun.elapsed().as_secs_f64() }
}

/// Evaluates a model over batches, with the bytes of text that they predict, if any.
pub(super) fn evaluate(model: &Decoder, batches: &[Batch], bytes: Option<usize>, ignore: Option<usize>, device: &Device) -> Evaluation {
    let (mut nats, mut hits, mut tokens) = (0.0, 0.0, 0);
    for batch in batches {
        let [ids, targets] = batch.tensors(device);
        let counted = batch.targets.iter().filter(|&&target| Some(target as usize) != ignore).count();
        let loss = if let Some(ignore) = ignore {
            let logits = model.forward(ids, None);
            let [b, t, v] = logits.dims();
            let (logits, targets) = (logits.reshape([b * t, v]), targets.reshape([b * t]));
            let most_likely = logits.clone().argmax(1).squeeze_dim::<1>(1).equal(targets.clone());
            let hit = most_likely.bool_and(targets.clone().not_equal_elem(ignore as i64));
            hits += f64::from(hit.float().sum().into_scalar::<f32>());
            cross_entropy(logits, targets, Some(ignore))
        } else {
            model.loss(ids, targets, None)
        };
        tokens += counted;
        nats += f64::from(loss.into_scalar::<f32>()) * counted as f64;
    }
    let loss = nats / tokens as f64;
    Evaluation {
        loss,
        perplexity: loss.exp(),
        bits_per_byte: bytes.map(|bytes| nats / std::f64::consts::LN_2 / bytes as f64),
        accuracy: ignore.map(|_| hits / tokens as f64),
        tokens,
    }
}
