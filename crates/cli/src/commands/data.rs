use std::{
    io::{self, IsTerminal, Write},
    path::PathBuf,
    sync::atomic::Ordering,
    time::Instant,
};

use clap::{Subcommand, builder::PossibleValuesParser};
use regard_train::{
    data::{self, DATA_SETS, DataSet},
    report::Quantity,
};
use serde_json::json;

use crate::{
    failure::Failure,
    interrupt,
    output::{Output, render, table},
    progress::EVERY,
};

/// List the data sets that are known by name, or fetch one
#[derive(clap::Args)]
#[command(after_help = "Examples:
  regard data list
  regard data get tinyshakespeare
  regard compare --data tinyshakespeare --budget 10m")]
pub(crate) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// List the data sets: what they are, and where on this machine
    List {
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Fetch a data set, check it, and print where it is
    ///
    /// An interrupted transfer is continued by the same command. The folder appears when all of it is there.
    Get {
        /// Which one
        #[arg(value_parser = fetched())]
        name: String,
        /// Put the folder NAME into this one, instead of the user's cache
        #[arg(long, value_name = "DIR")]
        to: Option<PathBuf>,
    },
}

fn fetched() -> PossibleValuesParser {
    PossibleValuesParser::new(DATA_SETS.iter().filter(|set| !set.files.is_empty()).map(|set| set.name))
}

pub(crate) fn run(args: &Args, output: &Output) -> Result<(), Failure> {
    match &args.action {
        Action::List { json: true } => output.json(&json!({ "data": DATA_SETS.iter().map(describe).collect::<Vec<_>>() })),
        Action::List { json: false } => list(output),
        Action::Get { name, to } => get(name, to.clone(), output),
    }
}

fn list(output: &Output) -> Result<(), Failure> {
    let mut table = table(["NAME", "WHAT", "LICENCE", "SIZE", "WHERE"]);
    for set in DATA_SETS {
        let place = match data::locate(set.name) {
            Some(path) => path.display().to_string(),
            None if set.name == "embedded" || data::Scene::named(set.name).is_some() => "in the program".into(),
            None if set.files.is_empty() => format!("bring it: $REGARD_DATA/{}", set.name),
            None => format!("`regard data get {}`", set.name),
        };
        let size = if set.files.is_empty() { "-".into() } else { Quantity::Bytes.text(set.bytes() as f64, 3) };
        table.add_row([set.name, set.about, set.licence, &size, &place]);
    }
    output.data(&render(table))
}

fn describe(set: &DataSet) -> serde_json::Value {
    let files = set.files.iter().map(|f| json!({ "name": f.name, "url": f.url, "bytes": f.bytes, "sha256": f.sha256 }));
    json!({
        "name": set.name,
        "about": set.about,
        "licence": set.licence,
        "path": data::locate(set.name),
        "files": files.collect::<Vec<_>>(),
    })
}

fn get(name: &str, to: Option<PathBuf>, output: &Output) -> Result<(), Failure> {
    let Some(set) = DataSet::named(name) else { return Err(Failure::new(format!("there is no data set `{name}`"))) };
    let place = to.or_else(data::cache).ok_or_else(|| Failure::new("this system has no cache folder").with_hint("choose one with --to"))?;
    let stop = interrupt::catch()?;
    let mut progress = Progress { of: set.bytes(), told: Instant::now(), terminal: io::stderr().is_terminal(), quiet: output.is_quiet() };
    let result = data::download(set, &place, &stop, &mut |bytes| progress.show(bytes));
    progress.end();
    match result {
        Ok(folder) => output.data(&folder.display().to_string()),
        Err(_) if stop.load(Ordering::Relaxed) => {
            Err(Failure::interrupted("stopped; what was fetched is kept", format!("continue with `regard data get {name}`")))
        }
        Err(error) => Err(error.into()),
    }
}

/// One line that changes on a terminal, a line every few seconds elsewhere.
struct Progress {
    of: u64,
    told: Instant,
    terminal: bool,
    quiet: bool,
}

impl Progress {
    fn show(&mut self, bytes: u64) {
        if self.quiet || (!self.terminal && self.told.elapsed() < EVERY) {
            return;
        }
        let [bytes, of] = [bytes, self.of].map(|b| Quantity::Bytes.text(b as f64, 3));
        let (begin, end) = if self.terminal { ("\r\x1b[K", "") } else { ("", "\n") };
        let _ = write!(io::stderr(), "{begin}{bytes} of {of}{end}");
        self.told = Instant::now();
    }

    fn end(&self) {
        if self.terminal && !self.quiet {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }
}
