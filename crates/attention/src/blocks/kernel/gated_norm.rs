use burn::{
    backend::{Flex, tensor::FloatTensor},
    tensor::TensorData,
};
use rayon::prelude::*;

use super::activation::{len, slice, tensor};
use crate::blocks::simd::{sigmoid, sum2, vectorised};

type Flat = FloatTensor<Flex>;

/// Rows per task. It also fixes the order in which the gradient of γ is summed, whatever the number of threads.
const ROWS: usize = 64;

/// `x / sqrt(mean(x²) + ε) ⊙ γ ⊙ sigmoid(gate)` of each row.
pub(super) fn forward([x, gamma, gate]: &[Flat; 3], epsilon: f64) -> Flat {
    let [whole, gamma, gate] = [x, gamma, gate].map(Flat::to_contiguous);
    let part = ROWS * len(&gamma);
    let mut y = vec![0.0_f32; len(&whole)];
    let inputs = slice(&whole).par_chunks(part).zip(slice(&gate).par_chunks(part));
    y.par_chunks_mut(part).zip(inputs).for_each(|(y, (x, gate))| outputs(y, [x, slice(&gamma), gate], epsilon as f32));
    tensor(y, x)
}
vectorised! {
    fn outputs<'a>(y: &'a mut [f32], inputs: [&'a [f32]; 3], epsilon: f32) -> () {
        let [x, gamma, gate] = inputs;
        let width = gamma.len();
        for ((y, x), gate) in y.chunks_exact_mut(width).zip(x.chunks_exact(width)).zip(gate.chunks_exact(width)) {
            let scale = scale(x, epsilon);
            for i in 0..width {
                y[i] = x[i] * scale * gamma[i] * sigmoid(gate[i]);
            }
        }
    }
}

#[inline(always)]
fn scale(x: &[f32], epsilon: f32) -> f32 {
    1.0 / (sum2(x, x, |x, y| x * y) / x.len() as f32 + epsilon).sqrt()
}

/// The gradients of `x`, γ and `gate`.
pub(super) fn backward([x, gamma, gate]: &[Flat; 3], epsilon: f64, grad: &Flat) -> [Flat; 3] {
    let [x, gamma, gate, grad] = [x, gamma, gate, grad].map(Flat::to_contiguous);
    let width = len(&gamma);
    let part = ROWS * width;
    let (mut dx, mut d_gate) = (vec![0.0_f32; len(&x)], vec![0.0_f32; len(&x)]);
    let inputs = slice(&x).par_chunks(part).zip(slice(&gate).par_chunks(part)).zip(slice(&grad).par_chunks(part));
    let outputs = dx.par_chunks_mut(part).zip(d_gate.par_chunks_mut(part));
    let partial: Vec<Vec<f32>> = outputs
        .zip(inputs)
        .map(|((dx, d_gate), ((x, gate), dy))| gradients([dx, d_gate], [x, slice(&gamma), gate, dy], epsilon as f32))
        .collect();
    let mut d_gamma = vec![0.0_f32; width];
    for part in &partial {
        for (total, value) in d_gamma.iter_mut().zip(part) {
            *total += value;
        }
    }
    [tensor(dx, &x), Flat::from_data(TensorData::new(d_gamma, [width])), tensor(d_gate, &x)]
}

vectorised! {
    /// With `h = x r`, `s = sigmoid(gate)`, `u = γ s dy`: `dx = r (u − h · mean(h u))`, `dγ = Σ s h dy`, `d gate = γ h dy s (1 − s)`.
    fn gradients<'a>(outputs: [&'a mut [f32]; 2], inputs: [&'a [f32]; 4], epsilon: f32) -> Vec<f32> {
        let ([dx, d_gate], [x, gamma, gate, dy]) = (outputs, inputs);
        let width = gamma.len();
        let mut d_gamma = vec![0.0_f32; width];
        let mut start = 0;
        while start < x.len() {
            let rows = start..start + width;
            let (x, gate, dy) = (&x[rows.clone()], &gate[rows.clone()], &dy[rows.clone()]);
            let (dx, d_gate) = (&mut dx[rows.clone()], &mut d_gate[rows]);
            let scale = scale(x, epsilon);
            for i in 0..width {
                let (s, h) = (sigmoid(gate[i]), x[i] * scale);
                dx[i] = gamma[i] * s * dy[i];
                d_gamma[i] += s * h * dy[i];
                d_gate[i] = dx[i] * h * (1.0 - s);
            }
            let mean = scale * sum2(x, dx, |x, u| x * u) / width as f32;
            for i in 0..width {
                dx[i] = scale * (dx[i] - x[i] * scale * mean);
            }
            start += width;
        }
        d_gamma
    }
}
