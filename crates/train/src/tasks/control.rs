use std::sync::Arc;

use rand::RngExt;
use regard_models::{EncoderInput, Head};
use serde::{Deserialize, Serialize};

use super::{
    examples::{Examples, Form, FormInput, Source},
    generator,
};
use crate::{Error, Result, Split};

/// Offline reinforcement learning of a point mass on a line by the sequence model of Decision Transformer (Chen et al. 2021, arXiv
/// 2106.01345): of recorded episodes it reads returns to come, states and actions, three tokens a step, and predicts the actions.
///
/// `x' = x + 0.1 v`, `v' = v + 0.1 a`, a in [−1, 1], reward −|x − 1|. The episodes start at rest, x in [−1, 1], and mix a controller with
/// random actions, in shares of their own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ControlConfig {
    /// Recorded episodes: of ten, eight train, one validates and one tests.
    #[serde(default = "default_episodes")]
    pub episodes: usize,
    /// Steps of an episode.
    #[serde(default = "default_steps")]
    pub steps: usize,
    /// Steps that a model sees.
    #[serde(default = "default_window")]
    pub window: usize,
}

fn default_episodes() -> usize {
    500
}

fn default_steps() -> usize {
    50
}

fn default_window() -> usize {
    20
}

impl Default for ControlConfig {
    fn default() -> Self {
        Self { episodes: default_episodes(), steps: default_steps(), window: default_window() }
    }
}

/// The point mass.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PointMass {
    /// Position.
    pub x: f32,
    /// Velocity.
    pub v: f32,
}

impl PointMass {
    /// Applies an action, which is bounded to [−1, 1], and returns the reward.
    pub fn act(&mut self, action: f32) -> f32 {
        let reward = -(self.x - 1.0).abs();
        (self.x, self.v) = (self.x + 0.1 * self.v, self.v + 0.1 * action.clamp(-1.0, 1.0));
        reward
    }

    /// A critically damped controller, the best of the recorded behaviour.
    fn controller(self) -> f32 {
        (1.0 - self.x - 2.0 * self.v).clamp(-1.0, 1.0)
    }
}

/// One step of an episode.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ControlStep {
    /// Sum of the rewards from here on, or the sum that is wished for.
    pub return_to_go: f32,
    /// Before the action.
    pub state: PointMass,
    /// The action.
    pub action: f32,
}

/// Returns are divided by this for the model.
const RETURN_SCALE: f32 = 20.0;
/// Numbers of a token besides its time: return, position, velocity, action, and which of the three it is.
const FIXED: usize = 7;
/// The recorded episodes are always the same: seed and streams of their generator.
const RECORDED: u64 = 0x706f_696e_745f_6d61;

/// Recorded episodes.
#[derive(Clone, Debug)]
pub struct Control {
    config: ControlConfig,
    episodes: Arc<Vec<Vec<ControlStep>>>,
}

impl Control {
    /// # Errors
    /// If there are fewer than ten episodes, or the window does not fit into one.
    pub(super) fn new(config: &ControlConfig) -> Result<Self> {
        if config.episodes < 10 {
            return Err(Error::value("task.episodes", "at least 10", config.episodes));
        }
        if config.window == 0 || config.window > config.steps {
            return Err(Error::value("task.window", format!("from 1 to the {} steps of an episode", config.steps), config.window));
        }
        let episodes = (0..config.episodes as u64).map(|number| record(number, config.steps)).collect();
        Ok(Self { config: config.clone(), episodes: Arc::new(episodes) })
    }

    fn range(&self, split: Split) -> std::ops::Range<usize> {
        let all = self.config.episodes;
        let (valid, test) = (all * 8 / 10, all * 9 / 10);
        match split {
            Split::Train => 0..valid,
            Split::Valid => valid..test,
            Split::Test => test..all,
        }
    }

    /// The highest return of the training episodes.
    pub fn best_return(&self) -> f32 {
        self.episodes[self.range(Split::Train)].iter().map(|e| e[0].return_to_go).fold(f32::NEG_INFINITY, f32::max)
    }

    /// Where episodes of a split start.
    pub fn starts(&self, split: Split) -> Vec<PointMass> {
        self.episodes[self.range(split)].iter().map(|episode| episode[0].state).collect()
    }

    /// Numbers of a token.
    pub fn width(&self) -> usize {
        FIXED + self.config.steps
    }

    /// The tokens of steps, `3 × steps` rows of [`width`](Self::width) numbers: return, state, action; `first` is the time of the first.
    /// A linear map of them is a map for each of the three kinds and a vector for each time.
    pub fn tokens(&self, steps: &[ControlStep], first: usize) -> Vec<f32> {
        let width = self.width();
        let mut numbers = vec![0.0; 3 * steps.len() * width];
        for (index, step) in steps.iter().enumerate() {
            for (kind, row) in numbers[3 * index * width..3 * (index + 1) * width].chunks_exact_mut(width).enumerate() {
                match kind {
                    0 => row[0] = step.return_to_go / RETURN_SCALE,
                    1 => (row[1], row[2]) = (step.state.x, step.state.v),
                    _ => row[3] = step.action,
                }
                row[4 + kind] = 1.0;
                row[FIXED + (first + index).min(self.config.steps - 1)] = 1.0;
            }
        }
        numbers
    }
}

/// An episode of mixed quality.
fn record(number: u64, steps: usize) -> Vec<ControlStep> {
    let mut generator = generator(RECORDED, number);
    let mut state = PointMass { x: generator.random_range(-1.0_f32..1.0), v: 0.0 };
    let skill: f32 = generator.random();
    let mut rewards = Vec::with_capacity(steps);
    let mut episode: Vec<ControlStep> = (0..steps)
        .map(|_| {
            let random = generator.random_range(-1.0_f32..1.0);
            let step = ControlStep { return_to_go: 0.0, state, action: skill * state.controller() + (1.0 - skill) * random };
            rewards.push(state.act(step.action));
            step
        })
        .collect();
    let mut sum = 0.0;
    for (step, reward) in episode.iter_mut().zip(rewards).rev() {
        sum += reward;
        step.return_to_go = sum;
    }
    episode
}

impl Source for Control {
    fn form(&self) -> Form {
        let input = FormInput::Steps { input: EncoderInput::Numbers { width: self.width() }, length: 3 * self.config.window };
        Form { input, head: Head::Each { outputs: 1 } }
    }

    fn none(&self) -> Examples {
        Examples::none(&self.form(), false, true)
    }

    fn count(&self, split: Split) -> Result<Option<usize>> {
        Ok(Some(self.range(split).len() * (self.config.steps - self.config.window + 1)))
    }

    fn push(&self, split: Split, _: u64, number: u64, examples: &mut Examples) {
        let windows = self.config.steps - self.config.window + 1;
        let (episode, first) = (number as usize / windows, number as usize % windows);
        let steps = &self.episodes[self.range(split).start + episode][first..first + self.config.window];
        let actions: Vec<f32> = steps.iter().flat_map(|step| [0.0, step.action, 0.0]).collect();
        let asked = [false, true, false].repeat(steps.len());
        examples.push_regression(&self.tokens(steps, first), &actions, &asked);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tasks::examples::Targets;

    #[test]
    fn episodes_follow_the_law_of_motion_and_returns_add_up() {
        for number in 0..20 {
            let episode = record(number, 50);
            for pair in episode.windows(2) {
                let mut state = pair[0].state;
                let reward = state.act(pair[0].action);
                assert_eq!(state, pair[1].state);
                assert!((pair[0].return_to_go - pair[1].return_to_go - reward).abs() < 1e-4);
                assert!(pair[0].action.abs() <= 1.0);
            }
        }
        let control = Control::new(&ControlConfig::default()).unwrap();
        let returns: Vec<f32> = control.episodes.iter().map(|e| e[0].return_to_go).collect();
        let mean = returns.iter().sum::<f32>() / 500.0;
        assert!(control.best_return() > mean + 5.0, "the quality is mixed: {mean} {}", control.best_return());
    }

    #[test]
    fn the_action_is_asked_for_before_it_is_seen() {
        let control = Control::new(&ControlConfig { episodes: 20, steps: 6, window: 4 }).unwrap();
        assert_eq!(control.count(Split::Train).unwrap(), Some(48));
        let batch = control.evaluation(Split::Valid, 3, 3).unwrap().remove(0);
        let Targets::Numbers { values, asked: Some(asked), shape } = &batch.targets else { unreachable!() };
        assert_eq!((*shape, batch.count), ([12, 1], 3));
        let inputs = batch.numbers::<3>(&burn::tensor::Device::flex()).unwrap();
        let inputs: Vec<f32> = inputs.into_data().iter::<f32>().collect();
        for (token, (action, asked)) in values.iter().zip(asked).enumerate() {
            assert_eq!(*asked, token % 3 == 1);
            if *asked {
                assert_eq!(inputs[token * 13 + 3], 0.0, "not in the token that answers");
                assert_eq!(inputs[(token + 1) * 13 + 3], *action, "but in the next");
            }
        }
        assert_eq!(
            Control::new(&ControlConfig { window: 51, ..ControlConfig::default() }).unwrap_err().to_string(),
            "`task.window` must be from 1 to the 50 steps of an episode, got 51"
        );
    }
}
