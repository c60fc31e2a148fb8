use std::{
    fmt::Write as _,
    io::{self, IsTerminal, Write},
    process::ExitCode,
};

use comfy_table::{Cell, CellAlignment, ColumnConstraint, ContentArrangement, LineStyle, Table, TableStyle, Width};
use serde::Serialize;

use crate::{failure::Failure, interrupt::INTERRUPTED};

/// Where results and messages go: data to stdout, everything for people to stderr.
pub(crate) struct Output {
    quiet: bool,
}

#[allow(clippy::unused_self, reason = "who has an `Output` may write, whatever the stream")]
impl Output {
    pub(crate) fn new(quiet: bool) -> Self {
        Self { quiet }
    }

    /// Writes a result to stdout, with a line break at its end.
    ///
    /// A reader that has closed the pipe, as `head` does, ends the program silently.
    pub(crate) fn data(&self, text: &str) -> Result<(), Failure> {
        self.stream(text)?;
        if text.ends_with('\n') { Ok(()) } else { self.stream("\n") }
    }

    /// Writes a piece of a result that grows, and shows it at once.
    pub(crate) fn stream(&self, text: &str) -> Result<(), Failure> {
        let mut stdout = io::stdout().lock();
        match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => std::process::exit(0),
            result => Ok(result?),
        }
    }

    /// Writes one JSON object to stdout.
    pub(crate) fn json(&self, value: &impl Serialize) -> Result<(), Failure> {
        let text = serde_json::to_string_pretty(value).map_err(|e| Failure::new(format!("JSON: {e}")))?;
        self.data(&text)
    }

    /// Tells a person something on stderr, unless they asked for quiet.
    pub(crate) fn note(&self, text: &str) {
        if !self.quiet {
            let _ = writeln!(io::stderr().lock(), "{text}");
        }
    }

    /// Whether progress is welcome.
    pub(crate) fn is_quiet(&self) -> bool {
        self.quiet
    }

    /// Prints a failure to stderr and gives its exit code.
    pub(crate) fn fail(&self, failure: &Failure) -> ExitCode {
        let mut stderr = io::stderr().lock();
        let paint = |label: &str, color: u8| {
            if colored() { format!("\x1b[1;{color}m{label}\x1b[0m") } else { label.to_owned() }
        };
        // To be interrupted is no error.
        let label = if failure.code == INTERRUPTED { String::new() } else { paint("error:", 31) + " " };
        let _ = writeln!(stderr, "{label}{}", failure.message);
        if let Some(hint) = &failure.hint {
            let _ = writeln!(stderr, "{} {hint}", paint("hint:", 36));
        }
        ExitCode::from(failure.code)
    }
}

/// Whether stderr is a terminal that wants colours.
fn colored() -> bool {
    let set = |name: &str, to: fn(&str) -> bool| std::env::var(name).is_ok_and(|value| to(&value));
    io::stderr().is_terminal() && !set("NO_COLOR", |value| !value.is_empty()) && !set("TERM", |value| value == "dumb")
}

/// Spaces between two columns.
const GAP: u16 = 2;

/// A table with a line under its header, fitted to the terminal if there is one.
pub(crate) fn table<'a>(header: impl IntoIterator<Item = &'a str>) -> Table {
    let mut table = Table::new();
    let line = if io::stdout().is_terminal() { '─' } else { '-' };
    table
        .load_style(TableStyle::new().header_separator(LineStyle::none().fill(line).junction(line)))
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_header(header.into_iter().collect::<Vec<_>>());
    for column in table.column_iter_mut() {
        column.set_padding((0, GAP));
    }
    table
}

/// A table of results, its numbers to the right.
pub(crate) fn results(results: &regard_repro::Table) -> String {
    let mut table = table(results.columns.iter().map(String::as_str));
    table.add_rows(&results.rows);
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    render(table)
}

/// The text of a table. Cells wrap between words, never within one, even if lines get longer than the terminal is wide.
pub(crate) fn render(mut table: Table) -> String {
    for index in 0..table.column_count() {
        let cells = table.column_cells_with_header_iter(index).flatten().map(Cell::content);
        let longest = cells.flat_map(|text| text.split_whitespace().map(|word| word.chars().count()).collect::<Vec<_>>()).max();
        if let (Some(column), Some(longest)) = (table.column_mut(index), longest) {
            column.set_constraint(ColumnConstraint::LowerBoundary(Width::Fixed(longest as u16 + GAP)));
        }
    }
    table.trim_fmt()
}

/// Names and values, one pair a line, the values aligned.
pub(crate) fn facts(rows: &[(&str, String)]) -> String {
    let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    let mut text = String::new();
    for (name, value) in rows {
        let _ = writeln!(text, "{name:<width$}  {value}");
    }
    text
}
