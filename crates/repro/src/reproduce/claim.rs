use std::fmt;

use regard_train::report::{Axis, Plot, Quantity, Series};
use serde::{Deserialize, Serialize};

use super::Lab;
use crate::{Result, Table, machine::Machine};

/// A claim of a paper, and the experiment that tests it.
#[derive(Clone, Copy)]
pub struct Claim {
    /// The system, named as its golden files.
    pub system: &'static str,
    /// Its number there, from 1.
    pub number: usize,
    /// What is claimed.
    pub title: &'static str,
    /// What the paper reports.
    pub published: &'static str,
    /// When it counts as reproduced.
    pub rule: &'static str,
    /// The experiment.
    pub test: Test,
}

/// How a claim is tested.
#[derive(Clone, Copy)]
pub enum Test {
    /// By running this.
    Experiment(fn(&mut Lab<'_, '_>) -> Result<Finding>),
    /// It cannot be tested on a machine like the one that the experiments are made for, for this reason.
    None(&'static str),
    /// It could be, but something is still missing in this program: this.
    Missing(&'static str),
}

impl fmt::Debug for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.system, self.number)
    }
}

/// How much an experiment takes on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scale {
    /// About two minutes a claim on two cores: smaller sizes and shorter runs than the claim's own setting.
    Quick,
    /// The claim's own setting.
    #[default]
    Standard,
    /// The claim's own setting with what takes a night.
    Full,
}

impl fmt::Display for Scale {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Quick => "quick",
            Self::Standard => "standard",
            Self::Full => "full",
        })
    }
}

/// What an experiment decides. It follows from the measured numbers by the claim's rule, and from nothing else.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "verdict", content = "why", rename_all = "snake_case")]
pub enum Verdict {
    /// The rule holds.
    Reproduced,
    /// It does not.
    NotReproduced,
    /// The rule cannot be applied here, for this reason.
    NotTestable(String),
    /// There is no experiment yet, for lack of this.
    NotTested(String),
}

impl Verdict {
    /// Whether an experiment has decided.
    pub fn is_decided(&self) -> bool {
        matches!(self, Self::Reproduced | Self::NotReproduced)
    }

    /// Whether the rule holds.
    pub fn of(holds: bool) -> Self {
        if holds { Self::Reproduced } else { Self::NotReproduced }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Reproduced => f.write_str("reproduced"),
            Self::NotReproduced => f.write_str("not reproduced"),
            Self::NotTestable(why) => write!(f, "not testable here ({why})"),
            Self::NotTested(what) => write!(f, "not tested yet ({what})"),
        }
    }
}

/// What an experiment found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Finding {
    /// The decision.
    #[serde(flatten)]
    pub verdict: Verdict,
    /// The numbers that decide, in one sentence.
    pub measured: String,
    /// In which setting, and what else a reader has to know.
    pub notes: Vec<String>,
    /// All numbers.
    pub tables: Vec<NamedTable>,
    /// Plots of them.
    pub figures: Vec<Figure>,
}

impl Finding {
    /// What can be said without an experiment.
    pub(super) fn none(verdict: Verdict) -> Self {
        Self { verdict, ..Self::new(false, "–") }
    }

    /// A decision by a rule.
    pub(super) fn new(holds: bool, measured: impl Into<String>) -> Self {
        Self { verdict: Verdict::of(holds), measured: measured.into(), notes: Vec::new(), tables: Vec::new(), figures: Vec::new() }
    }

    #[must_use]
    pub(super) fn note(mut self, text: impl Into<String>) -> Self {
        self.notes.push(text.into());
        self
    }

    #[must_use]
    pub(super) fn table(mut self, name: &str, columns: &[&str], rows: Vec<Vec<String>>) -> Self {
        let columns = columns.iter().map(|c| (*c).to_owned()).collect();
        self.tables.push(NamedTable { name: name.into(), table: Table { columns, rows } });
        self
    }

    #[must_use]
    pub(super) fn figure(mut self, figure: Figure) -> Self {
        self.figures.push(figure);
        self
    }
}

/// A table with its title.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamedTable {
    /// The title.
    pub name: String,
    /// The table.
    #[serde(flatten)]
    pub table: Table,
}

/// A plot as numbers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Figure {
    /// The title.
    pub title: String,
    /// What the axes show.
    pub kind: FigureKind,
    /// The lines.
    pub lines: Vec<Line>,
}

/// The axes of a [`Figure`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FigureKind {
    /// Seconds against tokens of a sequence.
    Time,
    /// Bytes against tokens of a sequence.
    Memory,
    /// Tokens per second against tokens of a sequence.
    Speed,
    /// Validation loss against training tokens.
    Loss,
    /// Relative error against the number of random features.
    FeatureError,
    /// Norm of the gradient against training steps.
    GradientNorm,
    /// Accuracy in % against training steps.
    Accuracy,
}

/// A line of a [`Figure`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Line {
    /// Its name.
    pub name: String,
    /// Its points.
    pub points: Vec<(f64, f64)>,
}

impl Figure {
    pub(super) fn new(title: &str, kind: FigureKind, lines: impl IntoIterator<Item = (String, Vec<(f64, f64)>)>) -> Self {
        let lines = lines.into_iter().map(|(name, points)| Line { name, points }).collect();
        Self { title: title.into(), kind, lines }
    }

    pub(super) fn plot(&self) -> Plot {
        let length = || Axis::log2("sequence length (tokens)", Quantity::Length);
        let (x, y) = match self.kind {
            FigureKind::Time => (length(), Axis::log("time", Quantity::Seconds)),
            FigureKind::Memory => (length(), Axis::log2("memory", Quantity::Bytes)),
            FigureKind::Speed => (length(), Axis::log("tokens per second", Quantity::Count)),
            FigureKind::Loss => {
                (Axis::linear("training tokens", Quantity::Count).zero(), Axis::linear("validation loss (nats per token)", Quantity::Plain))
            }
            FigureKind::FeatureError => (Axis::log2("random features M", Quantity::Count), Axis::log("relative error", Quantity::Plain)),
            FigureKind::GradientNorm => {
                (Axis::linear("training steps", Quantity::Count).zero(), Axis::log("norm of the gradient", Quantity::Plain))
            }
            FigureKind::Accuracy => {
                (Axis::linear("training steps", Quantity::Count).zero(), Axis::linear("accuracy (%)", Quantity::Plain).zero())
            }
        };
        let mut plot = Plot::new(self.title.clone(), x, y);
        let series =
            |(style, line): (usize, &Line)| Series { name: line.name.clone(), style, points: line.points.clone(), ..Series::default() };
        plot.series = self.lines.iter().enumerate().map(series).collect();
        plot
    }
}

/// A claim that was tested.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClaimResult {
    /// The system.
    pub system: String,
    /// The number of the claim.
    pub claim: usize,
    /// What is claimed.
    pub title: String,
    /// What the paper reports.
    pub published: String,
    /// When it counts as reproduced.
    pub rule: String,
    /// How much the experiment took on.
    pub scale: Scale,
    /// Number of seeds that were asked for; nothing = the experiment's own number.
    pub seeds: Option<usize>,
    /// What it found.
    #[serde(flatten)]
    pub finding: Finding,
    /// Seconds that it took, those before an interruption not included.
    pub seconds: f64,
    /// When it ended, in UTC.
    pub date: String,
    /// The command, if known.
    pub command: Option<String>,
    /// Where.
    pub machine: Machine,
}
