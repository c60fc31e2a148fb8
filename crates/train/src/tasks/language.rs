use std::sync::Arc;

use rand::RngExt;

use super::{Batch, Order, generator};
use crate::{Error, Result, Split, Tokenizer, data::Corpus, tokenizer::Encoded};

/// Language modelling over one corpus.
#[derive(Clone, Debug)]
pub struct Language {
    tokenizer: Arc<Tokenizer>,
    train: Arc<Encoded>,
    valid: Arc<Encoded>,
    test: Option<Arc<Encoded>>,
}

impl Language {
    /// The tokens of a corpus.
    ///
    /// # Errors
    /// If the tokeniser fails, the training split has no sequence of `context` tokens and the one after them, or another split nothing
    /// to predict.
    pub fn new(corpus: &Corpus, tokenizer: Tokenizer, context: usize) -> Result<Self> {
        let encode = |split: &'static str, text: &str, context: usize| {
            let encoded = tokenizer.encode_with_ends(text)?;
            let tokens = encoded.ids.len();
            if tokens < context + 1 { Err(Error::DataTooShort { split, tokens, context }) } else { Ok(Arc::new(encoded)) }
        };
        let train = encode("training", &corpus.train, context)?;
        let valid = encode("validation", &corpus.valid, 1)?;
        let test = corpus.test.as_ref().map(|text| encode("test", text, 1)).transpose()?;
        Ok(Self { train, valid, test, tokenizer: Arc::new(tokenizer) })
    }

    /// How text becomes tokens.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// A window at a random place.
    pub(super) fn sequence(&self, order: &Order, number: u64, batch: &mut Batch) {
        let ids = &self.train.ids;
        let start = generator(order.seed, number).random_range(0..ids.len() - order.context);
        let window = &ids[start..=start + order.context];
        batch.ids.extend(&window[..order.context]);
        batch.targets.extend(&window[1..]);
    }

    pub(super) fn evaluation(&self, split: Split, tokens: usize, batch: usize, context: usize) -> Result<(Vec<Batch>, usize)> {
        let encoded = match split {
            Split::Train => &self.train,
            Split::Valid => &self.valid,
            Split::Test => self.test.as_ref().ok_or(Error::value("split", "one that the data has", "test"))?,
        };
        Ok(windows(encoded, tokens, batch, context))
    }
}

/// Disjoint windows of `context` tokens over the beginning of a text, until at least `tokens` are predicted or the text ends; the
/// batches, and the bytes of the predicted tokens.
pub(crate) fn windows(encoded: &Encoded, tokens: usize, batch: usize, context: usize) -> (Vec<Batch>, usize) {
    let ids = &encoded.ids;
    let predicted = tokens.max(1).div_ceil(context).saturating_mul(context).min(ids.len() - 1);
    let full = predicted / context;
    let mut batches: Vec<Batch> = (0..full)
        .step_by(batch)
        .map(|first| {
            let range = first * context..full.min(first + batch) * context;
            Batch { ids: ids[range.clone()].to_vec(), targets: ids[range.start + 1..=range.end].to_vec(), length: context }
        })
        .collect();
    let rest = full * context..predicted;
    if !rest.is_empty() {
        batches.push(Batch { ids: ids[rest.clone()].to_vec(), targets: ids[rest.start + 1..=rest.end].to_vec(), length: rest.len() });
    }
    (batches, encoded.ends[predicted] - encoded.ends[0])
}
