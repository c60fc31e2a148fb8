use std::time::{Duration, Instant};

use burn::{
    module::Module,
    tensor::{Device, Distribution, Tensor},
};
use regard::{LayerPlace, Mixer, MixerMemory, SequenceMixer, SpatialMixer};
use regard_models::{
    MapMixerConfig, ModelConfig,
    image::{ConvBlock, MapMixer},
};
use serde::{Deserialize, Serialize};

use super::{Candidate, CompareConfig, CompareEvent, Context, MatchedCandidate};
use crate::{
    Error, Result,
    fit::exponent,
    machine::sync,
    measure::{Patience, measure},
};

/// How the cost of each candidate grows with length; of images, with their side.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Scaling {
    /// Width D of the layers.
    pub d_model: usize,
    /// Heads H.
    pub heads: usize,
    /// Sequences, or images, at once.
    pub batch: usize,
    /// Rows and columns of pixels that are a token, of images.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub patch: Option<usize>,
    /// Exponents are fitted over lengths (sides) from here on: below, fixed costs dominate.
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
    /// Exponent p of time ∝ T^p, or of the side of images.
    pub time_exponent: Option<f64>,
    /// Exponent p of memory, likewise.
    pub memory_exponent: Option<f64>,
    /// Longest length, or side, of the fit.
    pub fit_to: Option<usize>,
    /// Why there are no more points.
    pub stopped: Option<String>,
}

/// One measurement.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Point {
    /// Length T; of images, the tokens of their map.
    pub tokens: usize,
    /// The side of images in pixels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub side: Option<usize>,
    /// Seconds of forward and backward, median.
    pub seconds: f64,
    /// Largest number of bytes in use beyond those before, if measured.
    pub peak_bytes: Option<usize>,
    /// Bytes of the decoding state after T tokens, per sequence; 0 for images.
    pub state_bytes: usize,
}

impl Point {
    /// Where it stands on the axis: the side of images, else the length.
    pub fn at(&self) -> usize {
        self.side.unwrap_or(self.tokens)
    }
}

/// Tokens from which on costs are fitted.
const FIT_FROM: usize = 1024;
/// Repetitions of a measurement.
const REPETITIONS: usize = 7;

/// What a layer is given.
#[derive(Clone, Copy)]
struct Input {
    batch: usize,
    /// Rows and columns of tokens; a sequence is one row.
    map: [usize; 2],
    width: usize,
    /// The side of the image, if it is one.
    side: Option<usize>,
}

impl Input {
    fn tokens(&self) -> usize {
        self.map.iter().product()
    }
}

/// Measures lengths, or sides of images, in powers of two, all candidates at one before the next, until the time is over: a candidate whose
/// next point would take more than its share of the time goes no further.
pub(super) fn scaling(config: &CompareConfig, matched: &[MatchedCandidate], seconds: f64, context: &mut Context<'_>) -> Result<Scaling> {
    let (size, options) = (config.size, &config.scaling);
    let device = context.device.clone().autodiff();
    let patch = matched.iter().find_map(|m| if let ModelConfig::Image(model) = &m.model { Some(model.patch) } else { None });
    let input = |length: usize| Input {
        batch: options.batch,
        map: patch.map_or([1, length], |patch| [length.div_ceil(patch); 2]),
        width: size.d_model,
        side: patch.map(|_| length),
    };
    let subjects = config.candidates.iter().zip(matched).map(|(c, m)| Subject::new(c, m, size.d_model, &device));
    let mut subjects = subjects.collect::<Result<Vec<_>>>()?;
    // About as many measurements as there are lengths have to share the time of a candidate.
    let enough = Duration::from_secs_f64((seconds / subjects.len() as f64 / 20.0).clamp(0.05, 2.0));
    let patience = Patience { repetitions: REPETITIONS, enough };
    let mut length = options.shortest;
    while length <= options.longest && subjects.iter().any(Subject::goes_on) && !context.stopped() {
        let input = input(length);
        for index in 0..subjects.len() {
            let share = share(seconds, &subjects);
            let subject = &mut subjects[index];
            // A map may be too small for a layer that takes the next.
            if !subject.goes_on() || !subject.takes(input) || context.stopped() {
                continue;
            }
            // The shortest length is measured whatever it takes, and the two that a fit needs if at all possible.
            let limit = if input.tokens() <= 2 * FIT_FROM { 2.0 * share } else { share };
            if length > options.shortest && subject.spent + subject.expected_seconds(patience) > limit {
                subject.curve.stopped = Some("out of time".into());
                continue;
            }
            let begun = Instant::now();
            let point = subject.point(input, patience, &device, context);
            subject.spent += begun.elapsed().as_secs_f64();
            subject.curve.points.push(point);
            let mixer = &subject.curve.mixer;
            context.emit(&CompareEvent::Scaling { mixer, tokens: input.tokens(), seconds: point.seconds });
        }
        length *= 2;
    }
    let curves: Vec<_> = subjects.into_iter().map(|s| s.curve.fitted()).collect();
    let measured = curves.iter().flat_map(|curve| &curve.points).filter(|point| point.tokens >= FIT_FROM);
    let fit_from = measured.map(Point::at).min().unwrap_or(FIT_FROM);
    Ok(Scaling { d_model: size.d_model, heads: size.heads, batch: options.batch, patch, fit_from, curves })
}

/// Seconds for each candidate that goes on: what those that stopped left over is theirs too.
fn share(seconds: f64, subjects: &[Subject]) -> f64 {
    let stopped: f64 = subjects.iter().filter(|s| !s.goes_on()).map(|s| s.spent).sum();
    (seconds - stopped) / subjects.iter().filter(|s| s.goes_on()).count().max(1) as f64
}

impl Curve {
    fn fitted(self) -> Self {
        let long = || self.points.iter().filter(|p| p.tokens >= FIT_FROM);
        let memory = |p: &Point| p.peak_bytes.map(|b| (p.at() as f64, b as f64));
        Self {
            time_exponent: exponent(long().map(|p| (p.at() as f64, p.seconds))),
            memory_exponent: exponent(long().filter_map(memory)),
            fit_to: long().next_back().map(Point::at),
            ..self
        }
    }
}

/// A layer under measurement, in training.
enum Layer {
    Sequence(Mixer),
    Map(MapMixer),
    Block(ConvBlock),
}

impl Layer {
    fn new(mixer: &MapMixerConfig, model: &ModelConfig, d_model: usize, device: &Device) -> Result<Self> {
        let conv = |d_ff| if let MapMixerConfig::Conv(config) = mixer { Some(config.init(d_model, d_ff, device)) } else { None };
        if let ModelConfig::Image(model) = model {
            return match (conv(model.d_ff), mixer.init(d_model, LayerPlace::ONLY, device)?) {
                (Some(block), _) => Ok(Self::Block(block?)),
                (None, Some(mixer)) => Ok(Self::Map(mixer)),
                (None, None) => unreachable!("all but convolutions are mixers"),
            };
        }
        let mixer = mixer.sequence().ok_or_else(|| Error::value("mixers", "layers over sequences for this task", mixer.kind()))?;
        Ok(Self::Sequence(mixer.init(d_model, LayerPlace::ONLY, device)?))
    }

    fn takes(&self, map: [usize; 2]) -> bool {
        if let Self::Map(mixer) = self { mixer.check_map(map).is_ok() } else { true }
    }

    /// `x`: `[B, Y, X, D]`; output: the same
    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        match self {
            Self::Sequence(mixer) => mixer.forward(x.squeeze_dim::<3>(1), None).unsqueeze_dim(1),
            Self::Map(mixer) => mixer.forward(x),
            Self::Block(block) => block.forward(x),
        }
    }

    /// Bytes of the state of one sequence after `tokens` tokens.
    fn state_bytes(&self, tokens: usize, width: usize, device: &Device) -> usize {
        let Self::Sequence(mixer) = self else { return 0 };
        let mixer = mixer.clone().valid();
        let mut state = mixer.state(1);
        mixer.prefill(Tensor::zeros([1, tokens, width], &device.clone().inner()), &mut state);
        state.bytes()
    }
}

/// A candidate under measurement.
struct Subject {
    curve: Curve,
    layers: Vec<Layer>,
    /// Seconds that its measurements took.
    spent: f64,
}

impl Subject {
    fn new(candidate: &Candidate, matched: &MatchedCandidate, d_model: usize, device: &Device) -> Result<Self> {
        let layers = candidate.mixers.iter().map(|m| Layer::new(m, &matched.model, d_model, device)).collect::<Result<_>>()?;
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

    fn takes(&self, input: Input) -> bool {
        self.layers.iter().all(|layer| layer.takes(input.map))
    }

    fn goes_on(&self) -> bool {
        self.curve.stopped.is_none()
    }

    /// Seconds that the next point would take: warm-up, one repetition at least, and the state, if growth goes on as before.
    fn expected_seconds(&self, patience: Patience) -> f64 {
        let [.., before, last] = self.curve.points.as_slice() else {
            return self.curve.points.last().map_or(0.0, |p| 6.0 * p.seconds * self.layers.len() as f64);
        };
        // Twice the side is four times the tokens.
        let steepest = if last.side.is_some() { 20.0 } else { 5.0 };
        let growth = (last.seconds / before.seconds).clamp(1.5, steepest);
        let single = last.seconds * growth * self.layers.len() as f64;
        // Warm-up, a repetition and no more further ones than patience allows, and about half a pass for the state.
        single * 2.5 + patience.enough.as_secs_f64().min(single * (patience.repetitions - 1) as f64)
    }

    fn point(&self, input: Input, patience: Patience, device: &Device, context: &Context<'_>) -> Point {
        let Input { batch, map: [rows, columns], width, side } = input;
        let x = Tensor::<4>::random([batch, rows, columns, width], Distribution::Normal(0.0, 1.0), device);
        sync(device);
        let cost = measure(context.memory, patience, || {
            for layer in &self.layers {
                let x = x.clone().require_grad();
                let y = layer.forward(x.clone());
                // A cotangent that is not constant, as in training.
                let grads = (y.clone() * y.detach()).sum().backward();
                let grad = x.grad(&grads);
                sync(device);
                drop(grad);
            }
        });
        let (tokens, count) = (input.tokens(), self.layers.len());
        let state_bytes = self.layers.iter().map(|layer| layer.state_bytes(tokens, width, device)).sum::<usize>() / count;
        Point { tokens, side, seconds: cost.seconds / count as f64, peak_bytes: cost.peak_bytes, state_bytes }
    }
}
