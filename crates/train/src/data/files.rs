use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::{Error, Result};

/// Text as it was found: in splits, or whole.
#[derive(Debug, PartialEq)]
pub(super) enum Splits {
    Whole(String),
    Given { train: String, valid: Option<String>, test: Option<String> },
}

impl Splits {
    pub(super) fn whole(text: String) -> Self {
        Self::Whole(text)
    }

    /// Train, validation, test; the last `valid_fraction` of the characters of the training text validates if nothing else does.
    pub(super) fn resolve(self, valid_fraction: f64) -> (String, String, Option<String>) {
        let (mut train, test) = match self {
            Self::Given { train, valid: Some(valid), test } => return (train, valid, test),
            Self::Given { train, valid: None, test } => (train, test),
            Self::Whole(text) => (text, None),
        };
        let characters = train.chars().count();
        let kept = ((1.0 - valid_fraction) * characters as f64) as usize;
        let at = train.char_indices().nth(kept).map_or(train.len(), |(at, _)| at);
        let valid = train.split_off(at);
        (train, valid, test)
    }
}

/// Reads a file, or a folder with or without splits.
pub(super) fn read(path: &Path) -> Result<Splits> {
    if !path.is_dir() {
        return Ok(Splits::Whole(read_file(path)?));
    }
    let entries = entries(path)?;
    let split = |names: &[&str]| entries.iter().find(|entry| split_name(entry).is_some_and(|name| names.contains(&name)));
    let (train, valid, test) = (split(&["train"]), split(&["valid", "validation", "val", "dev"]), split(&["test"]));
    let read_split = |path: &PathBuf| if path.is_dir() { read_all(path) } else { read_file(path) };
    match train {
        Some(train) => Ok(Splits::Given {
            train: read_split(train)?,
            valid: valid.map(read_split).transpose()?,
            test: test.map(read_split).transpose()?,
        }),
        None => Ok(Splits::Whole(read_all(path)?)),
    }
}

/// Reads books, one per `.txt` file named by its number: the one with the highest number validates, the others train.
pub(super) fn read_books(path: &Path) -> Result<Splits> {
    if !path.is_dir() {
        return Ok(Splits::Whole(read_file(path)?));
    }
    if let given @ Splits::Given { .. } = read(path)? {
        return Ok(given);
    }
    let mut books = texts(path)?;
    books.sort_by_key(|book| book.file_stem().and_then(|stem| stem.to_str()?.parse::<u64>().ok()));
    let last = books.pop().filter(|_| !books.is_empty());
    let train = books.iter().map(|book| read_file(book)).collect::<Result<Vec<_>>>()?.join("\n");
    match last {
        Some(last) => Ok(Splits::Given { train, valid: Some(read_file(&last)?), test: None }),
        None => Ok(Splits::Whole(read_all(path)?)),
    }
}

/// `train` of `train`, `train.txt` and `wiki.train.tokens`.
fn split_name(path: &Path) -> Option<&str> {
    let name = path.file_name()?.to_str()?;
    if path.is_dir() {
        return Some(name);
    }
    let stem = name.strip_suffix(".txt").or_else(|| name.strip_suffix(".tokens"))?;
    Some(stem.strip_prefix("wiki.").unwrap_or(stem))
}

fn read_all(folder: &Path) -> Result<String> {
    let texts = texts(folder)?;
    if texts.is_empty() {
        return Err(Error::Empty { path: folder.into() });
    }
    Ok(texts.iter().map(|path| read_file(path)).collect::<Result<Vec<_>>>()?.join("\n"))
}

/// The files below a folder in the order of their paths, hidden ones left out; only those that end in `.txt`, if there are any.
fn texts(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in entries(folder)? {
        if entry.is_dir() { files.extend(texts(&entry)?) } else { files.push(entry) }
    }
    if files.iter().any(|file| file.extension().is_some_and(|e| e == "txt")) {
        files.retain(|file| file.extension().is_some_and(|e| e == "txt"));
    }
    Ok(files)
}

fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut entries = Vec::new();
    for entry in fs::read_dir(folder).map_err(Error::read(folder))? {
        let entry = entry.map_err(Error::read(folder))?;
        if !entry.file_name().as_encoded_bytes().starts_with(b".") {
            entries.push(entry.path());
        }
    }
    entries.sort();
    Ok(entries)
}

fn read_file(path: &Path) -> Result<String> {
    let bytes = fs::read(path).map_err(Error::read(path))?;
    let text = String::from_utf8(bytes).map_err(|e| Error::NotUtf8 { path: path.into(), offset: e.utf8_error().valid_up_to() })?;
    let text = match text.strip_prefix('\u{feff}') {
        Some(rest) => rest.to_owned(),
        None => text,
    };
    if text.trim().is_empty() { Err(Error::Empty { path: path.into() }) } else { Ok(text) }
}
