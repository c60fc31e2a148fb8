use std::time::Instant;

use burn::tensor::{Device, Int, Tensor, TensorData};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use regard_models::Decoder;
use serde::{Deserialize, Serialize};

use crate::{Error, Result, Tokenizer};

/// How the next token is drawn.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Sampling {
    /// Divides the logits; 0 takes the most likely token.
    pub temperature: f64,
    /// Only the that many most likely tokens can be drawn.
    pub top_k: Option<usize>,
    /// Only the most likely tokens that together have this probability can be drawn.
    pub top_p: Option<f64>,
    /// Seed of the draws.
    pub seed: u64,
}

impl Default for Sampling {
    fn default() -> Self {
        Self { temperature: 0.8, top_k: None, top_p: None, seed: 0 }
    }
}

impl Sampling {
    /// The most likely token, always.
    pub fn greedy() -> Self {
        Self { temperature: 0.0, ..Self::default() }
    }

    /// # Errors
    /// If a value breaks its rule.
    pub fn validate(&self) -> Result<()> {
        if !(self.temperature >= 0.0 && self.temperature.is_finite()) {
            return Err(Error::value("temperature", "at least 0", self.temperature));
        }
        if self.top_k == Some(0) {
            return Err(Error::value("top_k", "at least 1", 0));
        }
        match self.top_p {
            Some(p) if !(p > 0.0 && p <= 1.0) => Err(Error::value("top_p", "in (0, 1]", p)),
            _ => Ok(()),
        }
    }

    /// Draws from logits.
    fn draw(&self, logits: &[f32], generator: &mut ChaCha8Rng) -> u32 {
        let mut order: Vec<u32> = (0..logits.len() as u32).collect();
        let logit = |id: u32| logits[id as usize];
        // Ties go to the smaller number, whatever the sort does.
        let descending = |a: &u32, b: &u32| logit(*b).total_cmp(&logit(*a)).then(a.cmp(b));
        if self.temperature <= 0.0 {
            return order.into_iter().min_by(descending).unwrap_or_default();
        }
        order.sort_unstable_by(descending);
        order.truncate(self.top_k.unwrap_or(usize::MAX));
        let weights: Vec<f64> = order.iter().map(|&id| (f64::from(logit(id) - logit(order[0])) / self.temperature).exp()).collect();
        let total: f64 = weights.iter().sum();
        let enough = self.top_p.unwrap_or(1.0) * total;
        let mut sum = 0.0;
        let kept = weights.iter().take_while(|weight| {
            let before = sum;
            sum += *weight;
            before < enough
        });
        let kept: Vec<f64> = kept.copied().collect();
        let mut at = generator.random::<f64>() * kept.iter().sum::<f64>();
        for (weight, id) in kept.iter().zip(&order) {
            at -= weight;
            if at < 0.0 {
                return *id;
            }
        }
        order[kept.len() - 1]
    }
}

/// What [`generate`] wrote, and what it took.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Generated {
    /// The text without the prompt.
    pub text: String,
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Tokens written.
    pub tokens: usize,
    /// Seconds for the prompt.
    pub prompt_seconds: f64,
    /// Seconds per token written, drawing included: the mean over all but the last, behind which the model does not go on. Nothing for
    /// fewer than two.
    pub token_seconds: Option<f64>,
    /// Bytes of the model's state at the end.
    pub state_bytes: usize,
}

/// Continues `prompt` by `tokens` tokens, one at a time behind the model's state; an empty prompt starts with a new line, or the first
/// token. `on_text` gets the text as it grows.
///
/// Where learned positions end, the model goes on with the last half of what they hold.
///
/// # Errors
/// If the sampling is invalid or the vocabulary lacks a character of the prompt.
pub fn generate(
    model: &Decoder,
    tokenizer: &Tokenizer,
    prompt: &str,
    tokens: usize,
    sampling: &Sampling,
    on_text: &mut dyn FnMut(&str),
) -> Result<Generated> {
    sampling.validate()?;
    let mut ids = tokenizer.encode_prompt(prompt)?;
    if ids.is_empty() {
        ids = tokenizer.encode_prompt("\n").unwrap_or_default();
        ids.resize(ids.len().max(1), 0);
    }
    let device = model.embedding.weight.val().device();
    let limit = model.positions.as_ref().map(|table| table.weight.lazy_shape().dims::<2>()[0]);
    let mut generator = ChaCha8Rng::seed_from_u64(sampling.seed);
    let mut text = Text::default();
    let prompt_length = ids.len();
    let mut state = model.state(1);
    let begun = Instant::now();
    let mut logits = restart(model, &ids, limit, &mut state, &device)?;
    let prompt_seconds = begun.elapsed().as_secs_f64();
    let begun = Instant::now();
    let mut token_seconds = None;
    for number in 1..=tokens {
        let id = sampling.draw(&logits, &mut generator);
        ids.push(id);
        text.grow(&tokenizer.decode(&ids[prompt_length..]), on_text);
        if number == tokens {
            token_seconds = (tokens > 1).then(|| begun.elapsed().as_secs_f64() / (tokens - 1) as f64);
            break;
        }
        logits = if limit.is_some_and(|limit| state.position >= limit) {
            state = model.state(1);
            restart(model, &ids, limit, &mut state, &device)?
        } else {
            let next = Tensor::<1, Int>::from_data(TensorData::new(vec![id.cast_signed()], [1]), &device);
            read(model.step(next, &mut state)?)
        };
    }
    Ok(Generated {
        text: text.finish(&tokenizer.decode(&ids[prompt_length..]), on_text),
        prompt_tokens: prompt_length,
        tokens,
        prompt_seconds,
        token_seconds,
        state_bytes: state.bytes(),
    })
}

/// Takes in the last tokens that leave room for others, and returns the logits behind them.
fn restart(
    model: &Decoder,
    ids: &[u32],
    limit: Option<usize>,
    state: &mut regard_models::DecoderState,
    device: &Device,
) -> Result<Vec<f32>> {
    let kept = match limit {
        Some(limit) if ids.len() >= limit => (limit / 2).max(1),
        _ => ids.len(),
    };
    let ids: Vec<i32> = ids[ids.len() - kept..].iter().map(|&id| id.cast_signed()).collect();
    let logits = model.prefill(Tensor::from_data(TensorData::new(ids, [1, kept]), device), state)?;
    let [_, t, v] = logits.dims();
    Ok(read(logits.narrow(1, t - 1, 1).reshape([1, v])))
}

fn read(logits: Tensor<2>) -> Vec<f32> {
    logits.into_data().iter::<f32>().collect()
}

/// Text that is handed on as far as its characters are complete.
#[derive(Default)]
struct Text {
    told: usize,
}

impl Text {
    fn grow(&mut self, whole: &str, on_text: &mut dyn FnMut(&str)) {
        // The last bytes may be the beginning of a character.
        let complete = whole.trim_end_matches(char::REPLACEMENT_CHARACTER);
        if let Some(new) = complete.get(self.told..).filter(|new| !new.is_empty()) {
            on_text(new);
            self.told = complete.len();
        }
    }

    fn finish(self, whole: &str, on_text: &mut dyn FnMut(&str)) -> String {
        if let Some(new) = whole.get(self.told..).filter(|new| !new.is_empty()) {
            on_text(new);
        }
        whole.to_owned()
    }
}

#[cfg(test)]
mod tests;
