use std::{
    fs,
    path::{Path, PathBuf},
};

use clap::builder::{NonEmptyStringValueParser, PossibleValue, PossibleValuesParser};
use regard_repro::compare::{Budget, CompareConfig, Comparison, Context, Size, compare, resume};
use regard_train::{ClassifyConfig, TaskConfig, data::DataConfig, tasks::View};

use crate::{
    cli::command_line,
    device::DeviceArg,
    failure::Failure,
    interrupt,
    output::{Output, results},
    progress,
};

/// Compare mechanisms on one task, with equal weights, data, order, schedule and budget
///
/// Every candidate is a small network that differs in its attention alone: the width of its MLP is solved so that all have the same
/// number of weights within 2 %. The table shows quality, time and memory, best first; report.html in the folder adds the curves, how
/// cost grows with length or the size of images, and a text from each language model. Without arguments the usual mechanisms read an
/// embedded text for about two minutes.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// What is learned
    #[arg(long, value_name = "TASK", value_parser = tasks())]
    task: Option<String>,
    /// What to learn from: a path or a data set of `regard data list`. lm: UTF-8 text; classify: a folder of images; forecast: a CSV file
    #[arg(long, value_name = "PATH|NAME")]
    data: Option<String>,
    /// How text becomes tokens: byte, char, word, or a Hugging Face tokenizer.json [default: usual for the data]
    #[arg(long, value_name = "NAME|FILE")]
    tokenizer: Option<String>,
    /// Candidates: ids of `regard list`, or layers of several, as in 3*kimi_delta+softmax; for images also vit, resnet and layers over maps
    /// [default: softmax,lightning,kimi_delta,flow; of images vit,resnet,neighborhood,window,channel]
    #[arg(long, value_name = "A,B,…", value_delimiter = ',', value_parser = NonEmptyStringValueParser::new())]
    mixers: Vec<String>,
    /// A time for all of it (90s, 2m, 1h30m), or steps=N or tokens=N (k, M) for each run [default: 2m]
    #[arg(long)]
    budget: Option<Budget>,
    /// Runs per candidate, each from other random weights and another order of the data [default: 1]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1000))]
    seeds: Option<u64>,
    /// Model: tiny (D=64,L=2), small (D=128,L=4), or width and layers, and heads if wanted: D=256,L=6,H=8 [default: tiny]
    #[arg(long)]
    size: Option<Size>,
    /// classify: images as such, for any mixer, or as sequences of gray pixels [default: image]
    #[arg(long, value_name = "image|pixels", value_parser = PossibleValuesParser::new(["image", "pixels"]))]
    view: Option<String>,
    /// Tokens per training sequence [default: 128]
    #[arg(long, value_name = "T")]
    context: Option<usize>,
    /// Begin with the settings of this file, a compare.toml, instead of the defaults
    #[arg(long, value_name = "FILE", conflicts_with = "resume")]
    config: Option<PathBuf>,
    #[command(flatten)]
    device: DeviceArg,
    /// Folder of the comparison [default: runs/compare-1, or the next number that is free]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Go on with the comparison in --out, or with the latest, without redoing finished runs
    #[arg(long)]
    resume: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

const EXAMPLES: &str = "\
Examples:
  regard compare
  regard compare --data book.txt --budget 10m --seeds 3 --out runs/book
  regard compare --mixers softmax,kimi_delta,3*kimi_delta+softmax --size small --budget steps=1000
  regard compare --task recall --budget 5m --json
  regard compare --task listops --mixers softmax,flow,nprf
  regard compare --task forecast --data etth1
  regard compare --task classify --data fashion-mnist --mixers vit,resnet,neighborhood,halo,flow
  regard compare --resume --out runs/book";

/// The names of the tasks, each with what it is.
fn tasks() -> PossibleValuesParser {
    let value = |task: TaskConfig| {
        let data = task.usual_data().map_or_else(|| ", generated".to_owned(), |(_, source)| format!(" [data: {source}]"));
        PossibleValue::new(task.kind()).help(format!("{}{data}", task.about()))
    };
    PossibleValuesParser::new(TaskConfig::defaults().map(value))
}

fn task(name: &str) -> Option<TaskConfig> {
    TaskConfig::defaults().into_iter().find(|task| task.kind() == name)
}

pub(crate) fn run(args: &Args, output: &Output) -> Result<(), Failure> {
    let config = args.config()?;
    let device = args.device.device.open()?;
    let stop = interrupt::catch()?;
    let mut observer = progress::of_comparison(output);
    let context = Context {
        memory: args.device.device.memory(),
        stop: Some(&stop),
        observer: observer.as_deref_mut().map(|o| o as _),
        command: (!args.resume).then(command_line),
        ..Context::new(device)
    };
    let out = args.folder()?;
    let comparison = if args.resume {
        if args.has_settings() {
            output.note(&format!("resuming as {} says; other settings are left aside", out.join("compare.toml").display()));
        }
        resume(&out, context)?
    } else {
        output.note(&format!("comparing in {}", out.display()));
        compare(&config, &out, context)?
    };
    drop(observer); // gives the terminal back
    report(args, &comparison, &out, output)
}

fn report(args: &Args, comparison: &Comparison, out: &Path, output: &Output) -> Result<(), Failure> {
    if args.json {
        output.json(comparison)?;
    } else {
        output.data(&results(&comparison.table()))?;
    }
    output.note(&format!("report: {}", out.join("report.html").display()));
    let failed: Vec<_> = comparison.candidates.iter().filter_map(|c| Some(format!("{}: {}", c.mixer, c.failed.as_ref()?))).collect();
    if failed.is_empty() { Ok(()) } else { Err(Failure::new(format!("no result from {}", failed.join("; ")))) }
}

impl Args {
    /// The settings: those of the file or the defaults of the task, and what flags say.
    fn config(&self) -> Result<CompareConfig, Failure> {
        let mut config = match (&self.config, self.task.as_deref().and_then(task)) {
            (Some(path), _) => CompareConfig::load(path)?,
            (None, Some(task)) => CompareConfig::new(task),
            (None, None) => CompareConfig::lm(),
        };
        if let Some(view) = &self.view {
            let TaskConfig::Classify(classify) = config.task else {
                return Err(Failure::new(format!("the task `{}` has no images: it takes no --view", config.task.kind())));
            };
            let view = if view == "pixels" { View::Pixels } else { View::Image };
            let task = TaskConfig::Classify(ClassifyConfig { view, ..classify });
            config = match self.config {
                Some(_) => CompareConfig { task, ..config },
                None => CompareConfig::seeing(task),
            };
        }
        if self.config.is_some() && self.task.is_some() {
            return Err(Failure::new("--task and --config cannot be used together: the file names the task"));
        }
        if config.data.is_none() && (self.data.is_some() || self.tokenizer.is_some()) {
            return Err(Failure::new("this task generates its data: it takes no --data and no --tokenizer"));
        }
        if let Some(source) = &self.data {
            config.data = Some(DataConfig::new(source));
        }
        if self.tokenizer.is_some() && !matches!(config.task, TaskConfig::Lm(_)) {
            return Err(Failure::new(format!("the task `{}` has no text: it takes no --tokenizer", config.task.kind())));
        }
        if let (Some(data), Some(tokenizer)) = (&mut config.data, &self.tokenizer) {
            data.tokenizer = Some(tokenizer.clone());
        }
        if let Some(budget) = self.budget {
            (config.budget, config.steps) = (budget, None);
        }
        if let Some(seeds) = self.seeds {
            config.seeds = (1..=seeds).collect();
        }
        if let Some(context) = self.context {
            if !config.task.predicts_tokens() {
                let message = format!("the task `{}` has sequences of a length of their own: it takes no --context", config.task.kind());
                return Err(Failure::new(message));
            }
            config.context = context;
        }
        if let Some(size) = self.size {
            config.size = size;
        }
        if !self.mixers.is_empty() {
            config.candidates = self.mixers.iter().map(|name| config.candidate(name)).collect::<Result<_, _>>()?;
        } else if self.size.is_some() {
            let names = config.candidates.iter().map(|candidate| &candidate.name);
            config.candidates = names.map(|name| config.candidate(name)).collect::<Result<_, _>>()?;
        }
        Ok(config)
    }

    /// Whether a flag sets something that a comparison already has.
    fn has_settings(&self) -> bool {
        let texts = [&self.data, &self.tokenizer].into_iter().any(Option::is_some);
        texts
            || self.task.is_some()
            || !self.mixers.is_empty()
            || self.budget.is_some()
            || self.seeds.is_some()
            || self.size.is_some()
            || self.context.is_some()
            || self.view.is_some()
    }

    fn folder(&self) -> Result<PathBuf, Failure> {
        if let Some(out) = &self.out {
            return Ok(out.clone());
        }
        let runs = Path::new("runs");
        let last = last_number(runs);
        let number = match (self.resume, last) {
            (true, 0) => {
                return Err(Failure::new("there is no comparison to resume in runs").with_hint("name its folder with --out"));
            }
            (true, last) => last,
            (false, last) => last + 1,
        };
        Ok(runs.join(format!("compare-{number}")))
    }
}

/// The highest N of the folders `compare-N`; 0 if there is none.
fn last_number(folder: &Path) -> usize {
    let names = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.file_name());
    names.filter_map(|name| name.to_str()?.strip_prefix("compare-")?.parse().ok()).max().unwrap_or(0)
}
