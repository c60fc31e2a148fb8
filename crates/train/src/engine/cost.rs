use std::time::Instant;

use burn::{
    module::Module,
    tensor::{Device, Tensor},
};

use super::{
    config::RunConfig,
    evaluate::{Split, evaluate},
    step::Learner,
};
use crate::{Result, tasks::Task};

/// What a run costs, measured.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepCost {
    /// Seconds of a training step, median.
    pub step_seconds: f64,
    /// Seconds of an evaluation.
    pub evaluation_seconds: f64,
}

impl StepCost {
    /// The number of steps, at least 1, that fit into `seconds` with an evaluation after every `every` of them and one at the end.
    pub fn steps_within(&self, seconds: f64, every: usize) -> usize {
        let per_step = self.step_seconds + self.evaluation_seconds / every as f64;
        (((seconds - self.evaluation_seconds) / per_step).floor() as usize).max(1)
    }
}

/// Times `steps` training steps, after two that warm up, and an evaluation on a model that is then thrown away.
///
/// # Errors
/// If the model does not fit the task or rejects its configuration.
pub fn measure_step(config: &RunConfig, task: &Task, device: &Device, steps: usize) -> Result<StepCost> {
    const WARM_UP: usize = 2;
    let mut config = config.clone();
    task.fit(&mut config.model)?;
    let mut learner = Learner::new(&config, device)?;
    pace(&mut learner, task, WARM_UP, 1);
    let step_seconds = pace(&mut learner, task, steps, 1);

    let batch = config.eval.batch.unwrap_or(config.train.batch);
    let (batches, _) = task.evaluation(Split::Valid, config.eval.tokens, batch, config.model.context())?;
    let model = learner.model.valid();
    let device = device.clone().inner();
    let sample = &batches[..batches.len().min(3)];
    evaluate(&model, &sample[..1], None, task.ignore(), &device);
    let start = Instant::now();
    evaluate(&model, sample, None, task.ignore(), &device);
    let evaluation_seconds = start.elapsed().as_secs_f64() * batches.len() as f64 / sample.len() as f64;
    Ok(StepCost { step_seconds, evaluation_seconds })
}

/// Seconds of a training step where the device is waited for after every `length` of them, as in a run that logs that often: the median
/// over `windows` such, after one that warms up.
///
/// # Errors
/// As [`measure_step`].
pub fn measure_pace(config: &RunConfig, task: &Task, device: &Device, [windows, length]: [usize; 2]) -> Result<f64> {
    let mut config = config.clone();
    task.fit(&mut config.model)?;
    let mut learner = Learner::new(&config, device)?;
    pace(&mut learner, task, 1, length);
    Ok(pace(&mut learner, task, windows, length))
}

/// Median seconds of a step over `windows` of `length` steps each. A rate of 0 leaves the weights alone.
fn pace(learner: &mut Learner, task: &Task, windows: usize, length: usize) -> f64 {
    let length = length.max(1);
    let mut times: Vec<f64> = (0..windows.max(1))
        .map(|window| {
            let start = Instant::now();
            let losses = (0..length).map(|step| learner.step(task, window * length + step, 0.0).loss);
            // Reading the last loss waits for the device.
            losses.last().map(Tensor::into_data);
            start.elapsed().as_secs_f64() / length as f64
        })
        .collect();
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_and_evaluations_fit_into_the_budget() {
        let cost = StepCost { step_seconds: 0.1, evaluation_seconds: 2.0 };
        let steps = cost.steps_within(60.0, 50);
        let evaluations = (steps as f64 / 50.0).ceil();
        assert!(steps as f64 * 0.1 + evaluations * 2.0 <= 60.0);
        assert!(steps > 350, "{steps}");
        assert_eq!(cost.steps_within(0.5, 50), 1);
    }
}
