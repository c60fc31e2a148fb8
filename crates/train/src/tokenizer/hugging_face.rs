use std::path::Path;

use serde::{Deserialize, Serialize};

use super::Encoded;
use crate::{Error, Result};

/// A tokeniser of the Hugging Face library.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct HuggingFace {
    tokenizer: tokenizers::Tokenizer,
}

impl HuggingFace {
    pub(super) fn read(path: &Path) -> Result<Self> {
        let bytes = std::fs::read(path).map_err(Error::read(path))?;
        let tokenizer = tokenizers::Tokenizer::from_bytes(bytes)
            .map_err(|e| Error::Tokenizer { name: path.display().to_string(), message: e.to_string() })?;
        Ok(Self { tokenizer })
    }

    pub(super) fn vocab(&self) -> usize {
        // Numbers may have gaps, so this can exceed the count of tokens.
        self.tokenizer.get_vocab(true).into_values().max().map_or(0, |last| last as usize + 1)
    }

    pub(super) fn encode(&self, text: &str) -> Result<Encoded> {
        let mut encoded = Encoded::default();
        let mut start = 0;
        while start < text.len() {
            let part = head(&text[start..]);
            let tokens = self
                .tokenizer
                .encode(part, false)
                .map_err(|e| Error::Tokenizer { name: "tokenizer.json".into(), message: e.to_string() })?;
            for (&id, &(_, end)) in tokens.get_ids().iter().zip(tokens.get_offsets()) {
                encoded.push(id, start + end);
            }
            start += part.len();
        }
        Ok(encoded)
    }

    pub(super) fn decode(&self, ids: &[u32]) -> String {
        self.tokenizer.decode(ids, true).unwrap_or_else(|_| char::REPLACEMENT_CHARACTER.to_string())
    }
}

/// The first lines of a text, about 64 KiB: the library holds several hundred bytes for each token of one input.
fn head(text: &str) -> &str {
    const SIZE: usize = 1 << 16;
    match text.as_bytes().get(SIZE..).and_then(|rest| rest.iter().position(|&byte| byte == b'\n')) {
        Some(end) => &text[..=SIZE + end],
        None => text,
    }
}
