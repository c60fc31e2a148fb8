//! Norms of each channel over all tokens: statistics, output and gradients, each one pass over memory.

use burn::{
    backend::{Flex, tensor::FloatTensor},
    tensor::TensorData,
};
use rayon::prelude::*;

use super::{
    activation::{len, slice, tensor},
    parts::in_parts,
};
use crate::blocks::simd::vectorised;

type Flat = FloatTensor<Flex>;

/// Numbers per task; whole tokens. It also fixes the order of the sums over tokens, whatever the number of threads.
const TASK: usize = 32 * 1024;

fn per_task(width: usize) -> usize {
    (TASK / width.max(1)).max(1) * width.max(1)
}

/// Mean and variance of each channel, the last axis.
pub(super) struct Statistics {
    pub(super) mean: Vec<f32>,
    pub(super) variance: Vec<f32>,
}

/// The statistics of all tokens of contiguous maps.
pub(super) fn statistics(x: &Flat, width: usize) -> Statistics {
    let parts: Vec<[Vec<f32>; 2]> = slice(x).par_chunks(per_task(width)).map(|part| of_part(part, width)).collect();
    let (mut mean, mut squares, mut count) = (vec![0.0_f64; width], vec![0.0_f64; width], 0.0);
    for (i, [part_mean, part_squares]) in parts.iter().enumerate() {
        // Squares are of differences from the part's own mean: a large mean takes nothing from a small variance.
        let tokens = (per_task(width).min(len(x) - i * per_task(width)) / width) as f64;
        let (all, share) = (count + tokens, tokens / (count + tokens));
        for (c, (mean, squares)) in mean.iter_mut().zip(&mut squares).enumerate() {
            let difference = f64::from(part_mean[c]) - *mean;
            *mean += difference * share;
            *squares += f64::from(part_squares[c]) + difference * difference * count * share;
        }
        count = all;
    }
    let variance = squares.iter().map(|squares| (squares / count) as f32).collect();
    Statistics { mean: mean.iter().map(|mean| *mean as f32).collect(), variance }
}

vectorised! {
    /// The mean of each channel, and the sum of the squares of the differences from it.
    fn of_part<'a>(x: &'a [f32], width: usize) -> [Vec<f32>; 2] {
        let (mut mean, mut squares) = (vec![0.0_f32; width], vec![0.0_f32; width]);
        for token in x.chunks_exact(width) {
            mean.iter_mut().zip(token).for_each(|(mean, x)| *mean += x);
        }
        let share = width as f32 / x.len() as f32;
        for mean in &mut mean {
            *mean *= share;
        }
        for token in x.chunks_exact(width) {
            for ((squares, x), mean) in squares.iter_mut().zip(token).zip(&mean) {
                let difference = x - mean;
                *squares = difference.mul_add(difference, *squares);
            }
        }
        [mean, squares]
    }
}

/// What the tokens are multiplied by after their means have been taken off: `1/√(σ² + ε)`.
pub(super) fn factors(variance: &[f32], epsilon: f64) -> Vec<f32> {
    variance.iter().map(|variance| (1.0 / (f64::from(*variance) + epsilon).sqrt()) as f32).collect()
}

/// `γ (x − μ) f + β`
pub(super) fn forward(x: &Flat, [mean, factor]: [&[f32]; 2], [gamma, beta]: [&Flat; 2]) -> Flat {
    let [gamma, beta] = [gamma, beta].map(Flat::to_contiguous);
    let scale: Vec<f32> = slice(&gamma).iter().zip(factor).map(|(gamma, factor)| gamma * factor).collect();
    let (x_values, beta, part) = (slice(x), slice(&beta), per_task(mean.len()));
    let ([y], _) = in_parts(x_values.len(), part, |start, [y]| scaled(y, &x_values[start..], [mean, &scale, beta]));
    tensor(y, x)
}

vectorised! {
    fn scaled<'a>(y: &'a mut [f32], x: &'a [f32], channels: [&'a [f32]; 3]) -> () {
        let [mean, scale, beta] = channels;
        let width = mean.len();
        for (y, x) in y.chunks_exact_mut(width).zip(x.chunks_exact(width)) {
            for c in 0..width {
                y[c] = (x[c] - mean[c]).mul_add(scale[c], beta[c]);
            }
        }
    }
}

/// The gradients of maps, γ and β, given the mean and the factor of each channel: with `z = (x − μ) f`, `dβ = Σ dy`, `dγ = Σ dy z` and
/// `dx = γ f (dy − (dβ + z dγ)/N)`.
pub(super) fn backward(x: &Flat, gamma: &Flat, [mean, factor]: [&[f32]; 2], grad: &Flat) -> [Flat; 3] {
    let [gamma, grad] = [gamma, grad].map(Flat::to_contiguous);
    let (width, part) = (mean.len(), per_task(mean.len()));
    let (x_values, grad_values) = (slice(x), slice(&grad));
    let parts = x_values.par_chunks(part).zip(grad_values.par_chunks(part));
    let parts: Vec<[Vec<f32>; 2]> = parts.map(|(x, grad)| sums(x, grad, [mean, factor])).collect();
    let mut totals = [vec![0.0_f64; width], vec![0.0_f64; width]];
    for part in &parts {
        for (total, part) in totals.iter_mut().zip(part) {
            total.iter_mut().zip(part).for_each(|(total, x)| *total += f64::from(*x));
        }
    }
    let share = width as f64 / x_values.len() as f64;
    let mut of_mean = Vec::with_capacity(width);
    let mut of_scale = Vec::with_capacity(width);
    let mut outer = Vec::with_capacity(width);
    for c in 0..width {
        of_mean.push((totals[0][c] * share) as f32);
        of_scale.push((totals[1][c] * share) as f32 * factor[c]);
        outer.push(slice(&gamma)[c] * factor[c]);
    }
    let ([dx], _) = in_parts(x_values.len(), part, |start, [dx]| {
        inputs(dx, [&x_values[start..], &grad_values[start..]], [mean, &of_mean, &of_scale, &outer]);
    });
    let [d_beta, d_gamma] = totals.map(|total| {
        let values: Vec<f32> = total.iter().map(|total| *total as f32).collect();
        Flat::from_data(TensorData::new(values, [width]))
    });
    [tensor(dx, x), d_gamma, d_beta]
}

vectorised! {
    /// `Σ dy` and `Σ dy z` of some tokens.
    fn sums<'a>(x: &'a [f32], grad: &'a [f32], channels: [&'a [f32]; 2]) -> [Vec<f32>; 2] {
        let [mean, factor] = channels;
        let width = mean.len();
        let (mut plain, mut weighed) = (vec![0.0_f32; width], vec![0.0_f32; width]);
        for (x, grad) in x.chunks_exact(width).zip(grad.chunks_exact(width)) {
            for c in 0..width {
                plain[c] += grad[c];
                weighed[c] = grad[c].mul_add(x[c] - mean[c], weighed[c]);
            }
        }
        weighed.iter_mut().zip(factor).for_each(|(sum, factor)| *sum *= factor);
        [plain, weighed]
    }
}

vectorised! {
    fn inputs<'a>(dx: &'a mut [f32], rows: [&'a [f32]; 2], channels: [&'a [f32]; 4]) -> () {
        let ([x, grad], [mean, of_mean, of_scale, outer]) = (rows, channels);
        let width = mean.len();
        let tokens = x.chunks_exact(width).zip(grad.chunks_exact(width));
        for (dx, (x, grad)) in dx.chunks_exact_mut(width).zip(tokens) {
            for c in 0..width {
                dx[c] = outer[c] * (mean[c] - x[c]).mul_add(of_scale[c], grad[c] - of_mean[c]);
            }
        }
    }
}
