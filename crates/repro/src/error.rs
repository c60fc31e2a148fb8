use std::{io, path::PathBuf};

use crate::compare::Size;

/// What an experiment can run into.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Data, configuration or a run.
    #[error(transparent)]
    Train(#[from] regard_train::Error),
    /// A mechanism or model rejects its configuration.
    #[error(transparent)]
    Model(#[from] regard::Error),
    /// A value of the configuration breaks a rule.
    #[error("`{key}` must be {want}, got {got}")]
    Value {
        /// The key.
        key: &'static str,
        /// The rule, as in "must be …".
        want: String,
        /// The value given.
        got: String,
    },
    /// A mechanism that does not exist.
    #[error("there is no mixer `{name}`")]
    UnknownMixer {
        /// The name given.
        name: String,
        /// The name that it resembles.
        suggestion: Option<&'static str>,
    },
    /// A candidate cannot be built in the size that all candidates get.
    #[error("the size {size} does not fit the mixer `{candidate}`: {rule}")]
    Size {
        /// The size.
        size: Size,
        /// The candidate.
        candidate: String,
        /// What its mixer asks for.
        rule: String,
    },
    /// No inner width gives a candidate the common number of weights.
    #[error("`{candidate}` cannot have {target} weights: without its channel mixers it has {fixed}")]
    Unmatched {
        /// The candidate.
        candidate: String,
        /// The number of weights that all candidates get.
        target: usize,
        /// Its weights outside the channel mixers.
        fixed: usize,
    },
    /// The folder of a new experiment already holds one.
    #[error("{} already holds a comparison", path.display())]
    Exists {
        /// The folder.
        path: PathBuf,
    },
    /// A folder holds no experiment.
    #[error("{} is not the folder of a comparison: it has no compare.toml", path.display())]
    NotAComparison {
        /// The folder.
        path: PathBuf,
    },
    /// A file cannot be read or written.
    #[error("{}: {source}", path.display())]
    File {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file of the experiment is damaged.
    #[error("{}: {message}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        message: String,
    },
    /// The caller asked to stop. What was finished is kept.
    #[error("stopped; what was finished is in {}", path.display())]
    Interrupted {
        /// The folder.
        path: PathBuf,
    },
    /// The caller asked experiments to stop. Those that were finished are kept, and trainings go on where they stopped.
    #[error("stopped; what was finished is in {}", path.display())]
    Stopped {
        /// The folder.
        path: PathBuf,
    },
}

impl Error {
    /// What to do about it, where that can be said.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Train(error) => error.hint(),
            Self::UnknownMixer { suggestion: Some(name), .. } => Some(format!("did you mean `{name}`?")),
            Self::UnknownMixer { suggestion: None, .. } => {
                let [sequences, images] = [regard::MixerConfig::KINDS, regard::ImageMixerConfig::KINDS].map(|kinds| kinds.join(", "));
                Some(format!("choose from {sequences}, for images also {images}, or join them as in `3*kimi_delta+softmax`"))
            }
            Self::Size { rule, .. } if !rule.starts_with("`heads`") => {
                Some("choose another size (--size, for images the patch), or give the mixer other options in a file (--config)".into())
            }
            Self::Size { .. } => Some("H must divide D, for rotary positions into even parts: as in `--size D=96,L=2,H=3`".into()),
            Self::Unmatched { .. } => Some("make the model larger (--size), or leave this candidate out".into()),
            Self::Exists { .. } => Some("continue it with --resume, or choose another folder with --out".into()),
            Self::Stopped { .. } => Some("the same command goes on from here".into()),
            Self::Interrupted { path } => Some(format!("continue with `regard compare --resume --out {}`", path.display())),
            _ => None,
        }
    }

    pub(crate) fn value(key: &'static str, want: impl Into<String>, got: impl ToString) -> Self {
        Self::Value { key, want: want.into(), got: got.to_string() }
    }

    pub(crate) fn file(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { path, source }
    }
}

/// The result of this crate's functions.
pub type Result<T, E = Error> = std::result::Result<T, E>;
