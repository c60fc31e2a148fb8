use burn::tensor::{DType, Device, Tensor};
use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use regard::kimi_delta::{KimiDeltaOptions, kimi_delta, reference};

use super::super::{
    Finding, Lab,
    values::{Values, generator, numbers, relative_error},
};
use crate::Result;

const CHUNKS: [usize; 5] = [1, 16, 32, 64, 128];
const PARTS: [&str; 8] = ["o", "state", "dq", "dk", "dv", "dg", "dβ", "dS₀"];

struct Case {
    /// q, k, v, g, initial state.
    inputs: [Values<4>; 5],
    beta: Values<3>,
    cotangents: [Values<4>; 2],
    width: usize,
}

impl Case {
    fn draw(generator: &mut ChaCha8Rng, t: usize) -> Self {
        let (b, h, k, v) = (1, generator.random_range(1..=2), generator.random_range(4..=20_usize), generator.random_range(4..=20));
        // Keys of about unit length, as the layer makes them.
        let unit = 1.0 / (k as f64).sqrt();
        // Log decays spread evenly over their orders of magnitude.
        let decay = |x: f64| -(10.0_f64.powf(x));
        let g = Values::between(generator, [b, t, h, k], -4.0, 30.0_f64.log10()).map(decay);
        let mut between = |shape, size: f64| Values::between(generator, shape, -size, size);
        let inputs =
            [between([b, t, h, k], 1.7), between([b, t, h, k], 1.7 * unit), between([b, t, h, v], 1.0), g, between([b, h, k, v], 0.5)];
        let cotangents = [between([b, t, h, v], 1.0), between([b, h, k, v], 1.0)];
        Self { inputs, beta: Values::between(generator, [b, t, h], 0.0, 1.0), cotangents, width: k }
    }

    /// Outputs and gradients of the chunkwise form, or without a chunk of the recurrence.
    fn run(&self, chunk: Option<usize>, device: &Device, dtype: DType) -> Result<[Vec<f64>; 8]> {
        let [q, k, v, g, state] = self.inputs.each_ref().map(|x| x.place(device, dtype).require_grad());
        let beta = self.beta.place(device, dtype).require_grad();
        let (o, last) = if let Some(chunk) = chunk {
            let options = KimiDeltaOptions { chunk, initial_state: Some(state.clone()), ..KimiDeltaOptions::default() };
            kimi_delta(q.clone(), k.clone(), v.clone(), g.clone(), beta.clone(), options)?
        } else {
            let scale = 1.0 / (self.width as f64).sqrt();
            reference::recurrent(q.clone(), k.clone(), v.clone(), g.clone(), beta.clone(), scale, state.clone())
        };
        let [out_cotangent, state_cotangent] = self.cotangents.each_ref().map(|x| x.place(device, dtype));
        let gradients = ((o.clone() * out_cotangent).sum() + (last.clone() * state_cotangent).sum()).backward();
        let gradient = |x: &Tensor<4>| x.grad(&gradients).map(numbers).unwrap_or_default();
        let beta = beta.grad(&gradients).map(numbers).unwrap_or_default();
        Ok([numbers(o.inner()), numbers(last.inner()), gradient(&q), gradient(&k), gradient(&v), gradient(&g), beta, gradient(&state)])
    }
}

pub(super) fn test(lab: &mut Lab<'_, '_>) -> Result<Finding> {
    let count = lab.quick_or(12, 100);
    let device = lab.device().autodiff();
    let mut worst = [[[0.0_f64; 8]; 2]; CHUNKS.len()];
    for seed in 0..count {
        lab.note(&format!("configuration {} of {count}", seed + 1))?;
        let mut generator = generator(seed);
        // Both ends of the range, and lengths between them.
        let t = match seed {
            0 => 1,
            1 => 300,
            _ => generator.random_range(1..=lab.quick_or(150, 300)),
        };
        let case = Case::draw(&mut generator, t);
        let want = case.run(None, &device, DType::F64)?;
        for (chunk, worst) in CHUNKS.into_iter().zip(&mut worst) {
            for (dtype, worst) in [DType::F32, DType::F64].into_iter().zip(worst) {
                let got = case.run(Some(chunk), &device, dtype)?;
                for ((got, want), worst) in got.iter().zip(&want).zip(worst) {
                    *worst = worst.max(relative_error(got, want));
                }
            }
        }
    }
    let highest = |wide: usize| worst.iter().flat_map(|chunk| chunk[wide]).fold(0.0, f64::max);
    let (single, double) = (highest(0), highest(1));
    let rows = CHUNKS.iter().zip(&worst).flat_map(|(chunk, types)| {
        ["f32", "f64"].iter().zip(types).map(move |(dtype, parts)| {
            let mut row = vec![chunk.to_string(), (*dtype).to_owned()];
            row.extend(parts.iter().map(|error| format!("{error:.1e}")));
            row
        })
    });
    let columns: Vec<_> = ["chunk", "type"].into_iter().chain(PARTS).collect();
    Ok(Finding::new(double < 1e-10 && single < 1e-4, format!("largest error {double:.1e} in f64, {single:.1e} in f32"))
        .note(format!(
            "{count} configurations with initial states, against the recurrence in f64; relative to the largest number of a tensor"
        ))
        .table("Largest relative errors", &columns, rows.collect()))
}
