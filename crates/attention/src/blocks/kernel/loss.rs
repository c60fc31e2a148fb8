use burn::{
    backend::{Flex, tensor::FloatTensor},
    tensor::TensorData,
};
use rayon::prelude::*;

use super::activation::{len, slice, tensor};
use crate::blocks::simd::{exp, max, sum, vectorised};

type Flat = FloatTensor<Flex>;

/// Largest logit of a row and the logarithm of the sum of exponentials less that.
#[inline(always)]
fn log_sum_exp(row: &[f32]) -> (f32, f32) {
    let highest = max(row);
    (highest, sum(row, |x| exp(x - highest)).ln())
}

vectorised! {
    fn vectorised_log_sum_exp<'a>(row: &'a [f32]) -> (f32, f32) {
        log_sum_exp(row)
    }
}

pub(super) fn forward(logits: Flat, targets: &[i64], ignore: i64) -> Flat {
    let logits = logits.to_contiguous();
    let width = len(&logits) / targets.len().max(1);
    let loss: Vec<f32> = slice(&logits)
        .par_chunks(width.max(1))
        .zip(targets)
        .with_min_len(rows_per_task(width))
        .map(|(row, &target)| {
            if target == ignore {
                return 0.0;
            }
            let (highest, rest) = vectorised_log_sum_exp(row);
            rest - (row[target as usize] - highest)
        })
        .collect();
    Flat::from_data(TensorData::new(loss, [targets.len()]))
}

/// `softmax(x) − 1[target]`, times the gradient of the row's loss.
pub(super) fn backward(logits: Flat, targets: &[i64], grad: Flat, ignore: i64) -> Flat {
    let [logits, grad] = [&logits, &grad].map(Flat::to_contiguous);
    let width = (len(&logits) / targets.len().max(1)).max(1);
    let mut dx = vec![0.0_f32; len(&logits)];
    dx.par_chunks_mut(width)
        .zip(slice(&logits).par_chunks(width))
        .zip(targets.par_iter().zip(slice(&grad)))
        .with_min_len(rows_per_task(width))
        .filter(|(_, (target, _))| **target != ignore)
        .for_each(|((dx, row), (&target, &g))| {
            weighted_softmax(dx, row, g);
            dx[target as usize] -= g;
        });
    tensor(dx, &logits)
}

vectorised! {
    /// `dx = g softmax(x)`
    fn weighted_softmax<'a>(dx: &'a mut [f32], x: &'a [f32], g: f32) -> () {
        let (highest, rest) = log_sum_exp(x);
        let shift = highest + rest;
        for (dx, &x) in dx.iter_mut().zip(x) {
            *dx = g * exp(x - shift);
        }
    }
}

fn rows_per_task(width: usize) -> usize {
    (8 * 1024 / width.max(1)).max(1)
}
