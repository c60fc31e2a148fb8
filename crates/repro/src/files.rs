use std::{fs, path::Path};

use serde::{Serialize, de::DeserializeOwned};

use crate::{Error, Result};

/// Reads a JSON file.
pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let text = fs::read_to_string(path).map_err(Error::file(path))?;
    serde_json::from_str(&text).map_err(|e| Error::Damaged { path: path.into(), message: e.to_string() })
}

/// Writes a file as a whole or not at all.
pub(crate) fn write_whole(path: &Path, text: &str) -> Result<()> {
    let scratch = path.with_extension("tmp");
    fs::write(&scratch, text).map_err(Error::file(&scratch))?;
    fs::rename(&scratch, path).map_err(Error::file(path))
}

/// [`write_whole`] of a value as JSON.
pub(crate) fn write_json<T: Serialize>(path: &Path, value: &T) -> Result<()> {
    let text = serde_json::to_string_pretty(value).map_err(|e| Error::Damaged { path: path.into(), message: e.to_string() })?;
    write_whole(path, &(text + "\n"))
}
