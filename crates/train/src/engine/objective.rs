use std::ops::AddAssign;

use burn::tensor::{DType, Device, Tensor, TensorData, activation::log_softmax};
use regard::blocks::cross_entropy;
use regard_models::Model;

use crate::tasks::{Examples, Samples, Targets};

const FITS: &str = "the task and the model were checked against each other before the run";

/// Mean loss of a batch, in f32: cross entropy in nats of tokens or classes, squared error of numbers. `dtype` is that of the weights.
///
/// # Panics
/// If the model is not one for the task: [`Task::fit`](crate::Task::fit) guarantees it.
pub(super) fn loss(model: &Model, samples: &Samples, ignore: Option<usize>, dtype: DType, device: &Device) -> Tensor<1> {
    match samples {
        Samples::Tokens(batch) => {
            let [ids, targets] = batch.tensors(device);
            model.decoder().expect(FITS).loss(ids, targets, ignore)
        }
        Samples::Examples(examples) => {
            let answers = answers(model, examples, dtype, device);
            match &examples.targets {
                Targets::Classes(classes) => cross_entropy(rows(answers), class_tensor(classes, device), None),
                Targets::Shares { values, .. } => share_loss(rows(answers), values, device),
                Targets::Numbers { values, shape, asked } => {
                    let (errors, count) = errors(answers, values, *shape, asked.as_deref(), device);
                    errors.square().sum() / count as f64
                }
            }
        }
    }
}

/// Sums over the targets of a batch.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Score {
    /// Losses.
    pub(super) loss: f64,
    /// Targets that are the most likely answer, where that is asked.
    pub(super) hits: Option<f64>,
    /// Absolute errors, of numbers.
    pub(super) absolute: Option<f64>,
    /// Number of targets.
    pub(super) count: usize,
}

impl AddAssign for Score {
    fn add_assign(&mut self, other: Self) {
        let add = |a: Option<f64>, b: Option<f64>| a.or(b.map(|_| 0.0)).map(|a| a + b.unwrap_or_default());
        *self = Self {
            loss: self.loss + other.loss,
            hits: add(self.hits, other.hits),
            absolute: add(self.absolute, other.absolute),
            count: self.count + other.count,
        };
    }
}

/// How well a model answers.
///
/// # Panics
/// As [`loss`].
pub(super) fn score(model: &Model, samples: &Samples, ignore: Option<usize>, device: &Device) -> Score {
    let number = |x: Tensor<1>| f64::from(x.into_scalar::<f32>());
    match samples {
        Samples::Tokens(batch) => {
            let [ids, targets] = batch.tensors(device);
            let count = batch.targets.iter().filter(|&&target| Some(target as usize) != ignore).count();
            let model = model.decoder().expect(FITS);
            let (loss, hits) = if let Some(ignore) = ignore {
                let logits = model.forward(ids, None);
                let [b, t, v] = logits.dims();
                let (logits, targets) = (logits.reshape([b * t, v]), targets.reshape([b * t]));
                let most_likely = logits.clone().argmax(1).squeeze_dim::<1>(1).equal(targets.clone());
                let hit = most_likely.bool_and(targets.clone().not_equal_elem(ignore as i64));
                (cross_entropy(logits, targets, Some(ignore)), Some(number(hit.float().sum())))
            } else {
                (model.loss(ids, targets, None), None)
            };
            Score { loss: number(loss) * count as f64, hits, absolute: None, count }
        }
        Samples::Examples(examples) => {
            let answers = answers(model, examples, DType::F32, device);
            match &examples.targets {
                Targets::Classes(classes) => {
                    let (logits, targets) = (rows(answers), class_tensor(classes, device));
                    let hit = logits.clone().argmax(1).squeeze_dim::<1>(1).equal(targets.clone());
                    let loss = number(cross_entropy(logits, targets, None)) * examples.count as f64;
                    Score { loss, hits: Some(number(hit.float().sum())), absolute: None, count: examples.count }
                }
                Targets::Shares { values, .. } => {
                    let loss = number(share_loss(rows(answers), values, device)) * examples.count as f64;
                    Score { loss, hits: None, absolute: None, count: examples.count }
                }
                Targets::Numbers { values, shape, asked } => {
                    let (errors, count) = errors(answers, values, *shape, asked.as_deref(), device);
                    let absolute = Some(number(errors.clone().abs().sum()));
                    Score { loss: number(errors.square().sum()), hits: None, absolute, count }
                }
            }
        }
    }
}

/// What a model with weights of that float type answers to examples, in f32. `[B, rows, outputs]`
fn answers(model: &Model, examples: &Examples, dtype: DType, device: &Device) -> Tensor<3> {
    let answers = match model {
        Model::Encoder(model) => {
            let padding = examples.padding(device);
            match examples.tokens(device) {
                Some(ids) => model.forward_tokens(ids, padding),
                None => model.forward_numbers(numbers(examples, dtype, device), padding),
            }
        }
        Model::Image(model) => model.forward(numbers(examples, dtype, device)).map(|logits| logits.unsqueeze_dim(1)),
        Model::FlowformerVision(model) => model.forward(numbers(examples, dtype, device)).map(|logits| logits.unsqueeze_dim(1)),
        Model::FlowformerSeries(model) => {
            model.forward(numbers(examples, dtype, device), examples.padding(device)).map(|logits| logits.unsqueeze_dim(1))
        }
        Model::Decoder(_) => panic!("{FITS}"),
    };
    answers.expect(FITS).cast(DType::F32)
}

fn numbers<const D: usize>(examples: &Examples, dtype: DType, device: &Device) -> Tensor<D> {
    examples.numbers::<D>(device).expect(FITS).cast(dtype)
}

/// `[B, 1, classes]` as `[B, classes]`.
fn rows(logits: Tensor<3>) -> Tensor<2> {
    logits.squeeze_dim(1)
}

/// Mean cross entropy `−Σ_c share_c ln softmax(logits)_c`.
fn share_loss(logits: Tensor<2>, shares: &[f32], device: &Device) -> Tensor<1> {
    let [b, classes] = logits.dims();
    let shares = Tensor::<2>::from_data(TensorData::new(shares.to_vec(), [b, classes]), device);
    (log_softmax(logits, 1) * shares).sum().neg() / b as f64
}

fn class_tensor(classes: &[u32], device: &Device) -> Tensor<1, burn::tensor::Int> {
    let classes: Vec<i32> = classes.iter().map(|class| class.cast_signed()).collect();
    let count = classes.len();
    Tensor::from_data(TensorData::new(classes, [count]), device)
}

/// Differences of answers and numbers in the rows that are asked for, zeros in others, and how many are asked for.
fn errors(answers: Tensor<3>, values: &[f32], [rows, width]: [usize; 2], asked: Option<&[bool]>, device: &Device) -> (Tensor<3>, usize) {
    let [b, ..] = answers.dims();
    let wanted = Tensor::<3>::from_data(TensorData::new(values.to_vec(), [b, rows, width]), device);
    let errors = answers - wanted;
    match asked {
        None => (errors, b * rows * width),
        Some(asked) => {
            let mask: Vec<f32> = asked.iter().map(|asked| f32::from(u8::from(*asked))).collect();
            let mask = Tensor::<3>::from_data(TensorData::new(mask, [b, rows, 1]), device);
            (errors * mask, asked.iter().filter(|asked| **asked).count() * width)
        }
    }
}
