use std::sync::Arc;

use regard_models::{EncoderInput, Head};
use serde::{Deserialize, Serialize};

use super::examples::{Examples, Form, FormInput, Source};
use crate::{
    Error, Result, Split,
    data::{DataConfig, Series, load_series},
};

/// Forecasting a series of several channels from its last steps. The series is the section `data`; each channel is shifted and scaled to
/// mean 0 and variance 1 of its training part, and errors are those of the scaled numbers, as is customary for ETTh1.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ForecastConfig {
    /// Steps that a model sees.
    #[serde(default = "default_input")]
    pub input: usize,
    /// Steps to forecast: 96, 192, 336 and 720 are customary.
    #[serde(default = "default_input")]
    pub horizon: usize,
}

fn default_input() -> usize {
    96
}

impl Default for ForecastConfig {
    fn default() -> Self {
        Self { input: default_input(), horizon: default_input() }
    }
}

/// Windows of a series.
#[derive(Clone, Debug)]
pub struct Forecast {
    config: ForecastConfig,
    series: Arc<Series>,
}

impl Forecast {
    /// # Errors
    /// If the series cannot be read, a part is too short for one window, or a channel never changes in the training part.
    pub(super) fn new(config: &ForecastConfig, data: &DataConfig) -> Result<Self> {
        for (key, value) in [("task.input", config.input), ("task.horizon", config.horizon)] {
            if value == 0 {
                return Err(Error::value(key, "at least 1", 0));
            }
        }
        if data.tokenizer.is_some() {
            return Err(Error::value("data.tokenizer", "left out: numbers have none", "given"));
        }
        let mut series = load_series(&data.source)?;
        standardise(&mut series)?;
        let this = Self { config: config.clone(), series: Arc::new(series) };
        for (split, name) in [(Split::Train, "training"), (Split::Valid, "validation"), (Split::Test, "test")] {
            if this.windows(split) == 0 {
                let steps = this.targets(split).len();
                let want = format!("short enough for the {name} part of {steps} steps, with `task.input` = {}", config.input);
                return Err(Error::value("task.horizon", want, config.horizon));
            }
        }
        Ok(this)
    }

    /// The rows that are forecast in a split. What a model sees may reach back into the part before.
    fn targets(&self, split: Split) -> std::ops::Range<usize> {
        let [train, valid, test] = self.series.ends;
        match split {
            Split::Train => self.config.input.min(train)..train,
            Split::Valid => train.max(self.config.input).min(valid)..valid,
            Split::Test => valid.max(self.config.input).min(test)..test,
        }
    }

    fn windows(&self, split: Split) -> usize {
        (self.targets(split).len() + 1).saturating_sub(self.config.horizon)
    }
}

/// Gives every channel mean 0 and variance 1 over the training part.
fn standardise(series: &mut Series) -> Result<()> {
    let (width, rows) = (series.channels.len(), series.ends[0]);
    for channel in 0..width {
        let values = || series.values[..rows * width].iter().skip(channel).step_by(width).map(|v| f64::from(*v));
        let mean = values().sum::<f64>() / rows as f64;
        let deviation = (values().map(|v| (v - mean).powi(2)).sum::<f64>() / rows as f64).sqrt();
        if !(deviation > 0.0 && deviation.is_finite()) {
            return Err(Error::value(
                "data.source",
                "a series that changes in its training part",
                format!("a constant channel `{}`", series.channels[channel]),
            ));
        }
        for value in series.values.iter_mut().skip(channel).step_by(width) {
            *value = ((f64::from(*value) - mean) / deviation) as f32;
        }
    }
    Ok(())
}

impl Source for Forecast {
    fn form(&self) -> Form {
        let input = EncoderInput::Numbers { width: self.series.channels.len() };
        Form { input: FormInput::Steps { input, length: self.config.input }, head: Head::Forecast { horizon: self.config.horizon } }
    }

    fn count(&self, split: Split) -> Result<Option<usize>> {
        Ok(Some(self.windows(split)))
    }

    fn push(&self, split: Split, _: u64, number: u64, examples: &mut Examples) {
        let (width, &ForecastConfig { input, horizon }) = (self.series.channels.len(), &self.config);
        let at = self.targets(split).start + number as usize;
        let rows = |from: usize, to: usize| &self.series.values[from * width..to * width];
        examples.push_regression(rows(at - input, at), rows(at, at + horizon), &[]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tasks::examples::{Inputs, Targets};

    fn series(rows: usize) -> (tempfile::TempDir, DataConfig) {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("s.csv");
        let text: String = (0..rows).map(|n| format!("{n},{}\n", n % 7)).collect();
        std::fs::write(&path, format!("a,b\n{text}")).unwrap();
        let config = DataConfig::new(path.to_str().unwrap());
        (place, config)
    }

    #[test]
    fn windows_follow_one_another_and_no_target_of_a_split_is_one_of_another() {
        let (_place, data) = series(100);
        let task = Forecast::new(&ForecastConfig { input: 5, horizon: 3 }, &data).unwrap();
        assert_eq!([Split::Train, Split::Valid, Split::Test].map(|s| task.count(s).unwrap().unwrap()), [63, 8, 18]);
        // The scaling of the first channel tells the row: training rows are 0..70.
        let deviation = ((70.0_f32 * 70.0 - 1.0) / 12.0).sqrt();
        let row = |value: f32| (value * deviation + 34.5).round() as usize;
        for (split, first) in [(Split::Train, 5), (Split::Valid, 70), (Split::Test, 80)] {
            let all = task.evaluation(split, usize::MAX, 10).unwrap();
            let mut number = 0;
            for batch in all {
                let (Inputs::Numbers(inputs), Targets::Numbers { values, shape: [3, 2], asked: None }) = (&batch.inputs, &batch.targets)
                else {
                    unreachable!()
                };
                for k in 0..batch.count {
                    let seen: Vec<_> = inputs[k * 10..(k + 1) * 10].iter().step_by(2).map(|v| row(*v)).collect();
                    let wanted: Vec<_> = values[k * 6..(k + 1) * 6].iter().step_by(2).map(|v| row(*v)).collect();
                    let at = first + number;
                    assert_eq!((seen, wanted), ((at - 5..at).collect(), (at..at + 3).collect()));
                    number += 1;
                }
            }
            assert_eq!(Some(number), task.count(split).unwrap());
        }
    }

    #[test]
    fn what_does_not_fit_is_refused_with_the_numbers() {
        let (_place, data) = series(100);
        let message = |input, horizon| Forecast::new(&ForecastConfig { input, horizon }, &data).unwrap_err().to_string();
        assert_eq!(message(0, 3), "`task.input` must be at least 1, got 0");
        assert_eq!(
            message(5, 11),
            "`task.horizon` must be short enough for the validation part of 10 steps, with `task.input` = 5, got 11"
        );
        assert!(message(200, 3).contains("the training part of 0 steps"), "{}", message(200, 3));
    }
}
