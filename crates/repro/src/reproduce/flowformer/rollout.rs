use burn::tensor::{Device, Tensor, TensorData};
use regard_models::Encoder;
use regard_train::tasks::{Control, ControlConfig, ControlStep, PointMass};

use crate::Result;

/// Mean return of a model that acts from `starts` on, told to reach the return `wished`.
pub(super) fn mean_return(model: &Encoder, task: &Control, config: &ControlConfig, starts: &[PointMass], device: &Device) -> Result<f64> {
    let wished = task.best_return();
    let mut states = starts.to_vec();
    let mut episodes: Vec<Vec<ControlStep>> = vec![Vec::new(); starts.len()];
    let mut total = 0.0;
    for time in 0..config.steps {
        let first = (time + 1).saturating_sub(config.window);
        let seen = time + 1 - first;
        let mut numbers = Vec::new();
        for (episode, state) in episodes.iter_mut().zip(&states) {
            let rewards: f32 = episode.iter().map(|step| reward(step.state)).sum();
            // The action is not known yet: it stands behind the token that answers.
            episode.push(ControlStep { return_to_go: wished - rewards, state: *state, action: 0.0 });
            numbers.extend(task.tokens(&episode[first..], first));
        }
        let x = Tensor::<3>::from_data(TensorData::new(numbers, [starts.len(), 3 * seen, task.width()]), device);
        let answers = model.forward_numbers(x, None)?.narrow(1, 3 * (seen - 1) + 1, 1);
        for ((episode, state), action) in episodes.iter_mut().zip(&mut states).zip(answers.into_data().iter::<f32>()) {
            let action = action.clamp(-1.0, 1.0);
            if let Some(step) = episode.last_mut() {
                step.action = action;
            }
            total += f64::from(state.act(action));
        }
    }
    Ok(total / starts.len() as f64)
}

fn reward(mut state: PointMass) -> f32 {
    state.act(0.0)
}

#[cfg(test)]
mod tests {
    use regard::MixerConfig;
    use regard_models::{EncoderConfig, Positions};
    use regard_train::{Budget, EvalConfig, OptimizerConfig, RunConfig, Split, Task, TaskConfig, TrainConfig};

    use super::*;

    #[test]
    fn a_model_that_never_acts_stays_where_it_starts() {
        let control = ControlConfig { episodes: 30, steps: 12, window: 5 };
        let mixers = vec![MixerConfig::named("flow", 2).unwrap()];
        // Weights of 0 answer 0.
        let model = EncoderConfig { causal: true, positions: Positions::None, init_std: 0.0, ..EncoderConfig::open(8, 1, mixers) };
        let mut config = RunConfig {
            seed: 1,
            task: TaskConfig::Control(control.clone()),
            data: None,
            model: model.into(),
            train: TrainConfig::new(1, Budget::Steps(1)),
            optimizer: OptimizerConfig::default(),
            eval: EvalConfig::default(),
        };
        let task = Task::load(&config).unwrap();
        task.fit(&mut config.model).unwrap();
        let device = Device::flex();
        let model = config.model.init(&device).unwrap();
        let Task::Control(task) = task else { unreachable!() };
        let starts = task.starts(Split::Test);
        assert_eq!(starts.len(), 3);
        let got = mean_return(model.encoder().unwrap(), &task, &control, &starts, &device).unwrap();
        let want = -12.0 * starts.iter().map(|s| f64::from((s.x - 1.0).abs())).sum::<f64>() / 3.0;
        assert!((got - want).abs() < 1e-4, "{got} {want}");
        assert!(got < f64::from(task.best_return()));
    }
}
