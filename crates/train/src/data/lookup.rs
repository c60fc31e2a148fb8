use std::{
    env,
    path::{Path, PathBuf},
};

use super::Scene;
use crate::{Error, Result, suggest::closest};

/// The data sets that are known by name.
pub const NAMES: &[&str] = &[
    "cifar10-jpeg",
    "clothing-small",
    "embedded",
    "etth1",
    "eurosat-rgb",
    "fashion-mnist",
    "gutenberg",
    "mnist",
    "routed-retrieval",
    "tinyshakespeare",
    "two-dots",
    "wikitext-2",
];

/// Those of them that are no text.
pub(super) const NOT_TEXT: &[&str] = &["cifar10-jpeg", "clothing-small", "etth1", "eurosat-rgb", "fashion-mnist", "mnist"];

/// What a source turned out to be.
#[derive(Debug, PartialEq)]
pub(super) enum Source {
    Embedded,
    Drawn(Scene),
    Named { name: &'static str, path: PathBuf },
    Path(PathBuf),
}

/// Where a data set that is known by name lies on this machine, if it does.
pub fn locate(name: &str) -> Option<PathBuf> {
    match find(name) {
        Ok(Source::Named { path, .. }) => Some(path),
        _ => None,
    }
}

/// The folder of the user's cache that data sets are fetched into; nothing where the system has none.
pub fn cache() -> Option<PathBuf> {
    cache_in(&environment)
}

fn environment(key: &str) -> Option<PathBuf> {
    env::var_os(key).filter(|v| !v.is_empty()).map(PathBuf::from)
}

/// Finds a source: a known name in `$REGARD_DATA`, then in the user's cache; else a path.
pub(super) fn find(source: &str) -> Result<Source> {
    find_in(source, &folders(environment))
}

fn find_in(source: &str, folders: &[PathBuf]) -> Result<Source> {
    if source == "embedded" {
        return Ok(Source::Embedded);
    }
    if let Some(scene) = Scene::named(source) {
        return Ok(Source::Drawn(scene));
    }
    let Some(name) = NAMES.iter().find(|name| **name == source) else {
        return match Path::new(source) {
            path if path.exists() => Ok(Source::Path(path.into())),
            // A bare word is a misspelt name sooner than a path.
            path if path.components().count() == 1 && path.extension().is_none() => {
                Err(Error::UnknownData { name: source.into(), suggestion: closest(source, NAMES.iter().copied()) })
            }
            path => Err(Error::read(path)(std::io::ErrorKind::NotFound.into())),
        };
    };
    let tried: Vec<PathBuf> = folders.iter().map(|folder| folder.join(name)).collect();
    match tried.iter().find(|path| path.exists()) {
        Some(path) => Ok(Source::Named { name, path: path.clone() }),
        None => Err(Error::MissingData { name, looked_in: tried }),
    }
}

fn folders(variable: impl Fn(&str) -> Option<PathBuf>) -> Vec<PathBuf> {
    [variable("REGARD_DATA"), cache_in(&variable)].into_iter().flatten().collect()
}

fn cache_in(variable: &impl Fn(&str) -> Option<PathBuf>) -> Option<PathBuf> {
    let cache = variable("XDG_CACHE_HOME").or_else(|| Some(variable("HOME")?.join(".cache"))).or_else(|| variable("LOCALAPPDATA"));
    cache.map(|folder| folder.join("regard"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_looked_up_in_the_data_folder_then_in_the_cache() {
        let place = tempfile::tempdir().unwrap();
        let [first, second] = ["data", "cache"].map(|n| place.path().join(n));
        std::fs::create_dir_all(second.join("gutenberg")).unwrap();
        let folders = [first.clone(), second.clone()];
        assert_eq!(find_in("gutenberg", &folders).unwrap(), Source::Named { name: "gutenberg", path: second.join("gutenberg") });
        std::fs::create_dir_all(first.join("gutenberg")).unwrap();
        assert_eq!(find_in("gutenberg", &folders).unwrap(), Source::Named { name: "gutenberg", path: first.join("gutenberg") });
        let error = find_in("wikitext-2", &folders).unwrap_err();
        assert!(error.to_string().starts_with("the data set `wikitext-2` is not on this machine; looked in "), "{error}");
        assert!(error.hint().unwrap().contains("$REGARD_DATA"));
    }

    #[test]
    fn a_misspelt_name_is_answered_with_the_name() {
        let error = find_in("tinyshakespear", &[]).unwrap_err();
        assert_eq!(error.to_string(), "no data set and no file is named `tinyshakespear`");
        assert_eq!(error.hint().unwrap(), "did you mean `tinyshakespeare`?");
        let error = find_in("texts/none.txt", &[]).unwrap_err();
        assert!(error.to_string().starts_with("cannot read texts/none.txt: "), "{error}");
    }

    #[test]
    fn the_data_folder_comes_before_the_cache() {
        let all = |key: &str| Some(PathBuf::from(format!("/{key}")));
        assert_eq!(folders(all), ["/REGARD_DATA", "/XDG_CACHE_HOME/regard"].map(PathBuf::from));
        let home = |key: &str| (key == "HOME").then(|| PathBuf::from("/home"));
        assert_eq!(folders(home), [PathBuf::from("/home/.cache/regard")]);
        assert!(folders(|_| None).is_empty());
    }
}
