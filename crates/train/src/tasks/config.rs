use regard::by_kind;
use serde::{Deserialize, Deserializer, Serialize};

use super::{
    classify::ClassifyConfig, control::ControlConfig, copy::CopyConfig, forecast::ForecastConfig, listops::ListOpsConfig,
    recall::RecallConfig, series::SeriesConfig,
};

/// Which task, and how.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum TaskConfig {
    /// Predict the next token of a text.
    Lm(LmConfig),
    /// Recall values by their keys.
    Recall(RecallConfig),
    /// Copy the token a number of places back.
    Copy(CopyConfig),
    /// Evaluate nested lists.
    #[serde(rename = "listops")]
    ListOps(ListOpsConfig),
    /// Tell images apart.
    Classify(ClassifyConfig),
    /// Tell generated series apart.
    Series(SeriesConfig),
    /// Forecast a series.
    Forecast(ForecastConfig),
    /// Act as in recorded episodes.
    Control(ControlConfig),
}

impl<'de> Deserialize<'de> for TaskConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        by_kind(deserializer, &Self::KINDS, None, |kind, fields| match kind {
            "lm" => Some(fields.read().map(Self::Lm)),
            "recall" => Some(fields.read().map(Self::Recall)),
            "copy" => Some(fields.read().map(Self::Copy)),
            "listops" => Some(fields.read().map(Self::ListOps)),
            "classify" => Some(fields.read().map(Self::Classify)),
            "series" => Some(fields.read().map(Self::Series)),
            "forecast" => Some(fields.read().map(Self::Forecast)),
            "control" => Some(fields.read().map(Self::Control)),
            _ => None,
        })
    }
}

impl TaskConfig {
    /// The names of all kinds.
    pub const KINDS: [&str; 8] = ["lm", "recall", "copy", "listops", "classify", "series", "forecast", "control"];

    /// Its name in a file and on the command line.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Lm(_) => "lm",
            Self::Recall(_) => "recall",
            Self::Copy(_) => "copy",
            Self::ListOps(_) => "listops",
            Self::Classify(_) => "classify",
            Self::Series(_) => "series",
            Self::Forecast(_) => "forecast",
            Self::Control(_) => "control",
        }
    }

    /// What it is, in a few words.
    pub fn title(&self) -> &'static str {
        match self {
            Self::Lm(_) => "language modelling",
            Self::Recall(_) => "associative recall",
            Self::Copy(_) => "copying by position",
            Self::ListOps(_) => "nested lists",
            Self::Classify(_) => "images",
            Self::Series(_) => "generated series",
            Self::Forecast(_) => "forecasting",
            Self::Control(_) => "a point mass",
        }
    }

    /// One of each kind with its default options, in the order of [`KINDS`](Self::KINDS).
    pub fn defaults() -> [Self; 8] {
        [
            Self::Lm(LmConfig::default()),
            Self::Recall(RecallConfig::default()),
            Self::Copy(CopyConfig::default()),
            Self::ListOps(ListOpsConfig::default()),
            Self::Classify(ClassifyConfig::default()),
            Self::Series(SeriesConfig::default()),
            Self::Forecast(ForecastConfig::default()),
            Self::Control(ControlConfig::default()),
        ]
    }

    /// What is to be learned, in a sentence.
    pub fn about(&self) -> &'static str {
        match self {
            Self::Lm(_) => "Predict the next token of a text",
            Self::Recall(_) => "Recall values by their keys (multi-query associative recall)",
            Self::Copy(_) => "Copy the token a number of places back",
            Self::ListOps(_) => "Evaluate nested lists (ListOps of the Long Range Arena)",
            Self::Classify(_) => "Tell images apart, as sequences of gray pixels or as images",
            Self::Series(_) => "Tell series apart by their frequencies",
            Self::Forecast(_) => "Forecast the next steps of a series of numbers",
            Self::Control(_) => "Act as in recorded episodes of a point mass",
        }
    }

    /// The data that it reads, with those it is known for; `None` if it makes its own.
    pub fn usual_data(&self) -> Option<(&'static str, &'static str)> {
        match self {
            Self::Lm(_) => Some(("text", "embedded")),
            Self::Classify(_) => Some(("images", "mnist")),
            Self::Forecast(_) => Some(("a series", "etth1")),
            Self::Recall(_) | Self::Copy(_) | Self::ListOps(_) | Self::Series(_) | Self::Control(_) => None,
        }
    }

    /// Its options besides the kind, as a file has them.
    pub fn options(&self) -> toml::Table {
        let mut options = toml::Table::try_from(self).unwrap_or_default();
        options.remove("kind");
        options
    }

    /// Whether a token is predicted at each place of a sequence, by a language model; others have a form.
    pub fn predicts_tokens(&self) -> bool {
        matches!(self, Self::Lm(_) | Self::Recall(_) | Self::Copy(_))
    }

    /// Whether it reads data: the section `data`.
    pub fn reads_data(&self) -> bool {
        self.usual_data().is_some()
    }
}

/// Language modelling. Its text is the section `data`, its length of sequences the model's `context`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LmConfig {}
