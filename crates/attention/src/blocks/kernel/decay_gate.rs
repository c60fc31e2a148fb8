use burn::backend::{Flex, tensor::FloatTensor};

use super::{
    activation::{len, slice, tensor},
    parts::{Blank, in_blank_parts},
};
use crate::blocks::simd::{exp, log1p, sigmoid, vectorised};

type Flat = FloatTensor<Flex>;

/// Rows per task. It also fixes the order in which gradients of rates and biases are summed, whatever the number of threads.
const ROWS: usize = 256;

/// Above this, `softplus(x) = x`.
const SOFTPLUS_THRESHOLD: f32 = 20.0;

/// One row of all heads: the rate of each number and its bias.
struct Channels {
    rate: Vec<f32>,
    bias: Vec<f32>,
}

impl Channels {
    /// Of `a_log` `[H]` and `bias` `[H, K]`.
    fn new(a_log: &Flat, bias: &Flat) -> Self {
        let (a_log, bias) = (a_log.to_contiguous(), bias.to_contiguous());
        let width = len(&bias) / len(&a_log).max(1);
        Self { rate: slice(&a_log).iter().flat_map(|a| std::iter::repeat_n(a.exp(), width)).collect(), bias: slice(&bias).to_vec() }
    }
}

/// `−exp(a_log) softplus(f + bias)`, or with a bound `bound · sigmoid(exp(a_log) (f + bias))`; `f` `[.., H, K]`.
pub(super) fn forward([f, a_log, bias]: &[Flat; 3], bound: Option<f32>) -> Flat {
    let f = f.to_contiguous();
    let channels = Channels::new(a_log, bias);
    let part = ROWS * channels.bias.len();
    let write = |start, [g]: [&mut [Blank]; 1]| outputs(&channels, bound, g, &slice(&f)[start..]);
    // SAFETY: the rows of all tasks are those of the result, and each is written whole.
    let ([g], _) = unsafe { in_blank_parts(len(&f), part, write) };
    tensor(g, &f)
}

#[inline(always)]
fn softplus(x: f32) -> f32 {
    let small = log1p(exp(if x > SOFTPLUS_THRESHOLD { SOFTPLUS_THRESHOLD } else { x }));
    if x > SOFTPLUS_THRESHOLD { x } else { small }
}
vectorised! {
    fn outputs<'a>(channels: &'a Channels, bound: Option<f32>, g: &'a mut [Blank], f: &'a [f32]) -> () {
        let width = channels.bias.len();
        let (rate, bias) = (&channels.rate[..width], &channels.bias[..width]);
        for (g, f) in g.chunks_exact_mut(width).zip(f.chunks_exact(width)) {
            match bound {
                Some(bound) => {
                    for i in 0..width {
                        g[i] = Blank::new(bound * sigmoid(rate[i] * (f[i] + bias[i])));
                    }
                }
                None => {
                    for i in 0..width {
                        g[i] = Blank::new(-rate[i] * softplus(f[i] + bias[i]));
                    }
                }
            }
        }
    }
}

/// The gradients of `f`, `a_log` and `bias`.
pub(super) fn backward([f, a_log, bias]: &[Flat; 3], bound: Option<f32>, grad: &Flat) -> [Flat; 3] {
    let [f, grad] = [f, grad].map(Flat::to_contiguous);
    let channels = Channels::new(a_log, bias);
    let width = channels.bias.len();
    let part = ROWS * width;
    let write = |start, [df]: [&mut [Blank]; 1]| gradients(&channels, bound, df, &slice(&f)[start..], &slice(&grad)[start..]);
    // SAFETY: the rows of all tasks are those of the result, and each is written whole.
    let ([df], partial) = unsafe { in_blank_parts(len(&f), part, write) };
    let mut sums = [vec![0.0_f32; width], vec![0.0_f32; width]];
    for part in &partial {
        for (sum, part) in sums.iter_mut().zip(part) {
            for (total, value) in sum.iter_mut().zip(part) {
                *total += value;
            }
        }
    }
    let [d_rate, d_bias] = sums;
    let per_head = width / len(a_log).max(1);
    let d_a_log = d_rate.chunks_exact(per_head).map(|head| head.iter().sum()).collect();
    [tensor(df, &f), tensor(d_a_log, a_log), tensor(d_bias, bias)]
}

vectorised! {
    /// Writes the gradients of `f` and returns this part's, per number of a row, of `a_log` and of the bias.
    fn gradients<'a>(channels: &'a Channels, bound: Option<f32>, df: &'a mut [Blank], f: &'a [f32], dg: &'a [f32]) -> [Vec<f32>; 2] {
        let width = channels.bias.len();
        let (rate, bias) = (&channels.rate[..width], &channels.bias[..width]);
        let (mut d_rate, mut d_bias) = (vec![0.0_f32; width], vec![0.0_f32; width]);
        let rows = df.chunks_exact_mut(width).zip(f.chunks_exact(width)).zip(dg.chunks_exact(width));
        for ((df, f), dg) in rows {
            match bound {
                Some(bound) => {
                    for i in 0..width {
                        let x = f[i] + bias[i];
                        let s = sigmoid(rate[i] * x);
                        let slope = bound * s * (1.0 - s) * rate[i] * dg[i];
                        df[i] = Blank::new(slope);
                        d_rate[i] += slope * x;
                        d_bias[i] += slope;
                    }
                }
                None => {
                    for i in 0..width {
                        let x = f[i] + bias[i];
                        let slope = if x > SOFTPLUS_THRESHOLD { 1.0 } else { sigmoid(x) };
                        let slope = -rate[i] * slope * dg[i];
                        df[i] = Blank::new(slope);
                        d_rate[i] -= rate[i] * softplus(x) * dg[i];
                        d_bias[i] += slope;
                    }
                }
            }
        }
        [d_rate, d_bias]
    }
}
