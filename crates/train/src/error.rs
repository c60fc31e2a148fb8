use std::{
    io,
    path::{Path, PathBuf},
};

/// What data, configuration or the state of a run can do wrong.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file or folder cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file or folder cannot be written.
    #[error("cannot write {}: {source}", path.display())]
    Write {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file is not UTF-8 text.
    #[error("{} is not UTF-8 text: invalid byte at offset {offset}", path.display())]
    NotUtf8 {
        /// The file.
        path: PathBuf,
        /// Position of the first byte that cannot be decoded.
        offset: usize,
    },
    /// A file or folder holds no text.
    #[error("{} holds no text", path.display())]
    Empty {
        /// The file or folder.
        path: PathBuf,
    },
    /// A file of data is damaged or of another kind.
    #[error("{}: {message}", path.display())]
    Data {
        /// The file or folder.
        path: PathBuf,
        /// What is wrong and where.
        message: String,
    },
    /// A data set's name is neither known nor the path of a file.
    #[error("no data set and no file is named `{name}`")]
    UnknownData {
        /// The name.
        name: String,
        /// The known name that it resembles.
        suggestion: Option<&'static str>,
    },
    /// A known data set is not on this machine.
    #[error("the data set `{name}` is not on this machine; looked in {}", list(looked_in))]
    MissingData {
        /// The name.
        name: &'static str,
        /// The folders that were tried.
        looked_in: Vec<PathBuf>,
    },
    /// A file of a data set cannot be fetched.
    #[error("cannot fetch {url}: {message}")]
    Download {
        /// Where it lies.
        url: &'static str,
        /// What went wrong.
        message: String,
    },
    /// A file of a data set is not what it must be.
    #[error("{} has the SHA-256 {got}, not {want}", path.display())]
    Checksum {
        /// The file.
        path: PathBuf,
        /// What it must be.
        want: &'static str,
        /// What it is.
        got: String,
    },
    /// A split is too short for one sequence.
    #[error("the {split} split has {tokens} tokens, a context of {context} needs at least {}", context + 1)]
    DataTooShort {
        /// The split.
        split: &'static str,
        /// Its length.
        tokens: usize,
        /// Tokens per sequence.
        context: usize,
    },
    /// Text holds a character outside the tokeniser's vocabulary.
    #[error("the vocabulary has no character {character:?} (at character {position} of the text)")]
    UnknownCharacter {
        /// The character.
        character: char,
        /// Its position, counted in characters.
        position: usize,
    },
    /// A tokeniser cannot be built or fails.
    #[error("tokenizer {name}: {message}")]
    Tokenizer {
        /// Its name or file.
        name: String,
        /// What is wrong.
        message: String,
    },
    /// A configuration cannot be parsed.
    #[error("{}{message}", place(path.as_deref(), *line))]
    Config {
        /// The file, if it came from one.
        path: Option<PathBuf>,
        /// The line, from 1, where it is known and the message does not show it.
        line: Option<usize>,
        /// What is wrong and where.
        message: String,
        /// The known key or value that an unknown one resembles.
        suggestion: Option<String>,
    },
    /// A value of a configuration breaks a rule.
    #[error("`{key}` must be {want}, got {got}")]
    Value {
        /// The key, with its section.
        key: &'static str,
        /// The rule, as in "must be …".
        want: String,
        /// The value given.
        got: String,
    },
    /// A model or mechanism rejects its configuration.
    #[error(transparent)]
    Model(#[from] regard::Error),
    /// The folder of a new run already holds one.
    #[error("{} already holds a run", path.display())]
    RunExists {
        /// The folder.
        path: PathBuf,
    },
    /// A folder is not that of a run.
    #[error("{} is not the folder of a run: it has no {missing}", path.display())]
    NotARun {
        /// The folder.
        path: PathBuf,
        /// The file that is not there.
        missing: &'static str,
    },
    /// A run has not yet written a checkpoint.
    #[error("the run in {} has no checkpoint yet", path.display())]
    NoCheckpoint {
        /// The folder of the run.
        path: PathBuf,
    },
    /// A checkpoint is damaged or belongs to something else.
    #[error("checkpoint {}: {message}", path.display())]
    Checkpoint {
        /// The folder of the checkpoint.
        path: PathBuf,
        /// What is wrong with it.
        message: String,
    },
    /// The loss or the gradient is no longer a number.
    #[error("{what} became {value} at step {step}: training stopped")]
    NotFinite {
        /// "the loss" or "the gradient norm".
        what: &'static str,
        /// Its value.
        value: f64,
        /// The step, from 1.
        step: usize,
        /// The last checkpoint before it.
        checkpoint: Option<PathBuf>,
    },
}

impl Error {
    /// What to do about it, where that can be said.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::UnknownData { suggestion: Some(name), .. } => Some(format!("did you mean `{name}`?")),
            Self::UnknownData { suggestion: None, .. } => {
                Some(format!("give the path of a file or folder, or one of {}", crate::data::NAMES.join(", ")))
            }
            Self::MissingData { name, .. } => {
                let fetched = crate::data::DataSet::named(name).is_some_and(|set| !set.files.is_empty());
                let fetch = if fetched { format!("fetch it with `regard data get {name}`, ") } else { String::new() };
                Some(format!("{fetch}point $REGARD_DATA to the folder that holds `{name}`, or give the path of its files"))
            }
            Self::Download { .. } => Some(
                "try again when this machine is online: what is here is kept; or put the file into the folder of its data set under \
                 $REGARD_DATA"
                    .into(),
            ),
            Self::Checksum { .. } => Some("it was damaged on the way or changed since: remove it and fetch it again".into()),
            Self::DataTooShort { .. } => Some("use a shorter context or more text".into()),
            Self::Config { suggestion: Some(known), .. } => Some(format!("did you mean `{known}`?")),
            Self::RunExists { .. } => Some("continue it with --resume, or choose another folder with --out".into()),
            Self::Checkpoint { path, .. } => {
                Some(format!("remove {} to continue from the checkpoint before it, if there is one", path.display()))
            }
            Self::NotFinite { checkpoint, .. } => Some(match checkpoint {
                Some(path) => format!("the last good checkpoint is {}; try a lower rate, a longer warm-up or clipping", path.display()),
                None => "try a lower rate, a longer warm-up or clipping".into(),
            }),
            Self::Write { source, .. } if source.kind() == io::ErrorKind::StorageFull => {
                Some("free some space, then continue with --resume: earlier checkpoints are intact".into())
            }
            _ => None,
        }
    }

    pub(crate) fn read(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Read { path, source }
    }

    pub(crate) fn write(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Write { path, source }
    }

    pub(crate) fn value(key: &'static str, want: impl Into<String>, got: impl ToString) -> Self {
        Self::Value { key, want: want.into(), got: got.to_string() }
    }

    pub(crate) fn data(path: &Path, message: impl Into<String>) -> Self {
        Self::Data { path: path.into(), message: message.into() }
    }

    pub(crate) fn checkpoint(path: &Path, message: impl Into<String>) -> Self {
        Self::Checkpoint { path: path.into(), message: message.into() }
    }
}

fn place(path: Option<&Path>, line: Option<usize>) -> String {
    match (path, line) {
        (Some(path), Some(line)) => format!("{}:{line}: ", path.display()),
        (Some(path), None) => format!("{}: ", path.display()),
        (None, Some(line)) => format!("line {line}: "),
        (None, None) => String::new(),
    }
}

fn list(paths: &[PathBuf]) -> String {
    paths.iter().map(|p| p.display().to_string()).collect::<Vec<_>>().join(", ")
}

/// The result of this crate's functions.
pub type Result<T, E = Error> = std::result::Result<T, E>;
