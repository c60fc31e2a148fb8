use std::f32::consts::TAU;

use rand::RngExt;
use rand_distr::StandardNormal;
use regard_models::{EncoderInput, Head};
use serde::{Deserialize, Serialize};

use super::{
    examples::{Examples, Form, FormInput, Source},
    generator,
};
use crate::{Error, Result, Split};

/// Series of several channels, to be told apart by their frequencies: each channel is the sum of two sines whose frequencies belong to the
/// class and the channel, of random phases, a linear trend of random slope, and noise.
///
/// As phases are random, no single step and no mean over steps tells the class: products of steps do. The power at the frequencies of a
/// class finds it; a network with short convolutions learns it in a few hundred steps (`recipes/series.toml`); one that sees single
/// steps and learned positions has to learn filters as long as a period first, and is still at chance after 1500.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SeriesConfig {
    /// Number of classes.
    #[serde(default = "default_classes")]
    pub classes: usize,
    /// Number of channels.
    #[serde(default = "default_channels")]
    pub channels: usize,
    /// Steps of a series.
    #[serde(default = "default_length")]
    pub length: usize,
    /// Standard deviation of the noise; that of a sine is 0.71.
    #[serde(default = "default_noise")]
    pub noise: f32,
}

fn default_classes() -> usize {
    6
}

fn default_channels() -> usize {
    3
}

fn default_length() -> usize {
    100
}

fn default_noise() -> f32 {
    0.5
}

impl Default for SeriesConfig {
    fn default() -> Self {
        Self { classes: default_classes(), channels: default_channels(), length: default_length(), noise: default_noise() }
    }
}

/// The generator of the task.
#[derive(Clone, Debug)]
pub struct SyntheticSeries {
    config: SeriesConfig,
}

impl SyntheticSeries {
    /// # Errors
    /// If a number is 0 or the noise is none.
    pub(super) fn new(config: &SeriesConfig) -> Result<Self> {
        let sizes = [("task.classes", config.classes, 2), ("task.channels", config.channels, 1), ("task.length", config.length, 2)];
        if let Some((key, got, least)) = sizes.into_iter().find(|(_, got, least)| got < least) {
            return Err(Error::value(key, format!("at least {least}"), got));
        }
        if !(config.noise >= 0.0 && config.noise.is_finite()) {
            return Err(Error::value("task.noise", "at least 0", config.noise));
        }
        Ok(Self { config: config.clone() })
    }

    /// Periods within a series of the two sines of a channel.
    fn frequencies(class: usize, channel: usize) -> [f32; 2] {
        [2.0 + class as f32 + 0.5 * channel as f32, 9.0 + 1.5 * class as f32 - channel as f32]
    }
}

impl Source for SyntheticSeries {
    fn form(&self) -> Form {
        let SeriesConfig { classes, channels, length, .. } = self.config;
        Form { input: FormInput::Steps { input: EncoderInput::Numbers { width: channels }, length }, head: Head::Classes { classes } }
    }

    fn count(&self, _: Split) -> Result<Option<usize>> {
        Ok(None)
    }

    fn push(&self, _: Split, seed: u64, number: u64, examples: &mut Examples) {
        let SeriesConfig { classes, channels, length, noise } = self.config;
        let mut generator = generator(seed, number);
        let class = generator.random_range(0..classes);
        let mut values = vec![0.0; length * channels];
        for channel in 0..channels {
            let phases: [f32; 2] = [generator.random(), generator.random()];
            let slope = generator.random_range(-1.0_f32..1.0);
            for t in 0..length {
                let at = t as f32 / length as f32;
                let sines = Self::frequencies(class, channel).into_iter().zip(phases).map(|(f, phase)| (TAU * (f * at + phase)).sin());
                let normal: f32 = generator.sample(StandardNormal);
                values[t * channels + channel] = sines.sum::<f32>() + slope * (at - 0.5) + noise * normal;
            }
        }
        examples.push_numbers(values, class as u32);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tasks::examples::{Inputs, Targets};

    #[test]
    fn a_class_is_found_by_its_frequencies() {
        let task = SyntheticSeries::new(&SeriesConfig { noise: 0.3, ..SeriesConfig::default() }).unwrap();
        let batch = task.evaluation(Split::Test, 120, 120).unwrap().remove(0);
        let (Inputs::Numbers(values), Targets::Classes(classes)) = (&batch.inputs, &batch.targets) else { unreachable!() };
        let power = |series: &[f32], channel: usize, f: f32| {
            let sum = |phase: f32| (0..100).map(|t| series[3 * t + channel] * (TAU * (f * t as f32 / 100.0 + phase)).sin()).sum::<f32>();
            sum(0.0).powi(2) + sum(0.25).powi(2)
        };
        let right = classes.iter().enumerate().filter(|(row, class)| {
            let series = &values[row * 300..(row + 1) * 300];
            let score = |c: usize| -> f32 {
                (0..3).map(|channel| SyntheticSeries::frequencies(c, channel).map(|f| power(series, channel, f)).iter().sum::<f32>()).sum()
            };
            (0..6).max_by(|a, b| score(*a).total_cmp(&score(*b))) == Some(**class as usize)
        });
        assert!(right.count() > 110);
    }
}
