use regard::{MixerConfig, nprf::NprfConfig, softmax_attention::SoftmaxAttentionConfig};
use regard_models::{DecoderConfig, NprfLmConfig};
use regard_train::RunConfig;

use super::super::{
    Figure, FigureKind, Finding, Lab,
    lab::{Attempt, Recipe, text},
    values::{mean, median},
};
use crate::Result;

const RATES: [f64; 2] = [1e-3, 3e-3];
/// A gradient is a spike from so many times the median norm of its run on.
const SPIKE: f64 = 10.0;

/// What the layers attend with.
#[derive(Clone, Copy)]
enum Arm {
    Softmax,
    Kernel { normalised: bool, rpe: bool },
}

const ARMS: [(&str, &str, Arm); 5] = [
    ("softmax + RPE", "softmax", Arm::Softmax),
    ("PRF", "prf", Arm::Kernel { normalised: false, rpe: false }),
    ("PRF + RPE", "prf-rpe", Arm::Kernel { normalised: false, rpe: true }),
    ("normalised PRF", "nprf-plain", Arm::Kernel { normalised: true, rpe: false }),
    ("NPRF + RPE", "nprf", Arm::Kernel { normalised: true, rpe: true }),
];
/// Its place among the arms, the last of the kernelised ones.
const NPRF: usize = 4;

/// The sizes of the models.
struct Sizes {
    d_model: usize,
    layers: usize,
    features: usize,
    recipe: Recipe,
}

impl Sizes {
    fn of(lab: &Lab<'_, '_>) -> Self {
        let quick = Recipe { context: 64, batch: 8, steps: 150, rate: RATES[0], warmup: 0, beta2: 0.99 };
        let own = Recipe { context: 256, batch: 16, steps: 1500, rate: RATES[0], warmup: 0, beta2: 0.99 };
        lab.quick_or(
            Self { d_model: 64, layers: 2, features: 16, recipe: quick },
            Self { d_model: 128, layers: 4, features: 32, recipe: own },
        )
    }

    fn model(&self, arm: Arm) -> DecoderConfig {
        let new = NprfLmConfig::new(256, self.d_model, self.layers, 4, self.recipe.context);
        let mixer = match arm {
            // The relative positions of a causal layer are the distances to earlier tokens.
            Arm::Softmax => MixerConfig::Softmax(SoftmaxAttentionConfig {
                rotary_base: None,
                relative_bias: Some(self.recipe.context - 1),
                bias: true,
                ..SoftmaxAttentionConfig::new(4)
            }),
            Arm::Kernel { normalised, rpe } => {
                MixerConfig::Nprf(NprfConfig { features: Some(self.features), normalised, rpe, ..new.mixer.clone() })
            }
        };
        DecoderConfig { mixers: vec![mixer], ..new.decoder() }
    }

    fn run(&self, lab: &Lab<'_, '_>, arm: Arm, rate: f64, seed: u64) -> RunConfig {
        let mut config = lab.language(self.model(arm), Recipe { rate, ..self.recipe }, seed);
        config.optimizer.final_rate = rate / 10.0;
        config.optimizer.clip = 0.0;
        // Every norm is looked at.
        config.train.log_every = 1;
        config
    }
}

/// Steps with a gradient that is a spike.
fn spikes(attempt: &Attempt) -> usize {
    let norms: Vec<f64> = attempt.norms.iter().map(|(_, norm)| *norm).collect();
    let usual = median(norms.clone());
    norms.iter().filter(|norm| **norm > SPIKE * usual).count()
}

/// Of one arm at one rate: the final losses, and the number of trainings that diverged.
#[derive(Default)]
struct Outcome {
    losses: Vec<f64>,
    diverged: usize,
}

impl Outcome {
    /// The mean over the seeds; a training that diverged has no loss that is small.
    fn loss(&self) -> f64 {
        if self.diverged > 0 || self.losses.is_empty() { f64::INFINITY } else { mean(&self.losses) }
    }

    fn text(&self) -> String {
        if self.diverged > 0 { format!("{} diverged", self.diverged) } else { format!("{:.3}", self.loss()) }
    }
}

/// Whether the rule holds, for the outcomes of all arms at the lower and the higher rate.
fn holds(outcomes: &[[Outcome; 5]; 2]) -> bool {
    let best = |rate: &[Outcome; 5]| (1..NPRF).all(|arm| rate[NPRF].loss() < rate[arm].loss());
    // PRF and PRF + RPE: a loss that is larger, or none.
    let worse = (1..=2).all(|arm| outcomes[1][arm].loss() > outcomes[1][NPRF].loss());
    outcomes.iter().all(|rate| rate[NPRF].loss().is_finite() && best(rate)) && worse
}

pub(super) fn test(lab: &mut Lab<'_, '_>) -> Result<Finding> {
    let sizes = Sizes::of(lab);
    let mut outcomes: [[Outcome; 5]; 2] = Default::default();
    let (mut rows, mut curves, mut norms) = (Vec::new(), [Vec::new(), Vec::new()], Vec::new());
    let mut trainings = Vec::new();
    for seed in lab.seeds(1, 3) {
        for (at, rate) in RATES.into_iter().enumerate() {
            trainings.extend((0..ARMS.len()).map(|arm| (seed, at, rate, arm)));
        }
    }
    let run = |&(seed, _, rate, arm): &(u64, usize, f64, usize)| {
        let (_, name, kind) = ARMS[arm];
        (format!("nprf-stability-{name}-{rate}"), sizes.run(lab, kind, rate, seed))
    };
    let runs: Vec<_> = trainings.iter().map(run).collect();
    for ((seed, at, rate, arm), attempt) in trainings.into_iter().zip(lab.attempt_all(&runs)?) {
        let title = ARMS[arm].0;
        let outcome = &mut outcomes[at][arm];
        let end = match &attempt.end {
            Ok(trained) => {
                outcome.losses.push(trained.evaluation.loss);
                format!("{:.4}", trained.evaluation.loss)
            }
            Err(divergence) => {
                outcome.diverged += 1;
                format!("{} {} at step {}", divergence.what, divergence.value, divergence.step)
            }
        };
        let nan = u8::from(attempt.end.is_err()).to_string();
        let largest = attempt.norms.iter().map(|(_, norm)| *norm).fold(0.0, f64::max);
        let usual = median(attempt.norms.iter().map(|(_, norm)| *norm).collect());
        let numbers = [spikes(&attempt).to_string(), format!("{usual:.3}"), format!("{largest:.3}"), nan];
        rows.push([title.to_owned(), rate.to_string(), seed.to_string(), end].into_iter().chain(numbers).collect());
        if seed == 1 {
            curves[at].push((title.to_owned(), attempt.curve));
            if at == 1 {
                norms.push((title.to_owned(), attempt.norms));
            }
        }
    }
    let list = |rate: &[Outcome; 5]| {
        ARMS.iter().zip(rate).map(|((title, ..), outcome)| format!("{title} {}", outcome.text())).collect::<Vec<_>>().join(", ")
    };
    let measured = format!("loss at 1e-3: {}; at 3e-3: {}", list(&outcomes[0]), list(&outcomes[1]));
    let diverged: usize = outcomes.iter().flat_map(|rate| &rate[1..=2]).map(|outcome| outcome.diverged).sum();
    let plain = if diverged == 0 {
        "no training without normalisation diverged at this scale: where its loss is worse, it merely ends worse"
    } else {
        "trainings without normalisation diverged at this scale"
    };
    let Recipe { context, batch, steps, .. } = sizes.recipe;
    let [low, high] = curves;
    Ok(Finding::new(holds(&outcomes), measured)
        .note(format!(
            "{} layers of width {}, 4 heads, M = {}, context {context}, {steps} steps of {batch} sequences, AdamW without warm-up and clipping, bytes; text: {}",
            sizes.layers, sizes.d_model, sizes.features, text().source
        ))
        .note(plain)
        .note(format!("a spike: a gradient of more than {SPIKE} times the median norm of its run; a run ends at the first loss or gradient that is no number, so that there is at most one"))
        .table("Trainings", &["arm", "rate", "seed", "validation loss", "spikes", "median norm", "largest norm", "NaN"], rows)
        .figure(Figure::new("Validation loss at a rate of 1e-3, seed 1", FigureKind::Loss, low))
        .figure(Figure::new("Validation loss at a rate of 3e-3, seed 1", FigureKind::Loss, high))
        .figure(Figure::new("Norm of the gradient at a rate of 3e-3, seed 1", FigureKind::GradientNorm, norms)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcomes(losses: [[f64; 5]; 2]) -> [[Outcome; 5]; 2] {
        losses.map(|rate| {
            rate.map(
                |loss| if loss.is_finite() { Outcome { losses: vec![loss], diverged: 0 } } else { Outcome { losses: vec![], diverged: 1 } },
            )
        })
    }

    #[test]
    fn the_rule_asks_for_a_best_kernel_that_never_diverges() {
        let none = f64::INFINITY;
        let good = [1.0, 3.0, 2.5, 2.4, 2.0];
        assert!(holds(&outcomes([good, good])), "softmax attention may be better");
        assert!(holds(&outcomes([good, [1.0, none, none, 2.4, 2.0]])), "a divergence is worse than any loss");
        assert!(!holds(&outcomes([good, [1.0, 3.0, 1.9, 2.4, 2.0]])), "an arm that is not normalised is better");
        assert!(!holds(&outcomes([[1.0, 3.0, 2.5, 1.9, 2.0], good])), "another kernel is better at the lower rate");
        assert!(!holds(&outcomes([good, [1.0, none, none, none, none]])), "it diverges itself");
    }

    #[test]
    fn kernel_arms_have_the_weights_of_the_specification() {
        let recipe = Recipe { context: 256, batch: 16, steps: 1, rate: 1e-3, warmup: 0, beta2: 0.99 };
        let sizes = Sizes { d_model: 128, layers: 4, features: 32, recipe };
        let params = |arm| sizes.model(arm).skeleton(&burn::tensor::Device::flex()).unwrap().params();
        assert_eq!(params(Arm::Kernel { normalised: true, rpe: true }), 834_288);
        assert_eq!(params(Arm::Kernel { normalised: false, rpe: false }), 826_112);
        // A causal layer has no use for the biases of later keys: half the table.
        assert_eq!(params(Arm::Softmax), 834_288 - 4 * 4 * 255);
    }
}
