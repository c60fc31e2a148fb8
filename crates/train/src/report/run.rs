use std::{
    fs,
    path::{Path, PathBuf},
};

use maud::html;

use super::{Axis, Plot, Quantity, Series, code, facts, folded, page, plots, sample};
use crate::{Error, EvalRecord, Record, Result, Run, StepRecord, TaskConfig};

/// What the page of a run shows besides what lies in its folder.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RunFacts {
    /// Names and values of the machine.
    pub machine: Vec<(String, String)>,
    /// The command that trains it.
    pub command: Option<String>,
    /// A prompt and what the model writes after it.
    pub sample: Option<(String, String)>,
    /// Largest number of bytes in use while training.
    pub peak_bytes: Option<usize>,
}

/// Writes `report.html` into the folder of a run.
///
/// # Errors
/// If the folder is not that of a run, its metrics cannot be read, or the page cannot be written.
pub fn write_run_report(dir: &Path, facts: &RunFacts) -> Result<PathBuf> {
    let page = run_report(&Run::open(dir)?, facts)?;
    let (path, scratch) = (dir.join("report.html"), dir.join("report.html.tmp"));
    fs::write(&scratch, page).map_err(Error::write(&scratch))?;
    fs::rename(&scratch, &path).map_err(Error::write(&path))?;
    Ok(path)
}

/// The page of a run: losses over tokens and time, rate and gradient, configuration and machine.
///
/// # Errors
/// If its metrics cannot be read.
pub fn run_report(run: &Run, extra: &RunFacts) -> Result<String> {
    let (mut steps, mut evaluations) = (Vec::new(), Vec::new());
    for record in run.metrics()? {
        match record {
            Record::Step(record) => steps.push(record),
            Record::Eval(record) => evaluations.push(record),
        }
    }
    let config = run.config();
    let mixers: Vec<_> = config.model.mixers.iter().map(regard::MixerConfig::kind).collect();
    let title =
        format!("{} on {}", mixers.join(", "), config.data.as_ref().map_or(TaskConfig::title(config.task.name()), |d| d.source.as_str()));
    let total = config.train.steps.unwrap_or_default();
    let lead = format!(
        "{} layers of width {}, {} of {total} steps of {} tokens.",
        config.model.layers,
        config.model.d_model,
        steps.last().map_or(0, |s| s.step),
        Quantity::Count.text(config.tokens_per_step() as f64, 3),
    );
    let body = html! {
        (facts(&summary(&steps, &evaluations, extra)))
        h2 { "Training" }
        (plots(&drawn(&steps, &evaluations, !matches!(config.task, TaskConfig::Lm(_)))))
        @if let Some((prompt, text)) = &extra.sample { h2 { "Sample" } (sample("", prompt, text)) }
        h2 { "How it was done" }
        @if let Some(command) = &extra.command { h3 { "Command" } (code(command)) }
        @if !extra.machine.is_empty() { h3 { "Machine" } (facts(&extra.machine)) }
        (folded("The whole configuration (config.toml)", &code(&config.to_toml()?)))
    };
    Ok(page(&title, &lead, &body))
}

fn summary(steps: &[StepRecord], evaluations: &[EvalRecord], extra: &RunFacts) -> Vec<(&'static str, String)> {
    let mut rows = Vec::new();
    if let Some(last) = evaluations.last() {
        rows.push(("Validation loss", format!("{:.4} nats per token after step {}, on {} tokens", last.loss, last.step, last.evaluated)));
        if let Some(best) = evaluations.iter().min_by(|a, b| a.loss.total_cmp(&b.loss)).filter(|b| b.loss < last.loss) {
            rows.push(("Lowest", format!("{:.4} after step {}", best.loss, best.step)));
        }
        match last.accuracy {
            Some(accuracy) => rows.push(("Accuracy", format!("{:.1} %", 100.0 * accuracy))),
            None => rows.push(("Perplexity", Quantity::Plain.text(last.perplexity, 4))),
        }
        rows.extend(last.bits_per_byte.map(|bits| ("Bits per byte", format!("{bits:.4}"))));
    }
    if let Some(last) = steps.last() {
        rows.push(("Training time", Quantity::Seconds.text(last.seconds, 3)));
        rows.push(("Tokens per second", Quantity::Count.text(last.tokens as f64 / last.seconds, 3)));
    }
    rows.extend(extra.peak_bytes.map(|bytes| ("Peak memory", Quantity::Bytes.text(bytes as f64, 3))));
    rows
}

fn drawn(steps: &[StepRecord], evaluations: &[EvalRecord], by_accuracy: bool) -> Vec<Plot> {
    let loss = |against: &str, x: Axis, train: fn(&StepRecord) -> f64, valid: fn(&EvalRecord) -> f64| {
        let mut plot = Plot::new(format!("Loss against {against}"), x, Axis::linear("nats per token", Quantity::Plain));
        let (training, validation) = (steps.iter().map(|s| (train(s), s.loss)), evaluations.iter().map(|e| (valid(e), e.loss)));
        plot.series = vec![
            Series { name: "training".into(), style: 0, points: training.collect(), faint: true, ..Series::default() },
            Series { name: "validation".into(), style: 1, points: validation.collect(), ..Series::default() },
        ];
        plot
    };
    let tokens = || Axis::linear("training tokens", Quantity::Count).zero();
    let mut plots = vec![
        loss("tokens", tokens(), |s| s.tokens as f64, |e| e.tokens as f64),
        loss("time", Axis::linear("training time", Quantity::Seconds).zero(), |s| s.seconds, |e| e.seconds),
    ];
    if by_accuracy {
        let mut accuracy = Plot::new("Accuracy against tokens", tokens(), Axis::linear("%", Quantity::Plain).zero());
        let points = evaluations.iter().filter_map(|e| e.accuracy.map(|a| (e.tokens as f64, 100.0 * a)));
        accuracy.series = vec![Series { style: 1, points: points.collect(), ..Series::default() }];
        plots.push(accuracy);
    }
    let curve = |title: &str, y: Axis, value: fn(&StepRecord) -> f64| {
        let mut plot = Plot::new(title, tokens(), y);
        let points = steps.iter().map(|s| (s.tokens as f64, value(s)));
        plot.series = vec![Series { points: points.collect(), ..Series::default() }];
        plot
    };
    plots.push(curve("Learning rate", Axis::linear("rate", Quantity::Scientific).zero(), |s| s.lr));
    plots.push(curve("Gradient norm", Axis::log("before clipping", Quantity::Plain), |s| s.grad_norm));
    plots
}

#[cfg(test)]
mod tests {
    use super::*;

    fn records() -> (Vec<StepRecord>, Vec<EvalRecord>) {
        let step = |step: usize| StepRecord {
            step,
            tokens: 64 * step,
            seconds: 0.1 * step as f64,
            loss: 3.0 / step as f64,
            lr: 1e-3,
            grad_norm: 0.5,
        };
        let eval = |step: usize| EvalRecord {
            step,
            tokens: 64 * step,
            seconds: 0.1 * step as f64,
            loss: 3.1 / step as f64,
            perplexity: 2.0,
            bits_per_byte: Some(1.0),
            accuracy: Some(0.25),
            evaluated: 100,
        };
        ((1..=20).map(step).collect(), [10, 20].map(eval).to_vec())
    }

    #[test]
    fn curves_show_what_was_recorded() {
        let (steps, evaluations) = records();
        let names = |by_accuracy| drawn(&steps, &evaluations, by_accuracy).iter().map(|p| p.title.clone()).collect::<Vec<_>>();
        assert_eq!(names(false), ["Loss against tokens", "Loss against time", "Learning rate", "Gradient norm"]);
        assert_eq!(names(true)[2], "Accuracy against tokens");
        let plot = &drawn(&steps, &evaluations, false)[0];
        assert_eq!((plot.series[0].points.len(), plot.series[1].points.len()), (20, 2));
    }

    #[test]
    fn the_summary_names_the_last_evaluation_and_the_pace() {
        let (steps, evaluations) = records();
        let rows = summary(&steps, &evaluations, &RunFacts { peak_bytes: Some(1 << 20), ..RunFacts::default() });
        let value = |name: &str| rows.iter().find(|r| r.0 == name).map(|r| r.1.clone()).unwrap();
        assert_eq!(value("Validation loss"), "0.1550 nats per token after step 20, on 100 tokens");
        assert_eq!(value("Tokens per second"), "640");
        assert_eq!(value("Peak memory"), "1 MiB");
        assert!(summary(&[], &[], &RunFacts::default()).is_empty());
    }
}
