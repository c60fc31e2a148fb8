//! Text, images and series of numbers: data sets by name, and any file or folder.
//!
//! | name | what | splits | usual tokens |
//! | --- | --- | --- | --- |
//! | `mnist`, `fashion-mnist` | images in IDX files | a share of the training images validates; as published | – |
//! | `cifar10-jpeg`, `eurosat-rgb` | images in archives of JPEG files | as `mnist` | – |
//! | `clothing-small` | photographs of many sizes, likewise: `task.size` brings them to one | as `mnist` | – |
//! | `etth1` | seven channels of an electricity transformer, hourly | 12, 4 and 4 months | – |
//! | `tinyshakespeare` | 1.1 MB of plays | first 90 % train, the rest validates | characters |
//! | `wikitext-2` | Wikipedia articles, tokenised | as published | words |
//! | `gutenberg` | long books, one per file | the last book (by number) validates, the others train | bytes |
//! | `two-dots`, `routed-retrieval` | images drawn for the run: see [`Scene`] | as many as asked for, each split its own | – |
//! | `embedded` | the pages of this project | first 90 % train, the rest validates | bytes |
//!
//! Any other source is a path. Of text, a folder with files or folders named for splits (`train.txt`, `wiki.valid.tokens`, `test/`, …) is taken
//! as it is; any other folder is read in the order of its file names, and the end of the text validates.

mod download;
mod embedded;
mod files;
mod images;
mod lookup;
mod scenes;
mod table;

#[cfg(test)]
pub(crate) use images::tests::idx_set;

pub use download::{DATA_SETS, DataSet, RemoteFile, download};
pub use images::{ImageSet, Images, load_images};
pub use lookup::{NAMES, cache, locate};
pub use scenes::Scene;
pub use table::{Series, load_series};

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// Where data come from; of text, how it becomes tokens.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataConfig {
    /// One of [`NAMES`], or the path of a file or folder: UTF-8 text, images as [`load_images`] reads them, or a CSV file.
    pub source: String,
    /// `byte`, `char`, `word`, or the path of a Hugging Face `tokenizer.json`; by default what is usual for the data set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokenizer: Option<String>,
    /// Share that validates where the data has no such split of its own: of text the end, of images some of those to train on.
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
    check_fraction(config.valid_fraction)?;
    let (splits, name, tokenizer) = match lookup::find(&config.source)? {
        lookup::Source::Embedded => (files::Splits::whole(embedded::text()), "embedded".to_owned(), "byte"),
        lookup::Source::Drawn(_) => {
            return Err(Error::value("data.source", "a text", format!("`{}`, which holds none", config.source)));
        }
        lookup::Source::Named { name, .. } if lookup::NOT_TEXT.contains(&name) => {
            return Err(Error::value("data.source", "a text", format!("`{name}`, which holds none")));
        }
        lookup::Source::Named { name: "gutenberg", path } => (files::read_books(&path)?, "gutenberg".into(), "byte"),
        lookup::Source::Named { name, path } => (files::read(&path)?, name.into(), if name == "wikitext-2" { "word" } else { "char" }),
        lookup::Source::Path(path) => (files::read(&path)?, config.source.clone(), "byte"),
    };
    let (train, valid, test) = splits.resolve(config.valid_fraction);
    Ok(Corpus { name, train, valid, test, tokenizer })
}

fn check_fraction(valid_fraction: f64) -> Result<()> {
    if valid_fraction > 0.0 && valid_fraction < 1.0 {
        return Ok(());
    }
    Err(Error::value("data.valid_fraction", "in (0, 1)", valid_fraction))
}

#[cfg(test)]
mod tests;
