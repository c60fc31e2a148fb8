use burn::tensor::{Bool, DType, Device, Tensor, TensorData};
use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use regard::nprf::{NprfAlgorithm, NprfOptions, nprf, nprf_grid};

use super::super::{
    Finding, Lab,
    values::{Values, generator, numbers},
};
use crate::Result;

const PARTS: [&str; 7] = ["o", "log den", "dq", "dk", "dv", "dW", "db"];
const LIMIT: f64 = 1e-5;

/// One random configuration.
struct Case {
    qkv: [Values<4>; 3],
    projection: Values<3>,
    bias: Bias,
    cotangents: (Values<4>, Values<3>),
    /// One per key, `true` = hidden.
    hidden: Option<Vec<bool>>,
    causal: bool,
}

enum Bias {
    Line(Values<2>),
    Grid(Values<3>, Option<Values<2>>),
}

impl Case {
    fn line(generator: &mut ChaCha8Rng, n: usize, causal: bool, masked: bool) -> Self {
        let heads = generator.random_range(1..=2);
        let bias = Bias::Line(Values::between(generator, [heads, 2 * n - 1], -2.0, 2.0));
        Self::draw(generator, [heads, n], bias, causal, masked)
    }

    fn grid(generator: &mut ChaCha8Rng, [rows, columns]: [usize; 2], class: bool, masked: bool) -> Self {
        let heads = generator.random_range(1..=2);
        let table = Values::between(generator, [heads, 2 * rows - 1, 2 * columns - 1], -2.0, 2.0);
        let class_biases = class.then(|| Values::between(generator, [heads, 3], -2.0, 2.0));
        Self::draw(generator, [heads, rows * columns + usize::from(class)], Bias::Grid(table, class_biases), false, masked)
    }

    fn draw(generator: &mut ChaCha8Rng, [heads, n]: [usize; 2], bias: Bias, causal: bool, masked: bool) -> Self {
        let mut size = |low: usize, high: usize| generator.random_range(low..=high);
        let (batch, width, value_width, features) = (size(1, 2), size(2, 16), size(1, 16), size(1, 16));
        let hidden = masked.then(|| (0..batch * n).map(|_| size(0, 3) == 0).collect());
        let shapes = [[batch, heads, n, width], [batch, heads, n, width], [batch, heads, n, value_width]];
        Self {
            qkv: shapes.map(|shape| Values::draw(generator, shape)),
            projection: Values::between(generator, [heads, features, width], -1.7, 1.7),
            bias,
            cotangents: (Values::draw(generator, [batch, heads, n, value_width]), Values::draw(generator, [batch, heads, n])),
            hidden,
            causal,
        }
    }

    /// Output, logarithms of the denominators, and gradients.
    fn run(&self, algorithm: NprfAlgorithm, device: &Device) -> Result<[Vec<f64>; 7]> {
        let [q, k, v] = self.qkv.each_ref().map(|x| x.place(device, DType::F32).require_grad());
        let w = self.projection.place(device, DType::F32).require_grad();
        let [batch, _, n, _] = q.dims();
        let key_mask = self.hidden.as_ref().map(|hidden| Tensor::<2, Bool>::from_data(TensorData::new(hidden.clone(), [batch, n]), device));
        let options = NprfOptions { causal: self.causal, key_mask, algorithm, ..NprfOptions::default() };
        let inputs = (q.clone(), k.clone(), v.clone(), w.clone());
        let (o, log, bias) = match &self.bias {
            Bias::Line(bias) => {
                let bias = bias.place(device, DType::F32).require_grad();
                let (o, log) = nprf(inputs.0, inputs.1, inputs.2, inputs.3, Some(bias.clone()), &options)?;
                (o, log, (Some(bias), None, None))
            }
            Bias::Grid(table, class) => {
                let table = table.place(device, DType::F32).require_grad();
                let class = class.as_ref().map(|class| class.place(device, DType::F32).require_grad());
                let (o, log) = nprf_grid(inputs.0, inputs.1, inputs.2, inputs.3, table.clone(), class.clone(), &options)?;
                (o, log, (None, Some(table), class))
            }
        };
        // A query that sees no key has the logarithm of 0, in both ways.
        let blind = log.clone().equal_elem(f64::NEG_INFINITY);
        let log = log.mask_fill(blind, 0.0);
        let (d_o, d_log) = (self.cotangents.0.place(device, DType::F32), self.cotangents.1.place(device, DType::F32));
        let gradients = ((o.clone() * d_o).sum() + (log.clone() * d_log).sum()).backward();
        let gradient = |x: &Tensor<4>| x.grad(&gradients).map(numbers).unwrap_or_default();
        let mut d_bias = Vec::new();
        d_bias.extend(bias.0.and_then(|x| x.grad(&gradients)).map(numbers).unwrap_or_default());
        d_bias.extend(bias.1.and_then(|x| x.grad(&gradients)).map(numbers).unwrap_or_default());
        d_bias.extend(bias.2.and_then(|x| x.grad(&gradients)).map(numbers).unwrap_or_default());
        let d_w = w.grad(&gradients).map(numbers).unwrap_or_default();
        Ok([numbers(o.inner()), numbers(log.inner()), gradient(&q), gradient(&k), gradient(&v), d_w, d_bias])
    }
}

/// The largest errors of all parts on their scales.
fn errors(got: &[Vec<f64>; 7], want: &[Vec<f64>; 7]) -> [f64; 7] {
    let largest = |x: &Vec<f64>| x.iter().fold(0.0_f64, |m, x| m.max(x.abs()));
    let all = want.iter().map(largest).fold(1e-30, f64::max);
    std::array::from_fn(|part| {
        if got[part].len() != want[part].len() || got[part].is_empty() {
            return f64::INFINITY;
        }
        // What cancels to less holds nothing but rounding.
        let scale = largest(&want[part]).max(1e-3 * all);
        let error = |(a, b): (&f64, &f64)| if a.is_finite() && b.is_finite() { (a - b).abs() / scale } else { f64::INFINITY };
        got[part].iter().zip(&want[part]).map(error).fold(0.0, f64::max)
    })
}

pub(super) fn test(lab: &mut Lab<'_, '_>) -> Result<Finding> {
    let device = lab.device().autodiff();
    let lengths: Vec<usize> = if lab.is_quick() { (1..=257).step_by(8).chain([2, 3, 64, 128, 256]).collect() } else { (1..=257).collect() };
    let grids = [[1, 1], [1, 9], [9, 1], [2, 2], [3, 5], [7, 4], [8, 8], [14, 14]];
    let kinds = ["bidirectional", "bidirectional, masked", "causal", "causal, masked", "grid", "grid, masked"];
    let mut worst = [[0.0_f64; 7]; 6];
    let (mut configurations, mut generator) = (0, generator(11));
    let mut compare = |kind: usize, case: &Case| -> Result<()> {
        let (got, want) = (case.run(NprfAlgorithm::Fft, &device)?, case.run(NprfAlgorithm::Dense, &device)?);
        for (worst, error) in worst[kind].iter_mut().zip(errors(&got, &want)) {
            *worst = worst.max(error);
        }
        configurations += 1;
        Ok(())
    };
    for (index, &n) in lengths.iter().enumerate() {
        if index.is_multiple_of(16) {
            lab.note(&format!("N = {n}, length {} of {}", index + 1, lengths.len()))?;
        }
        for kind in 0..4 {
            compare(kind, &Case::line(&mut generator, n, kind >= 2, kind % 2 == 1))?;
        }
    }
    for size in grids {
        lab.note(&format!("grid {size:?}"))?;
        for kind in 0..4 {
            compare(4 + kind % 2, &Case::grid(&mut generator, size, kind >= 2, kind % 2 == 1))?;
        }
    }
    let largest = worst.as_flattened().iter().copied().fold(0.0, f64::max);
    let rows = kinds
        .iter()
        .zip(&worst)
        .map(|(kind, errors)| std::iter::once((*kind).to_owned()).chain(errors.iter().map(|error| format!("{error:.1e}"))).collect());
    let columns: Vec<_> = ["kind"].into_iter().chain(PARTS).collect();
    Ok(Finding::new(largest <= LIMIT, format!("largest error {largest:.1e} over {configurations} configurations"))
        .note("f32, H ≤ 2, B ≤ 2, K, V, M ≤ 16; grids from 1 × 1 to 14 × 14 with and without a class token")
        .table("Largest errors on their scales", &columns, rows.collect()))
}
