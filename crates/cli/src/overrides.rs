//! `--set KEY=VALUE`: a configuration file with some of its keys replaced.

use std::{fs, path::Path, str::FromStr};

use regard_models::MapMixerConfig;
use regard_train::{Error, RunConfig};
use toml::{Table, Value};

use crate::failure::Failure;

/// One `KEY=VALUE`: a dotted path of keys and a TOML value.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Override {
    keys: Vec<String>,
    value: Value,
}

impl FromStr for Override {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (path, value) = text.split_once('=').ok_or("it needs the form KEY=VALUE, as in `train.steps=500`")?;
        let keys: Vec<String> = path.trim().split('.').map(str::to_owned).collect();
        if keys.iter().any(String::is_empty) {
            return Err(format!("`{path}` is not a dotted path of keys, as `train.steps` is"));
        }
        let value = value.trim();
        let value = match format!("value = {value}").parse::<Table>() {
            Ok(mut table) => table.remove("value").ok_or("the value is empty")?,
            // A bare word is text: the shell has taken the quotes.
            Err(error) if value.is_empty() || value.starts_with(['[', '{', '"', '\'']) => return Err(error.message().to_owned()),
            Err(_) => Value::String(value.to_owned()),
        };
        Ok(Self { keys, value })
    }
}

impl Override {
    /// `model.mixers` as a list of one mixer.
    pub(crate) fn mixer(kind: &str, heads: i64) -> Self {
        let mut mixer = Table::from_iter([("kind".to_owned(), Value::from(kind))]);
        let named = MapMixerConfig::named(kind, heads.try_into().unwrap_or_default()).and_then(|mixer| Table::try_from(mixer).ok());
        if named.is_none_or(|named| named.contains_key("heads")) {
            mixer.insert("heads".to_owned(), Value::from(heads));
        }
        Self { keys: vec!["model".into(), "mixers".into()], value: Value::Array(vec![Value::Table(mixer)]) }
    }

    fn apply(&self, root: &mut Table) -> Result<(), Failure> {
        let (last, sections) = self.keys.split_last().expect("a path has at least one key");
        let mut table = root;
        for key in sections {
            let inner = table.entry(key).or_insert_with(|| Value::Table(Table::new()));
            table = inner
                .as_table_mut()
                .ok_or_else(|| Failure::new(format!("--set {}: `{key}` is a value, not a section", self.keys.join("."))))?;
        }
        table.insert(last.clone(), self.value.clone());
        Ok(())
    }
}

/// The run that a file describes, with `overrides` applied, and with `mixer` (of as many heads) in place of its mixers.
///
/// # Errors
/// If the file cannot be read, or it and the overrides are not the configuration of a run.
pub(crate) fn load(path: &Path, overrides: &[Override], mixer: Option<&str>) -> Result<RunConfig, Failure> {
    if overrides.is_empty() && mixer.is_none() {
        return Ok(RunConfig::load(path)?);
    }
    // Reading it as it is first reports mistakes of the file with its name and line.
    RunConfig::load(path)?;
    let text = fs::read_to_string(path).map_err(|e| Failure::new(format!("cannot read {}: {e}", path.display())))?;
    let mut table = text.parse::<Table>().map_err(|e| Failure::new(format!("{}: {}", path.display(), e.message())))?;
    if let Some(kind) = mixer {
        let heads = table.get("model").and_then(|m| m.get("mixers")?.get(0)?.get("heads")?.as_integer()).unwrap_or(4);
        Override::mixer(kind, heads).apply(&mut table)?;
    }
    for set in overrides {
        set.apply(&mut table)?;
    }
    RunConfig::from_toml(&table.to_string()).map_err(|error| as_overridden(path, error))
}

/// Why the run of a file that was read by [`load`] does not begin: with the line, unless it is not the file alone that speaks.
pub(crate) fn blame(path: &Path, overrides: &[Override], mixer: Option<&str>, config: &RunConfig, error: Error) -> Failure {
    match error {
        Error::Value { .. } | Error::Model(_) if !overrides.is_empty() || mixer.is_some() => as_overridden(path, error),
        error => error.in_file(path, config).into(),
    }
}

fn as_overridden(path: &Path, error: Error) -> Failure {
    // The lines are those of a text that nobody has seen.
    let error = match error {
        Error::Config { message, suggestion, .. } => Error::Config { path: None, line: None, message, suggestion },
        other => other,
    };
    let failure = Failure::from(error);
    Failure { message: format!("{} as overridden: {}", path.display(), failure.message), ..failure }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn set(text: &str) -> Override {
        text.parse().unwrap()
    }

    #[test]
    fn values_are_toml_and_bare_words_are_text() {
        assert_eq!(set("train.steps=500").value, Value::Integer(500));
        assert_eq!(set("optimizer.rate = 1e-4").value, Value::Float(1e-4));
        assert_eq!(set("model.tied=false").value, Value::Boolean(false));
        assert_eq!(set("data.source=book.txt").value, Value::from("book.txt"));
        assert_eq!(set("data.source=\"a=b\"").value, Value::from("a=b"));
        assert_eq!(set("model.mixers=[{kind=\"flow\",heads=2}]"), Override::mixer("flow", 2));
        assert_eq!(set("model.mixers=[{kind=\"polarized\"}]"), Override::mixer("polarized", 2), "it has no heads");
    }

    #[test]
    fn a_path_replaces_one_key_and_leaves_its_neighbours() {
        let mut table: Table = "seed = 1\n[train]\nbatch = 4\nsteps = 10".parse().unwrap();
        set("train.steps=20").apply(&mut table).unwrap();
        set("eval.every=5").apply(&mut table).unwrap();
        assert_eq!(table.to_string(), "seed = 1\n\n[eval]\nevery = 5\n\n[train]\nbatch = 4\nsteps = 20\n");
        let error = set("seed.x=1").apply(&mut table).unwrap_err();
        assert_eq!(error.message, "--set seed.x: `seed` is a value, not a section");
    }

    #[test]
    fn malformed_overrides_say_what_is_wrong() {
        for (text, part) in [("steps", "the form KEY=VALUE"), ("train..steps=1", "dotted path"), ("a=[1", "array"), ("a=", "")] {
            let error = text.parse::<Override>().unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
