use std::io;

use clap::error::{ContextKind, ContextValue};

use crate::interrupt::INTERRUPTED;

/// Why a command ends without success: what the user reads, and the exit code.
#[derive(Debug)]
pub(crate) struct Failure {
    /// One sentence that names what was wrong and its value, after `error: `.
    pub(crate) message: String,
    /// What to do about it, after `hint: `.
    pub(crate) hint: Option<String>,
    /// The exit code: 1, or 2 for a command line that does not parse, or 130 after an interrupt.
    pub(crate) code: u8,
}

impl Failure {
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), hint: None, code: 1 }
    }

    #[must_use]
    pub(crate) fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The end of work that a signal stopped and that can be continued as `how` says.
    pub(crate) fn interrupted(message: impl Into<String>, how: impl Into<String>) -> Self {
        Self { message: message.into(), hint: Some(how.into()), code: INTERRUPTED }
    }

    /// What clap found wrong with the command line, in the form of all other errors.
    pub(crate) fn usage(error: &clap::Error) -> Self {
        let rendered = error.render().to_string();
        let message = rendered.strip_prefix("error: ").unwrap_or(&rendered);
        // The first paragraph says what is wrong, its indented lines with which arguments; tips, usage and a pointer to --help follow.
        let lines = message.lines().take_while(|line| !line.is_empty()).map(str::trim).filter(|line| !line.starts_with('['));
        let message = lines.collect::<Vec<_>>().join(" ");
        let suggestion = [ContextKind::SuggestedSubcommand, ContextKind::SuggestedArg, ContextKind::SuggestedValue]
            .into_iter()
            .find_map(|kind| error.get(kind))
            .and_then(|names| Some(format!("did you mean {}?", quoted(names, " or ")?)));
        let values = error.get(ContextKind::ValidValue).and_then(|names| Some(format!("possible values: {}", quoted(names, ", ")?)));
        let usage = match error.get(ContextKind::Usage) {
            Some(ContextValue::StyledStr(usage)) => Some(usage.to_string().trim().replacen("Usage:", "usage:", 1)),
            _ => None,
        };
        let mut hint = [suggestion, values, usage].into_iter().flatten().collect::<Vec<_>>().join(" ");
        if hint.is_empty() {
            "`--help` explains every argument".clone_into(&mut hint);
        }
        Self { message, hint: Some(hint), code: 2 }
    }
}

fn quoted(names: &ContextValue, separator: &str) -> Option<String> {
    let names = match names {
        ContextValue::String(name) => std::slice::from_ref(name),
        ContextValue::Strings(names) => names,
        _ => return None,
    };
    let names = names.iter().map(|n| format!("`{n}`")).collect::<Vec<_>>();
    (!names.is_empty()).then(|| names.join(separator))
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::new(format!("standard output: {error}"))
    }
}

impl From<regard_train::Error> for Failure {
    fn from(error: regard_train::Error) -> Self {
        Self { message: error.to_string(), hint: error.hint(), code: 1 }
    }
}

impl From<regard_repro::Error> for Failure {
    fn from(error: regard_repro::Error) -> Self {
        let code =
            if matches!(error, regard_repro::Error::Interrupted { .. } | regard_repro::Error::Stopped { .. }) { INTERRUPTED } else { 1 };
        Self { message: error.to_string(), hint: error.hint(), code }
    }
}
