mod hugging_face;
mod word;

use std::{
    collections::{BTreeSet, HashMap},
    path::Path,
};

use serde::{Deserialize, Serialize};

use crate::{Error, Result, data::Corpus};
use hugging_face::HuggingFace;
use word::Words;

/// Text to numbers and back. It serialises with all that it has learned, so that a run needs its data no more.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "kind", content = "vocabulary", rename_all = "snake_case", deny_unknown_fields)]
pub enum Tokenizer {
    /// The 256 bytes of UTF-8.
    Byte,
    /// The characters of a text, in their order.
    Char(Characters),
    /// The words of a text between white space, `<eos>` at the end of each line, `<unk>` for any other word.
    Word(Words),
    /// A Hugging Face tokeniser.
    HuggingFace(Box<HuggingFace>),
}

/// The characters that a [`Tokenizer::Char`] knows.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub struct Characters {
    characters: Vec<char>,
    ids: HashMap<char, u32>,
}

impl From<String> for Characters {
    fn from(text: String) -> Self {
        let characters: Vec<char> = text.chars().collect::<BTreeSet<_>>().into_iter().collect();
        let ids = characters.iter().zip(0..).map(|(&c, id)| (c, id)).collect();
        Self { characters, ids }
    }
}

impl From<Characters> for String {
    fn from(known: Characters) -> Self {
        known.characters.into_iter().collect()
    }
}

/// Tokens of a text and where they end in it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Encoded {
    /// The tokens.
    pub ids: Vec<u32>,
    /// Position behind the last byte of each token.
    pub ends: Vec<usize>,
}

impl Encoded {
    fn with_capacity(tokens: usize) -> Self {
        Self { ids: Vec::with_capacity(tokens), ends: Vec::with_capacity(tokens) }
    }

    fn push(&mut self, id: u32, end: usize) {
        self.ids.push(id);
        self.ends.push(end);
    }
}

impl Tokenizer {
    /// The tokeniser of that name for a corpus: `byte`, `char`, `word`, or the path of a `tokenizer.json`.
    ///
    /// # Errors
    /// If it is none of these, or the file cannot be read.
    pub fn named(name: &str, corpus: &Corpus) -> Result<Self> {
        let texts = || [Some(&corpus.train), Some(&corpus.valid), corpus.test.as_ref()].into_iter().flatten().map(String::as_str);
        match name {
            "byte" => Ok(Self::Byte),
            "char" => Ok(Self::char(&texts().collect::<String>())),
            "word" => Ok(Self::word(&texts().collect::<Vec<_>>())),
            path if Path::new(path).extension().is_some_and(|e| e == "json") => Self::hugging_face(Path::new(path)),
            _ => Err(Error::Config {
                path: None,
                line: None,
                message: format!("`data.tokenizer` must be `byte`, `char`, `word` or the path of a tokenizer.json, got `{name}`"),
                suggestion: crate::suggest::closest(name, ["byte", "char", "word"]).map(str::to_owned),
            }),
        }
    }

    /// One token per character of `text`.
    pub fn char(text: &str) -> Self {
        Self::Char(text.to_owned().into())
    }

    /// One token per different word of the texts, numbered in the order in which they come.
    pub fn word(texts: &[&str]) -> Self {
        Self::Word(Words::of(texts))
    }

    /// The tokeniser of a Hugging Face `tokenizer.json`.
    ///
    /// # Errors
    /// If the file cannot be read or is not one.
    pub fn hugging_face(path: &Path) -> Result<Self> {
        Ok(Self::HuggingFace(Box::new(HuggingFace::read(path)?)))
    }

    /// Number of different tokens.
    pub fn vocab(&self) -> usize {
        match self {
            Self::Byte => 256,
            Self::Char(known) => known.characters.len(),
            Self::Word(words) => words.len(),
            Self::HuggingFace(inner) => inner.vocab(),
        }
    }

    /// What the tokens are called: `byte`, `character`, `word` or `token`.
    pub fn unit(&self) -> &'static str {
        match self {
            Self::Byte => "byte",
            Self::Char(_) => "character",
            Self::Word(_) => "word",
            Self::HuggingFace(_) => "token",
        }
    }

    /// The tokens of a text.
    ///
    /// # Errors
    /// If the vocabulary lacks a character and has no token for the unknown.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        Ok(self.encode_with_ends(text)?.ids)
    }

    /// The tokens of a text with their places.
    ///
    /// # Errors
    /// As [`encode`](Self::encode).
    pub fn encode_with_ends(&self, text: &str) -> Result<Encoded> {
        match self {
            Self::Byte => Ok(Encoded { ids: text.bytes().map(u32::from).collect(), ends: (1..=text.len()).collect() }),
            Self::Char(known) => {
                let mut encoded = Encoded::with_capacity(text.len());
                for (position, (start, character)) in text.char_indices().enumerate() {
                    let id = known.ids.get(&character).ok_or(Error::UnknownCharacter { character, position })?;
                    encoded.push(*id, start + character.len_utf8());
                }
                Ok(encoded)
            }
            Self::Word(words) => Ok(words.encode(text)),
            Self::HuggingFace(inner) => inner.encode(text),
        }
    }

    /// The tokens of a prompt that text is to follow: as [`encode`](Self::encode), but a word tokeniser does not end its last line.
    ///
    /// # Errors
    /// As [`encode`](Self::encode).
    pub fn encode_prompt(&self, prompt: &str) -> Result<Vec<u32>> {
        let mut ids = self.encode(prompt)?;
        if matches!(self, Self::Word(_)) && !prompt.ends_with('\n') {
            ids.pop();
        }
        Ok(ids)
    }

    /// The text of tokens. Bytes that are no character and numbers that are no token become `�`.
    pub fn decode(&self, ids: &[u32]) -> String {
        const UNKNOWN: char = char::REPLACEMENT_CHARACTER;
        match self {
            Self::Byte => String::from_utf8_lossy(&ids.iter().map(|&id| id as u8).collect::<Vec<_>>()).into_owned(),
            Self::Char(known) => ids.iter().map(|&id| known.characters.get(id as usize).copied().unwrap_or(UNKNOWN)).collect(),
            Self::Word(words) => words.decode(ids),
            Self::HuggingFace(inner) => inner.decode(ids),
        }
    }
}

#[cfg(test)]
mod tests;
