use clap::{Parser, builder::Styles, builder::styling::AnsiColor};

use crate::commands::Command;

const STYLES: Styles = Styles::styled()
    .header(AnsiColor::Green.on_default().bold())
    .usage(AnsiColor::Green.on_default().bold())
    .literal(AnsiColor::Cyan.on_default().bold())
    .placeholder(AnsiColor::Cyan.on_default());

/// Attention mechanisms of the literature: compared, trained and measured on your data.
///
/// Start with `regard compare`: without arguments it trains every mechanism on an embedded text for about two minutes on the CPU and
/// says which learns best, which is fastest, and how their cost grows with the length of the text.
#[derive(Parser)]
#[command(name = "regard", version, styles = STYLES, max_term_width = 110, after_help = EXAMPLES)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
    /// Say nothing on stderr but errors
    #[arg(short, long, global = true, display_order = 100, conflicts_with = "verbose")]
    pub(crate) quiet: bool,
    /// Say more on stderr: -v for what is done, -vv for debugging
    #[arg(short, long, global = true, display_order = 101, action = clap::ArgAction::Count)]
    pub(crate) verbose: u8,
}

const EXAMPLES: &str = "\
Examples:
  regard list                                    the mechanisms, one line each
  regard compare                                 two minutes, all mechanisms, embedded text
  regard compare --data book.txt --budget 10m    your text, your budget
  regard train recipes/shakespeare-char.toml     one model from a file
  regard generate runs/shakespeare-char          text from a trained model

Results go to stdout (one JSON object with --json), messages and progress to stderr. Data sets are looked for at the path given, then under $REGARD_DATA, then in the user's cache.";

/// The command line as it can be typed again.
pub(crate) fn command_line() -> String {
    let args = std::env::args_os().skip(1).map(|arg| arg.to_string_lossy().into_owned());
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_=+./:,*".contains(c);
    let quoted = |arg: String| if !arg.is_empty() && arg.chars().all(plain) { arg } else { format!("'{}'", arg.replace('\'', r"'\''")) };
    std::iter::once("regard".to_owned()).chain(args.map(quoted)).collect::<Vec<_>>().join(" ")
}
