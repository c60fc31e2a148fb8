use std::sync::Arc;

use burn::train::{
    Interrupter,
    logger::TrainingProgressLogger,
    metric::{MetricAttributes, MetricDefinition, MetricEntry, MetricId, NumericAttributes, NumericEntry, SerializedEntry},
    renderer::{MetricState, MetricsRenderer, MetricsRendererTraining, tui::TuiMetricsRendererWrapper},
};

use super::observer::{Event, Observer, Start};

const LOSS: &str = "Loss";
const BITS: &str = "Bits per byte";
const ACCURACY: &str = "Accuracy";
const NORM: &str = "Gradient norm";
const RATE: &str = "Learning rate";

/// Burn's terminal dashboard as an observer. It takes over the terminal on standard output until it is dropped, so make one only where
/// that is a terminal.
pub struct Dashboard {
    renderer: TuiMetricsRendererWrapper,
    interrupter: Interrupter,
    label: String,
    run: Option<Start>,
}

impl Dashboard {
    /// Opens the dashboard under a title.
    pub fn new(label: impl Into<String>) -> Self {
        let interrupter = Interrupter::new();
        let mut renderer = TuiMetricsRendererWrapper::new(interrupter.clone(), None);
        for (name, higher_is_better) in [(LOSS, false), (BITS, false), (ACCURACY, true), (NORM, false), (RATE, false)] {
            renderer.register_metric(MetricDefinition {
                metric_id: id(name),
                name: Arc::new(name.into()),
                description: None,
                attributes: MetricAttributes::Numeric(NumericAttributes { unit: None, higher_is_better }),
            });
        }
        Self { renderer, interrupter, label: label.into(), run: None }
    }

    /// Shows the progress within the interval between two evaluations, the dashboard's "epoch".
    fn progress(&mut self, step: usize) {
        if let Some(run) = &self.run {
            let in_interval = step % run.eval_every;
            self.renderer.update_split(if in_interval == 0 && step > 0 { run.eval_every } else { in_interval } * run.tokens_per_step);
        }
    }
}

impl Observer for Dashboard {
    fn event(&mut self, event: &Event<'_>) {
        match event {
            Event::Start(start) => {
                let epochs = start.steps.div_ceil(start.eval_every);
                self.renderer.start(epochs, start.from / start.eval_every + 1, None, Some(self.label.as_str()).filter(|l| !l.is_empty()));
                self.renderer.start_split("train", start.eval_every * start.tokens_per_step);
                self.run = Some((*start).clone());
            }
            Event::Step(record) => {
                for (name, value) in [(LOSS, record.loss), (NORM, record.grad_norm), (RATE, record.lr)] {
                    self.renderer.update_train(numeric(name, value));
                }
                self.progress(record.step);
            }
            Event::Evaluation(record) => {
                self.renderer.update_valid(numeric(LOSS, record.loss));
                for (name, value) in [(BITS, record.bits_per_byte), (ACCURACY, record.accuracy)] {
                    if let Some(value) = value {
                        self.renderer.update_valid(numeric(name, value));
                    }
                }
                if let Some(run) = &self.run {
                    self.renderer.update_epoch(record.step / run.eval_every);
                    self.renderer.start_split("train", run.eval_every * run.tokens_per_step);
                }
            }
            Event::Checkpoint { step, .. } => self.renderer.log_event_training(format!("checkpoint of step {step}")),
            Event::End(_) => self.renderer.end_split(),
        }
    }

    fn should_stop(&self) -> bool {
        self.interrupter.should_stop()
    }
}

fn id(name: &str) -> MetricId {
    MetricId::new(Arc::new(name.into()))
}

fn numeric(name: &str, value: f64) -> MetricState {
    let entry = SerializedEntry::new(format!("{value:.4e}"), value.to_string());
    MetricState::Numeric(MetricEntry::new(id(name), entry), Some(NumericEntry::Value(value)))
}
