//! Text: data sets by name, and any file or folder.
//!
//! | name | what | splits | usual tokens |
//! | --- | --- | --- | --- |
//! | `tinyshakespeare` | 1.1 MB of plays | first 90 % train, the rest validates | characters |
//! | `wikitext-2` | Wikipedia articles, tokenised | as published | words |
//! | `gutenberg` | long books, one per file | the last book (by number) validates, the others train | bytes |
//! | `embedded` | the pages of this project | first 90 % train, the rest validates | bytes |
//!
//! Any other source is a path. A folder with files or folders named for splits (`train.txt`, `wiki.valid.tokens`, `test/`, …) is taken
//! as it is; any other folder is read in the order of its file names, and the end of the text validates.

mod download;
mod embedded;
mod files;
mod lookup;

pub use download::{DATA_SETS, DataSet, RemoteFile, download};
pub use lookup::{NAMES, cache, locate};

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// Where text comes from and how it becomes tokens.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataConfig {
    /// One of [`NAMES`], or the path of a file or folder of UTF-8 text.
    pub source: String,
    /// `byte`, `char`, `word`, or the path of a Hugging Face `tokenizer.json`; by default what is usual for the data set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokenizer: Option<String>,
    /// Share of the text, at its end, that validates where the data has no splits of its own.
    #[serde(default = "default_valid_fraction")]
    pub valid_fraction: f64,
}

fn default_valid_fraction() -> f64 {
    0.1
}

impl DataConfig {
    /// The source with its usual tokens and splits.
    pub fn new(source: impl Into<String>) -> Self {
        Self { source: source.into(), tokenizer: None, valid_fraction: default_valid_fraction() }
    }
}

/// Text in splits.
#[derive(Clone, Debug, PartialEq)]
pub struct Corpus {
    /// The name of the data set, or the path.
    pub name: String,
    /// Text to train on.
    pub train: String,
    /// Text to choose by.
    pub valid: String,
    /// Text to report on, if the data set keeps some apart.
    pub test: Option<String>,
    /// The usual tokens: `byte`, `char` or `word`.
    pub tokenizer: &'static str,
}

/// Reads the text.
///
/// # Errors
/// If the source is unknown, missing, unreadable, not UTF-8 or empty, or the share of validation is not in (0, 1).
pub fn load(config: &DataConfig) -> Result<Corpus> {
    if !(config.valid_fraction > 0.0 && config.valid_fraction < 1.0) {
        return Err(Error::value("data.valid_fraction", "in (0, 1)", config.valid_fraction));
    }
    let (splits, name, tokenizer) = match lookup::find(&config.source)? {
        lookup::Source::Embedded => (files::Splits::whole(embedded::text()), "embedded".to_owned(), "byte"),
        lookup::Source::Named { name: "gutenberg", path } => (files::read_books(&path)?, "gutenberg".into(), "byte"),
        lookup::Source::Named { name, path } => (files::read(&path)?, name.into(), if name == "wikitext-2" { "word" } else { "char" }),
        lookup::Source::Path(path) => (files::read(&path)?, config.source.clone(), "byte"),
    };
    let (train, valid, test) = splits.resolve(config.valid_fraction);
    Ok(Corpus { name, train, valid, test, tokenizer })
}

#[cfg(test)]
mod tests;
