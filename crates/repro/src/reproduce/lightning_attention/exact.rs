use burn::tensor::{DType, Device, Tensor};
use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use regard::lightning_attention::{DecayRule, LightningOpts, Variant, lightning_attention};

use super::super::{
    Finding, Lab,
    values::{Values, generator, numbers, relative_error},
};
use crate::Result;

/// The recurrent form keeps a state per token for its gradients: only where they have at most this many numbers.
const RECURRENT_LIMIT: usize = 20_000_000;

/// One random configuration.
struct Case {
    inputs: [Values<4>; 3],
    /// Cotangents of output and final state.
    cotangents: [Values<4>; 2],
    slopes: Vec<f64>,
    block: usize,
    /// Lengths of prefill chunks.
    chunks: Vec<usize>,
    recurrent: bool,
}

impl Case {
    fn draw(generator: &mut ChaCha8Rng, longest: usize) -> Self {
        let mut size = |low: usize, high: usize| generator.random_range(low..=high);
        let (b, h, n, d, e) = (size(1, 2), size(1, 12), size(1, longest), size(1, 130), size(1, 130));
        let rule = [DecayRule::Code, DecayRule::Paper][size(0, 1)];
        let slopes = rule.slopes(h, 4, size(0, 3));
        let block = size(1, 100);
        let mut chunks = Vec::new();
        let mut left = n;
        while left > 0 {
            let chunk = size(1, left);
            chunks.push(chunk);
            left -= chunk;
        }
        let shapes = [[b, h, n, d], [b, h, n, d], [b, h, n, e]];
        Self {
            inputs: shapes.map(|shape| Values::draw(generator, shape)),
            cotangents: [[b, h, n, e], [b, h, d, e]].map(|shape| Values::draw(generator, shape)),
            slopes,
            block,
            chunks,
            recurrent: b * h * n * d * e <= RECURRENT_LIMIT,
        }
    }

    /// Output, final state and the three gradients.
    fn run(&self, form: Form, device: &Device, dtype: DType) -> Result<[Vec<f64>; 5]> {
        let [q, k, v] = self.inputs.each_ref().map(|x| x.place(device, dtype).require_grad());
        let options = |variant| LightningOpts { variant, block: self.block, ..LightningOpts::default() };
        let (o, state) = match form {
            Form::Whole(variant) => lightning_attention(q.clone(), k.clone(), v.clone(), &self.slopes, options(variant))?,
            Form::Chunks => {
                let (mut start, mut state, mut outs) = (0, None, Vec::new());
                for &length in &self.chunks {
                    let [q, k, v] = [&q, &k, &v].map(|x| x.clone().narrow(2, start, length));
                    let options = LightningOpts { initial_state: state, ..options(Variant::Tiled) };
                    let (o, next) = lightning_attention(q, k, v, &self.slopes, options)?;
                    outs.push(o);
                    (state, start) = (Some(next), start + length);
                }
                let state = state.unwrap_or_else(|| Tensor::zeros([0, 0, 0, 0], device));
                (Tensor::cat(outs, 2), state)
            }
        };
        let [out_cotangent, state_cotangent] = self.cotangents.each_ref().map(|x| x.place(device, dtype));
        let loss = (o.clone() * out_cotangent).sum() + (state.clone() * state_cotangent).sum();
        let gradients = loss.backward();
        let gradient = |x: &Tensor<4>| x.grad(&gradients).map(numbers).unwrap_or_default();
        Ok([numbers(o.inner()), numbers(state.inner()), gradient(&q), gradient(&k), gradient(&v)])
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Form {
    Whole(Variant),
    Chunks,
}

const FORMS: [(&str, Form); 4] = [
    ("tiled", Form::Whole(Variant::Tiled)),
    ("tiled, in prefill chunks", Form::Chunks),
    ("parallel scan", Form::Whole(Variant::ParallelScan)),
    ("recurrent", Form::Whole(Variant::Recurrent)),
];
const PARTS: [&str; 5] = ["o", "state", "dq", "dk", "dv"];

pub(super) fn test(lab: &mut Lab<'_, '_>) -> Result<Finding> {
    let (count, longest) = lab.quick_or((24, 200), (200, 700));
    let device = lab.device().autodiff();
    // Worst error of each form, type and part.
    let mut worst = [[[0.0_f64; 5]; 2]; 4];
    let mut recurrent = 0;
    for seed in 0..count {
        lab.note(&format!("configuration {} of {count}", seed + 1))?;
        let case = Case::draw(&mut generator(seed), longest);
        let want = case.run(Form::Whole(Variant::LeftProduct), &device, DType::F64)?;
        recurrent += usize::from(case.recurrent);
        for (form, (_, kind)) in FORMS.iter().enumerate() {
            if *kind == Form::Whole(Variant::Recurrent) && !case.recurrent {
                continue;
            }
            for (wide, dtype) in [DType::F32, DType::F64].into_iter().enumerate() {
                let got = case.run(*kind, &device, dtype)?;
                for (part, (got, want)) in got.iter().zip(&want).enumerate() {
                    let error = &mut worst[form][wide][part];
                    *error = error.max(relative_error(got, want));
                }
            }
        }
    }
    let highest = |wide: usize| worst.iter().flat_map(|form| form[wide]).fold(0.0, f64::max);
    let (single, double) = (highest(0), highest(1));
    let rows = FORMS.iter().zip(&worst).flat_map(|((name, _), form)| {
        ["f32", "f64"].iter().zip(form).map(move |(dtype, parts)| {
            let mut row = vec![(*name).to_owned(), (*dtype).to_owned()];
            row.extend(parts.iter().map(|error| format!("{error:.1e}")));
            row
        })
    });
    let columns: Vec<_> = ["form", "type"].into_iter().chain(PARTS).collect();
    Ok(Finding::new(double < 1e-12 && single < 1e-5, format!("largest error {double:.1e} in f64, {single:.1e} in f32"))
        .note(format!("{count} configurations, N up to {longest}, against the left product in f64; the recurrent form in {recurrent} of them, where its states fit"))
        .table("Largest relative errors", &columns, rows.collect()))
}
