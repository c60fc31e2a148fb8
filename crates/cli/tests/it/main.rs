//! The command as a user meets it: what goes to stdout and stderr, exit codes, and folders left behind.

#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "tests")]

mod bad_input;
mod compare;
mod frame;
mod runs;
mod tasks;

use std::{
    path::{Path, PathBuf},
    process::Output,
};

use assert_cmd::Command;
use tempfile::TempDir;

/// A folder of its own in which `regard` runs.
struct Place(TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        std::fs::write(self.path(name), content).unwrap();
    }

    fn read(&self, name: impl AsRef<Path>) -> String {
        std::fs::read_to_string(self.path(name)).unwrap()
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(assert_cmd::cargo::cargo_bin!("regard"));
        command.current_dir(self.0.path()).args(args).env_remove("REGARD_DATA").env_remove("RUST_LOG").env("XDG_CACHE_HOME", self.0.path());
        command
    }

    fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    /// What a command that succeeds prints to stdout.
    fn stdout(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert!(output.status.success(), "regard {args:?}: {}", text(&output.stderr));
        text(&output.stdout)
    }

    /// The JSON object that a command prints, and nothing else.
    fn json(&self, args: &[&str]) -> serde_json::Value {
        serde_json::from_str(&self.stdout(args)).unwrap()
    }

    /// The error of a command that fails as it should: nothing on stdout, `error: …` and `hint: …` on stderr, no backtrace.
    fn failure(&self, args: &[&str]) -> Failure {
        Failure::of(&self.run(args))
    }

    /// A text of `bytes` bytes that can be learned, and the configuration of a tiny model that reads it.
    fn with_text(bytes: usize) -> Self {
        let place = Self::new();
        let text: String = "the cat sat on the mat, and the dog on the log. ".chars().cycle().take(bytes).collect();
        place.write("text.txt", text);
        place.write("tiny.toml", TINY);
        place
    }
}

const TINY: &str = r#"
seed = 7

[task]
kind = "lm"

[data]
source = "text.txt"
tokenizer = "byte"

[model]
d_model = 16
layers = 1
mixers = [{ kind = "softmax", heads = 2 }]
d_ff = 32
context = 16

[train]
batch = 2
steps = 12
log_every = 1

[optimizer]
warmup = 2

[eval]
every = 4
tokens = 200
"#;

#[derive(Debug)]
struct Failure {
    code: i32,
    error: String,
    hint: String,
    stderr: String,
}

impl Failure {
    fn of(output: &Output) -> Self {
        let stderr = text(&output.stderr);
        assert!(!output.status.success(), "it succeeded: {}", text(&output.stdout));
        assert_eq!(text(&output.stdout), "", "{stderr}");
        assert!(!stderr.contains("panicked"), "{stderr}");
        let line = |label: &str| {
            let lines: Vec<_> = stderr.lines().filter_map(|l| l.strip_prefix(label)).collect();
            assert!(lines.len() <= 1, "{stderr}");
            lines.first().map(|l| (*l).to_owned())
        };
        let error = line("error: ").unwrap_or_else(|| panic!("no error line: {stderr}"));
        let code = output.status.code().expect("it exits by itself");
        Self { code, error, hint: line("hint: ").unwrap_or_default(), stderr }
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}
