//! Configurations in TOML, and where in a file something stands.

use std::{fs, path::Path};

use regard::{in_place, split_place};
use serde::de::DeserializeOwned;
use toml::de::{DeTable, DeValue};

use crate::{Error, Result, suggest};

/// Reads the text of a file.
///
/// # Errors
/// If it is not TOML, a key is unknown or missing, or a value has the wrong type: with the line and the path of the key.
pub fn from_toml<T: DeserializeOwned>(text: &str) -> Result<T> {
    let unfit = |line, message: &str, suggestion| Error::Config { path: None, line, message: message.trim_end().to_owned(), suggestion };
    // The message of a mistake of syntax shows the line.
    let document = toml::Deserializer::parse(text).map_err(|e| unfit(None, &e.to_string(), None))?;
    serde_path_to_error::deserialize(document).map_err(|error| {
        let path = error.path().to_string();
        let error: toml::de::Error = error.into_inner();
        let message = in_place(&path, error.message());
        let line = match split_place(&message) {
            Some((path, _)) => line_of(text, path),
            None => error.span().map(|span| line_at(text, span.start)),
        };
        unfit(line, &message, suggest::from_serde(&message))
    })
}

/// Reads a file.
///
/// # Errors
/// As [`from_toml`], with the name of the file, or if it cannot be read.
pub fn load_toml<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let text = fs::read_to_string(path).map_err(Error::read(path))?;
    from_toml(&text).map_err(|error| match error {
        Error::Config { line, message, suggestion, .. } => Error::Config { path: Some(path.into()), line, message, suggestion },
        other => other,
    })
}

/// The line, from 1, of what a path like `model.mixers[1].heads` names; if it is not there, of the innermost table of the path that is.
pub(crate) fn line_of(text: &str, path: &str) -> Option<usize> {
    let root = DeTable::parse(text).ok()?;
    let mut at: Option<usize> = None;
    let mut keys = path.split(['.', '[']).filter(|key| !key.is_empty());
    let mut inside = keys.next().and_then(|key| entry(root.get_ref(), key, &mut at));
    for key in keys {
        inside = match (inside?, key.strip_suffix(']')) {
            (DeValue::Array(values), Some(index)) => index.parse::<usize>().ok().and_then(|index| values.get(index)).map(|value| {
                at = Some(value.span().start);
                value.get_ref()
            }),
            (DeValue::Table(table), None) => entry(table, key, &mut at),
            _ => None,
        };
        if inside.is_none() {
            break;
        }
    }
    at.map(|at| line_at(text, at))
}

fn entry<'a, 'i>(table: &'a DeTable<'i>, key: &str, at: &mut Option<usize>) -> Option<&'a DeValue<'i>> {
    let (key, value) = table.iter().find(|(name, _)| name.get_ref() == key)?;
    *at = Some(key.span().start);
    Some(value.get_ref())
}

fn line_at(text: &str, offset: usize) -> usize {
    1 + text.get(..offset).map_or(0, |before| before.matches('\n').count())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "seed = 1\n\n[model]\nd_model = 8\nhead = { kind = \"each\", outputs = 2 }\n\n[[model.mixers]]\nkind = \"flow\"\n\n\
                        [[model.mixers]]\n# The second.\nkind = \"softmax\"\nheads = 2\n\n[train]\nbatch = 4\n";

    #[test]
    fn a_path_leads_to_its_line_or_to_the_table_around_it() {
        let expected = [
            ("seed", 1),
            ("model", 3),
            ("model.d_model", 4),
            ("model.head.outputs", 5),
            ("model.mixers[0].kind", 8),
            ("model.mixers[0].heads", 7),
            ("model.mixers[1]", 10),
            ("model.mixers[1].heads", 13),
            ("model.width", 3),
            ("train.batch", 16),
            ("train.batch.size", 16),
        ];
        for (path, line) in expected {
            assert_eq!(line_of(TEXT, path), Some(line), "{path}");
        }
        assert_eq!(line_of(TEXT, "task"), None);
        let inline = "model = { mixers = [\n  { kind = \"flow\" },\n  { kind = \"softmax\", heads = 1 },\n] }";
        assert_eq!(line_of(inline, "model.mixers[1].heads"), Some(3));
        assert_eq!(line_of(inline, "model.mixers[0].heads"), Some(2));
    }
}
