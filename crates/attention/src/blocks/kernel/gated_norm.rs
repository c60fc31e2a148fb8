use burn::{
    backend::{Flex, tensor::FloatTensor},
    tensor::TensorData,
};

use super::{
    activation::{Pointwise, len, slice, tensor},
    matrix::Matrix,
    parts::{Blank, in_blank_parts},
};
use crate::blocks::simd::{sum2, vectorised};

type Flat = FloatTensor<Flex>;

/// Rows per task. It also fixes the order in which the gradient of γ is summed, whatever the number of threads.
const ROWS: usize = 64;

/// `x / sqrt(mean(x²) + ε) ⊙ γ ⊙ f(gate)` of each row.
pub(super) fn forward<F: Pointwise>([x, gamma, gate]: &[Flat; 3], epsilon: f64, f: F) -> Flat {
    let gamma = gamma.to_contiguous();
    let [mut place, mut gate_place] = [None, None];
    let rows = [Matrix::rows_of(x, &mut place), Matrix::rows_of(gate, &mut gate_place)];
    let width = len(&gamma);
    let write = |start, [y]: [&mut [Blank]; 1]| outputs(y, slice(&gamma), rows, start / width, epsilon as f32, f);
    // SAFETY: the rows of all tasks are those of the result, and each is written whole.
    let ([y], _) = unsafe { in_blank_parts(len(x), ROWS * width, write) };
    tensor(y, x)
}

vectorised! {
    fn [F: Pointwise] outputs<'a>(y: &'a mut [Blank], gamma: &'a [f32], rows: [Matrix<'a>; 2], first: usize, epsilon: f32, f: F) -> () {
        let width = gamma.len();
        for (n, y) in y.chunks_exact_mut(width).enumerate() {
            let [x, gate] = [rows[0].row(first + n), rows[1].row(first + n)];
            let scale = scale(x, epsilon);
            for i in 0..width {
                y[i] = Blank::new(x[i] * scale * gamma[i] * f.value(gate[i]));
            }
        }
    }
}

#[inline(always)]
fn scale(x: &[f32], epsilon: f32) -> f32 {
    1.0 / (sum2(x, x, |x, y| x * y) / x.len() as f32 + epsilon).sqrt()
}

/// The gradients of `x`, γ and `gate`.
pub(super) fn backward<F: Pointwise>([x, gamma, gate]: &[Flat; 3], epsilon: f64, grad: &Flat, f: F) -> [Flat; 3] {
    let gamma = gamma.to_contiguous();
    let [mut place, mut gate_place, mut grad_place] = [None, None, None];
    let rows = [Matrix::rows_of(x, &mut place), Matrix::rows_of(gate, &mut gate_place), Matrix::rows_of(grad, &mut grad_place)];
    let width = len(&gamma);
    let write = |start, parts: [&mut [Blank]; 2]| gradients(parts, slice(&gamma), rows, start / width, epsilon as f32, f);
    // SAFETY: the rows of all tasks are those of the result, and each is written whole.
    let ([dx, d_gate], partial) = unsafe { in_blank_parts(len(x), ROWS * width, write) };
    let mut d_gamma = vec![0.0_f32; width];
    for part in &partial {
        for (total, value) in d_gamma.iter_mut().zip(part) {
            *total += value;
        }
    }
    [tensor(dx, x), Flat::from_data(TensorData::new(d_gamma, [width])), tensor(d_gate, x)]
}

vectorised! {
    /// With `h = x r`, `s = f(gate)`, `u = γ s dy`: `dx = r (u − h · mean(h u))`, `dγ = Σ s h dy`, `d gate = γ h dy f'(gate)`.
    fn [F: Pointwise] gradients<'a>(
        outputs: [&'a mut [Blank]; 2], gamma: &'a [f32], rows: [Matrix<'a>; 3], first: usize, epsilon: f32, f: F,
    ) -> Vec<f32> {
        let [dx, d_gate] = outputs;
        let width = gamma.len();
        let (mut d_gamma, mut u) = (vec![0.0_f32; width], vec![0.0_f32; width]);
        for (n, (dx, d_gate)) in dx.chunks_exact_mut(width).zip(d_gate.chunks_exact_mut(width)).enumerate() {
            let [x, gate, dy] = [rows[0].row(first + n), rows[1].row(first + n), rows[2].row(first + n)];
            let scale = scale(x, epsilon);
            for i in 0..width {
                let (s, h) = (f.value(gate[i]), x[i] * scale);
                let slope = f.slope(if F::BY_OUTPUT { s } else { gate[i] });
                u[i] = gamma[i] * s * dy[i];
                d_gamma[i] += s * h * dy[i];
                d_gate[i] = Blank::new(gamma[i] * h * dy[i] * slope);
            }
            let mean = scale * sum2(x, &u, |x, u| x * u) / width as f32;
            for i in 0..width {
                dx[i] = Blank::new(scale * (u[i] - x[i] * scale * mean));
            }
        }
        d_gamma
    }
}
