use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use super::Encoded;

/// The end of a line.
const EOS: &str = "<eos>";
/// A word that is not in the vocabulary.
const UNKNOWN: &str = "<unk>";

/// The words that a [`Tokenizer::Word`](super::Tokenizer::Word) knows.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(from = "Vec<String>", into = "Vec<String>")]
pub struct Words {
    words: Vec<String>,
    ids: HashMap<String, u32>,
}

impl From<Vec<String>> for Words {
    fn from(words: Vec<String>) -> Self {
        let ids = words.iter().zip(0..).map(|(word, id)| (word.clone(), id)).collect();
        Self { words, ids }
    }
}

impl From<Words> for Vec<String> {
    fn from(known: Words) -> Self {
        known.words
    }
}

impl Words {
    /// The words of the texts in the order in which they come, and `<eos>` and `<unk>`.
    pub(super) fn of(texts: &[&str]) -> Self {
        let mut known = Self::from(Vec::new());
        for text in texts {
            for line in text.lines() {
                for word in line.split_whitespace().chain([EOS]) {
                    known.add(word);
                }
            }
        }
        known.add(EOS);
        known.add(UNKNOWN);
        known
    }

    fn add(&mut self, word: &str) {
        if !self.ids.contains_key(word) {
            self.ids.insert(word.to_owned(), self.words.len() as u32);
            self.words.push(word.to_owned());
        }
    }

    pub(super) fn len(&self) -> usize {
        self.words.len()
    }

    fn id(&self, word: &str) -> u32 {
        self.ids.get(word).or_else(|| self.ids.get(UNKNOWN)).copied().unwrap_or_default()
    }

    pub(super) fn encode(&self, text: &str) -> Encoded {
        let mut encoded = Encoded::default();
        let start = text.as_ptr() as usize;
        let mut end = 0;
        for line in text.split_inclusive('\n') {
            for word in line.split_whitespace() {
                // Words are slices of the text.
                encoded.push(self.id(word), word.as_ptr() as usize - start + word.len());
            }
            end += line.len();
            encoded.push(self.id(EOS), end);
        }
        encoded
    }

    /// Words with a space between them, a new line for each `<eos>`.
    pub(super) fn decode(&self, ids: &[u32]) -> String {
        let mut text = String::new();
        for &id in ids {
            match self.words.get(id as usize).map_or(UNKNOWN, String::as_str) {
                EOS => text.push('\n'),
                word => {
                    text.push_str(word);
                    text.push(' ');
                }
            }
        }
        text
    }
}
