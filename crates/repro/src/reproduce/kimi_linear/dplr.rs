use std::{hint::black_box, time::Instant};

use burn::tensor::{Device, Distribution, Tensor, activation};
use regard::kimi_delta::{
    KimiDeltaOptions,
    dplr::{DplrOptions, dplr},
    kimi_delta,
};
use regard_train::report::Quantity;

use super::super::{
    Figure, FigureKind, Finding, Lab,
    values::{median, numbers, relative_error},
};
use crate::{Result, machine::sync};

const HEADS: usize = 4;
const WIDTH: usize = 64;
/// The rule looks at lengths from here on.
const FROM: usize = 2048;
const LIMIT: f64 = 0.65;
/// Each form is timed with each of these, and its fastest counts.
const CHUNKS: [usize; 3] = [32, 64, 128];

/// The same recurrence in both forms.
struct Problem {
    /// q, k, v, g. `[1, T, H, K]`
    kda: [Tensor<4>; 4],
    beta: Tensor<3>,
    /// q, k, g, a, b.
    keys: [Tensor<4>; 5],
    values: Tensor<4>,
}

impl Problem {
    fn draw(tokens: usize, device: &Device) -> Self {
        let draw = || Tensor::<4>::random([1, tokens, HEADS, WIDTH], Distribution::Normal(0.0, 1.0), device);
        let unit = |x: Tensor<4>| x.clone() / x.powf_scalar(2.0).sum_dim(3).sqrt().add_scalar(1e-6);
        let (q, k, v) = (unit(draw()), unit(draw()), draw());
        // Log decays and strengths as gates give them.
        let g = activation::log_sigmoid(draw() + 3.0);
        let beta = activation::sigmoid(draw()).narrow(3, 0, 1);
        let keys = [q.clone(), k.clone(), g.clone(), k.clone() * beta.clone(), k.clone() * g.clone().exp()];
        Self { values: v.clone() * beta.clone(), beta: beta.squeeze_dim(3), kda: [q, k, v, g], keys }
    }

    fn kda(&self, chunk: usize) -> Result<Tensor<4>> {
        let [q, k, v, g] = self.kda.clone();
        let options = KimiDeltaOptions { chunk, check_decay: false, ..KimiDeltaOptions::default() };
        Ok(kimi_delta(q, k, v, g, self.beta.clone(), options)?.0)
    }

    fn dplr(&self, chunk: usize) -> Result<Tensor<4>> {
        let options = DplrOptions { chunk, check_decay: false, ..DplrOptions::default() };
        Ok(dplr(self.keys.clone(), self.values.clone(), options)?.0)
    }
}

pub(super) fn test(lab: &mut Lab<'_, '_>) -> Result<Finding> {
    let device = lab.device();
    device.seed(1);
    let repetitions = lab.quick_or(15, 51);
    let (mut rows, mut lines, mut worst, mut difference) = (Vec::new(), [Vec::new(), Vec::new()], 0.0_f64, 0.0_f64);
    for tokens in (10..=14).map(|power| 1 << power) {
        lab.note(&format!("{tokens} tokens"))?;
        let problem = Problem::draw(tokens, &device);
        let error = relative_error(&numbers(problem.dplr(64)?), &numbers(problem.kda(64)?));
        let mut times = [(); 2].map(|()| CHUNKS.map(|_| Vec::new()));
        // In turns, so that a busy machine disturbs all alike.
        for _ in 0..repetitions {
            for (times, form) in times.iter_mut().zip([Problem::kda, Problem::dplr]) {
                for (times, chunk) in times.iter_mut().zip(CHUNKS) {
                    let begun = Instant::now();
                    black_box(form(&problem, chunk)?);
                    sync(&device);
                    times.push(begun.elapsed().as_secs_f64());
                }
            }
        }
        let fastest = times.map(|times| {
            let medians = times.map(median).into_iter().zip(CHUNKS);
            medians.min_by(|a, b| a.0.total_cmp(&b.0)).unwrap_or((f64::NAN, 0))
        });
        let [(kda, kda_chunk), (general, general_chunk)] = fastest;
        let ratio = kda / general;
        if tokens >= FROM {
            worst = worst.max(ratio);
        }
        difference = difference.max(error);
        for (line, time) in lines.iter_mut().zip([kda, general]) {
            line.push((tokens as f64, time));
        }
        let time = |seconds| Quantity::Seconds.text(seconds, 3);
        let chunk = |chunk: usize| chunk.to_string();
        rows.push(vec![
            Quantity::Length.text(tokens as f64, 3),
            time(kda),
            chunk(kda_chunk),
            time(general),
            chunk(general_chunk),
            format!("{ratio:.3}"),
        ]);
    }
    let [kda, general] = lines;
    Ok(Finding::new(worst <= LIMIT, format!("at T >= 2k the forward pass takes at most {worst:.3} of the time of general DPLR"))
        .note(format!(
            "forward, B = 1, H = {HEADS}, K = V = {WIDTH}, f32, the fastest of chunks of 32, 64 and 128 for each form; medians of {repetitions} runs in turns; both forms compute the same \
             recurrence (a = beta k, b = exp(g) k), outputs differ by {difference:.1e}"
        ))
        .note("both on the CPU by fused kernels with the same blocks, vector code and threads; on other devices both by tensor operations")
        .table("Time of the forward pass", &["T", "KDA", "KDA chunk", "general DPLR", "DPLR chunk", "ratio"], rows)
        .figure(Figure::new("Time of the forward pass", FigureKind::Time, [("KDA".into(), kda), ("general DPLR".into(), general)])))
}
