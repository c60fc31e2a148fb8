use std::time::{Duration, Instant};

use burn::{
    module::Module,
    tensor::{Device, Distribution, Tensor},
};
use regard::{LayerPlace, Mixer, MixerMemory, SequenceMixer};
use serde::{Deserialize, Serialize};

use super::{Candidate, CompareConfig, CompareEvent, Context};
use crate::{
    Result,
    fit::exponent,
    machine::sync,
    measure::{Patience, measure},
};

/// How the cost of each candidate grows with length.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Scaling {
    /// Width D of the layers.
    pub d_model: usize,
    /// Heads H.
    pub heads: usize,
    /// Sequences at once.
    pub batch: usize,
    /// Exponents are fitted over lengths from here on: below, fixed costs dominate.
    pub fit_from: usize,
    /// One curve per candidate.
    pub curves: Vec<Curve>,
}

/// The cost of one candidate's layer over length, forward and backward; the mean over its mixers if it has several.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Curve {
    /// The candidate's name.
    pub mixer: String,
    /// The measurements, shortest first.
    pub points: Vec<Point>,
    /// Exponent p of time ∝ T^p.
    pub time_exponent: Option<f64>,
    /// Exponent p of memory ∝ T^p.
    pub memory_exponent: Option<f64>,
    /// Longest length of the fit.
    pub fit_to: Option<usize>,
    /// Why there are no more points.
    pub stopped: Option<String>,
}

/// One measurement.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Point {
    /// Length T.
    pub tokens: usize,
    /// Seconds of forward and backward, median.
    pub seconds: f64,
    /// Largest number of bytes in use beyond those before, if measured.
    pub peak_bytes: Option<usize>,
    /// Bytes of the decoding state after T tokens, per sequence.
    pub state_bytes: usize,
}

const FIT_FROM: usize = 1024;
/// Repetitions of a measurement.
const REPETITIONS: usize = 7;

/// Measures lengths in powers of two, all candidates at one length before the next, until the time is over: a candidate whose next
/// point would take more than its share of the time goes no further.
pub(super) fn scaling(config: &CompareConfig, seconds: f64, context: &mut Context<'_>) -> Result<Scaling> {
    let (size, options) = (config.size, &config.scaling);
    let device = context.device.clone().autodiff();
    let mut subjects = config.candidates.iter().map(|c| Subject::new(c, size.d_model, &device)).collect::<Result<Vec<_>>>()?;
    // About as many measurements as there are lengths have to share the time of a candidate.
    let enough = Duration::from_secs_f64((seconds / subjects.len() as f64 / 20.0).clamp(0.05, 2.0));
    let patience = Patience { repetitions: REPETITIONS, enough };
    let mut length = options.shortest;
    while length <= options.longest && subjects.iter().any(Subject::goes_on) && !context.stopped() {
        for index in 0..subjects.len() {
            let share = share(seconds, &subjects);
            let subject = &mut subjects[index];
            if !subject.goes_on() || context.stopped() {
                continue;
            }
            // The shortest length is measured whatever it takes, and the two that a fit needs if at all possible.
            let limit = if length <= 2 * FIT_FROM { 2.0 * share } else { share };
            if length > options.shortest && subject.spent + subject.expected_seconds(patience) > limit {
                subject.curve.stopped = Some("out of time".into());
                continue;
            }
            let begun = Instant::now();
            let point = subject.point([options.batch, length, size.d_model], patience, &device, context);
            subject.spent += begun.elapsed().as_secs_f64();
            subject.curve.points.push(point);
            let mixer = &subject.curve.mixer;
            context.emit(&CompareEvent::Scaling { mixer, tokens: length, seconds: point.seconds });
        }
        length *= 2;
    }
    let curves = subjects.into_iter().map(|s| s.curve.fitted()).collect();
    Ok(Scaling { d_model: size.d_model, heads: size.heads, batch: options.batch, fit_from: FIT_FROM, curves })
}

/// Seconds for each candidate that goes on: what those that stopped left over is theirs too.
fn share(seconds: f64, subjects: &[Subject]) -> f64 {
    let stopped: f64 = subjects.iter().filter(|s| !s.goes_on()).map(|s| s.spent).sum();
    (seconds - stopped) / subjects.iter().filter(|s| s.goes_on()).count().max(1) as f64
}

impl Curve {
    fn fitted(self) -> Self {
        let long = || self.points.iter().filter(|p| p.tokens >= FIT_FROM);
        let memory = |p: &Point| p.peak_bytes.map(|b| (p.tokens as f64, b as f64));
        Self {
            time_exponent: exponent(long().map(|p| (p.tokens as f64, p.seconds))),
            memory_exponent: exponent(long().filter_map(memory)),
            fit_to: long().next_back().map(|p| p.tokens),
            ..self
        }
    }
}

/// A candidate under measurement.
struct Subject {
    curve: Curve,
    layers: Vec<Mixer>,
    /// Seconds that its measurements took.
    spent: f64,
}

impl Subject {
    fn new(candidate: &Candidate, d_model: usize, device: &Device) -> Result<Self> {
        let layers = candidate.mixers.iter().map(|m| m.init(d_model, LayerPlace::ONLY, device)).collect::<regard::Result<_>>()?;
        let curve = Curve {
            mixer: candidate.name.clone(),
            points: Vec::new(),
            time_exponent: None,
            memory_exponent: None,
            fit_to: None,
            stopped: None,
        };
        Ok(Self { curve, layers, spent: 0.0 })
    }

    fn goes_on(&self) -> bool {
        self.curve.stopped.is_none()
    }

    /// Seconds that the next point would take: warm-up, one repetition at least, and the state, if growth goes on as before.
    fn expected_seconds(&self, patience: Patience) -> f64 {
        let [.., before, last] = self.curve.points.as_slice() else {
            return self.curve.points.last().map_or(0.0, |p| 6.0 * p.seconds * self.layers.len() as f64);
        };
        let growth = (last.seconds / before.seconds).clamp(1.5, 5.0);
        let single = last.seconds * growth * self.layers.len() as f64;
        // Warm-up, a repetition and no more further ones than patience allows, and about half a pass for the state.
        single * 2.5 + patience.enough.as_secs_f64().min(single * (patience.repetitions - 1) as f64)
    }

    fn point(&self, shape: [usize; 3], patience: Patience, device: &Device, context: &Context<'_>) -> Point {
        let [_, tokens, d_model] = shape;
        let x = Tensor::<3>::random(shape, Distribution::Normal(0.0, 1.0), device);
        sync(device);
        let cost = measure(context.memory, patience, || {
            for layer in &self.layers {
                let x = x.clone().require_grad();
                let y = layer.forward(x.clone(), None);
                // A cotangent that is not constant, as in training.
                let grads = (y.clone() * y.detach()).sum().backward();
                let grad = x.grad(&grads);
                sync(device);
                drop(grad);
            }
        });
        let state_bytes = self.state_bytes(tokens, d_model, device);
        Point { tokens, seconds: cost.seconds / self.layers.len() as f64, peak_bytes: cost.peak_bytes, state_bytes }
    }

    /// Bytes of the state of one sequence after `tokens` tokens.
    fn state_bytes(&self, tokens: usize, d_model: usize, device: &Device) -> usize {
        let x = Tensor::<3>::zeros([1, tokens, d_model], &device.clone().inner());
        let after = |layer: &Mixer| {
            let layer = layer.clone().valid();
            let mut state = layer.state(1);
            layer.prefill(x.clone(), &mut state);
            state.bytes()
        };
        self.layers.iter().map(after).sum::<usize>() / self.layers.len()
    }
}
