use burn::{
    backend::{Flex, tensor::FloatTensor},
    tensor::TensorData,
};

use super::{
    activation::{len, slice, tensor},
    parts::{Blank, in_blank_parts},
};
use crate::blocks::simd::{sum, sum2, vectorised};

type Flat = FloatTensor<Flex>;

/// Rows per task. It also fixes the order in which the gradient of γ is summed, whatever the number of threads.
const ROWS: usize = 64;

/// Mean (0 if not centred) and reciprocal root of a row.
#[inline(always)]
fn statistics(x: &[f32], epsilon: f32, center: bool) -> (f32, f32) {
    let n = x.len() as f32;
    let mean = if center { sum(x, |x| x) / n } else { 0.0 };
    let variance = sum(x, |x| (x - mean) * (x - mean)) / n;
    (mean, 1.0 / (variance + epsilon).sqrt())
}

/// How rows are normalised.
#[derive(Clone, Copy)]
struct Rows<'a> {
    gamma: &'a [f32],
    epsilon: f32,
    center: bool,
}

pub(super) fn forward(x: Flat, gamma: Flat, epsilon: f64, center: bool) -> Flat {
    let [x, gamma] = [&x, &gamma].map(Flat::to_contiguous);
    let rows = Rows { gamma: slice(&gamma), epsilon: epsilon as f32, center };
    let part = ROWS * rows.gamma.len();
    // SAFETY: the rows of all tasks are those of the result, and each is written whole.
    let ([y], _) = unsafe { in_blank_parts(len(&x), part, |start, [y]| normalise(rows, y, &slice(&x)[start..][..y.len()])) };
    tensor(y, &x)
}

vectorised! {
    fn normalise<'a>(rows: Rows<'a>, y: &'a mut [Blank], x: &'a [f32]) -> () {
        let Rows { gamma, epsilon, center } = rows;
        let width = gamma.len();
        for (y, x) in y.chunks_exact_mut(width).zip(x.chunks_exact(width)) {
            let (mean, scale) = statistics(x, epsilon, center);
            for i in 0..width {
                y[i] = Blank::new((x[i] - mean) * scale * gamma[i]);
            }
        }
    }
}

/// `x + update`, and that normalised.
pub(super) fn add_forward([x, update, gamma]: &[Flat; 3], epsilon: f64, center: bool) -> [Flat; 2] {
    let [x, update, gamma] = [x, update, gamma].map(Flat::to_contiguous);
    let rows = Rows { gamma: slice(&gamma), epsilon: epsilon as f32, center };
    let write = |start: usize, [total, y]: [&mut [Blank]; 2]| {
        let [x, update] = [&x, &update].map(|x| &slice(x)[start..][..y.len()]);
        add_and_normalise(rows, [total, y], x, update);
    };
    // SAFETY: the rows of all tasks are those of the result, and each is written whole.
    let (results, _) = unsafe { in_blank_parts(len(&x), ROWS * rows.gamma.len(), write) };
    results.map(|values| tensor(values, &x))
}

vectorised! {
    fn add_and_normalise<'a>(rows: Rows<'a>, outputs: [&'a mut [Blank]; 2], x: &'a [f32], update: &'a [f32]) -> () {
        let Rows { gamma, epsilon, center } = rows;
        let width = gamma.len();
        let [total, y] = outputs;
        let mut row = vec![0.0_f32; width];
        let inputs = x.chunks_exact(width).zip(update.chunks_exact(width));
        for ((total, y), (x, update)) in total.chunks_exact_mut(width).zip(y.chunks_exact_mut(width)).zip(inputs) {
            for i in 0..width {
                row[i] = x[i] + update[i];
                total[i] = Blank::new(row[i]);
            }
            let (mean, scale) = statistics(&row, epsilon, center);
            for i in 0..width {
                y[i] = Blank::new((row[i] - mean) * scale * gamma[i]);
            }
        }
    }
}

/// With `h = (x − mean) r`, `u = γ ⊙ dy`: `dx = r (u − mean(u) − h · mean(h ⊙ u))` (without `mean(u)` if not centred), `dγ = Σ dy ⊙ h`.
/// To `dx` is added what else arrived at `x`.
pub(super) fn backward([x, gamma]: [&Flat; 2], grad: &Flat, more: Option<&Flat>, epsilon: f64, center: bool) -> [Flat; 2] {
    let [x, gamma, grad] = [x, gamma, grad].map(Flat::to_contiguous);
    let more = more.map(Flat::to_contiguous);
    let rows = Rows { gamma: slice(&gamma), epsilon: epsilon as f32, center };
    let width = rows.gamma.len();
    let write = |start: usize, [dx]: [&mut [Blank]; 1]| {
        let [x, dy] = [&x, &grad].map(|x| &slice(x)[start..][..dx.len()]);
        gradients(rows, dx, x, dy, more.as_ref().map(|more| &slice(more)[start..][..x.len()]))
    };
    // SAFETY: the rows of all tasks are those of the result, and each is written whole.
    let ([dx], partial) = unsafe { in_blank_parts(len(&x), ROWS * width, write) };
    let mut dgamma = vec![0.0_f32; width];
    for part in &partial {
        for (total, value) in dgamma.iter_mut().zip(part) {
            *total += value;
        }
    }
    [tensor(dx, &x), Flat::from_data(TensorData::new(dgamma, [width]))]
}

vectorised! {
    /// Writes `dx` and returns this part's `dγ`.
    fn gradients<'a>(rows: Rows<'a>, dx: &'a mut [Blank], x: &'a [f32], dy: &'a [f32], more: Option<&'a [f32]>) -> Vec<f32> {
        let Rows { gamma, epsilon, center } = rows;
        let width = gamma.len();
        let n = width as f32;
        let mut dgamma = vec![0.0_f32; width];
        let (mut h, mut u) = (vec![0.0_f32; width], vec![0.0_f32; width]);
        let in_and_out = x.chunks_exact(width).zip(dy.chunks_exact(width)).zip(dx.chunks_exact_mut(width));
        for (row, ((x, dy), dx)) in in_and_out.enumerate() {
            let (mean, scale) = statistics(x, epsilon, center);
            for i in 0..width {
                h[i] = (x[i] - mean) * scale;
                dgamma[i] += dy[i] * h[i];
                u[i] = dy[i] * gamma[i];
            }
            let mean_u = if center { sum(&u, |u| u) / n } else { 0.0 };
            let mean_hu = sum2(&h, &u, |h, u| h * u) / n;
            if let Some(more) = more {
                let more = &more[row * width..][..width];
                for i in 0..width {
                    dx[i] = Blank::new(scale * (u[i] - mean_u - h[i] * mean_hu) + more[i]);
                }
            } else {
                for i in 0..width {
                    dx[i] = Blank::new(scale * (u[i] - mean_u - h[i] * mean_hu));
                }
            }
        }
        dgamma
    }
}
