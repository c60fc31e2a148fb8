use burn::backend::{Flex, tensor::FloatTensor};

use super::{
    activation::{len, slice, tensor},
    parts::{Blank, in_blank_parts},
};
use crate::blocks::{adamw::AdamWStep, simd::vectorised};

type Flat = FloatTensor<Flex>;

/// Elements per task.
const TASK: usize = 32 * 1024;

/// Parameter, first and second moment after a step.
pub(super) fn update(inputs: &[Flat; 4], step: AdamWStep) -> [Flat; 3] {
    let inputs = inputs.each_ref().map(Flat::to_contiguous);
    let write = |start: usize, parts: [&mut [Blank]; 3]| {
        let len = parts[0].len();
        values(parts, inputs.each_ref().map(|x| &slice(x)[start..][..len]), step);
    };
    // SAFETY: every number is written.
    let (updated, _) = unsafe { in_blank_parts(len(&inputs[0]), TASK, write) };
    updated.map(|values| tensor(values, &inputs[0]))
}

vectorised! {
    fn values<'a>(outputs: [&'a mut [Blank]; 3], inputs: [&'a [f32]; 4], step: AdamWStep) -> () {
        let ([theta, m, v], [old, g, old_m, old_v]) = (outputs, inputs);
        let AdamWStep { rate, beta1, beta2, epsilon, decay, time } = step;
        let (first, second) = (1.0 / (1.0 - beta1.powi(time)), 1.0 / (1.0 - beta2.powi(time)));
        let keep = 1.0 - rate * decay;
        for i in 0..theta.len() {
            let new_m = beta1 * old_m[i] + (1.0 - beta1) * g[i];
            let new_v = beta2 * old_v[i] + (1.0 - beta2) * g[i] * g[i];
            m[i] = Blank::new(new_m);
            v[i] = Blank::new(new_v);
            theta[i] = Blank::new(keep * old[i] - rate * (new_m * first) / ((new_v * second).sqrt() + epsilon));
        }
    }
}
