use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use super::problem::{Place, Problem};
use crate::blocks::simd::{Target, exp};

/// Columns of a state that are corrected together.
const WIDTH: usize = 64;

/// One token of each sequence: `states` `[N, W, K, V]` move behind it in place. Two passes over a state, nothing allocated.
pub(crate) fn step(problem: &Problem, states: &mut [f32], o: &Target) {
    const WORTH_A_THREAD: usize = 1 << 16;
    let sizes = problem.sizes;
    let arch = Arch::new();
    let one = |(task, state): (usize, &mut [f32])| {
        let (number, head) = (task / sizes.w, task % sizes.w);
        let sequence = &problem.sequences[number];
        let place = Place { batch: sequence.batch, head, start: sequence.start, n: 1 };
        arch.dispatch(Step { problem, place, state, o });
    };
    let size = sizes.k * sizes.v;
    if states.len() >= WORTH_A_THREAD {
        states.par_chunks_exact_mut(size).enumerate().for_each(one);
    } else {
        states.chunks_exact_mut(size).enumerate().for_each(one);
    }
}

struct Step<'a> {
    problem: &'a Problem<'a>,
    place: Place,
    state: &'a mut [f32],
    o: &'a Target<'a>,
}

impl WithSimd for Step<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let Self { problem, place, state, o } = self;
        let v = problem.sizes.v;
        let (query, key, value) = (problem.query(&place, 0), problem.key(&place, 0), problem.value(&place, 0));
        let (log, beta) = (problem.log_decay(&place, 0), problem.strength(&place, 0));
        // SAFETY: no other task has this head of this token.
        let out = unsafe { o.row(place.batch, place.head, place.start) };
        // What the decayed state answers to the key; then the correction.
        out.fill(0.0);
        for (d, row) in state.chunks_exact_mut(v).enumerate() {
            decay_and_ask(row, exp(log[d.min(log.len() - 1)]), key[d], out);
        }
        let mut correction = [0.0_f32; WIDTH];
        for start in (0..v).step_by(WIDTH) {
            let width = WIDTH.min(v - start);
            let (correction, out) = (&mut correction[..width], &mut out[start..start + width]);
            for ((c, o), value) in correction.iter_mut().zip(out.iter_mut()).zip(&value[start..]) {
                *c = beta * (value - *o);
                *o = 0.0;
            }
            for (d, row) in state.chunks_exact_mut(v).enumerate() {
                write_and_read(&mut row[start..start + width], key[d], correction, query[d] * problem.scale, out);
            }
        }
    }
}

#[inline(always)]
fn decay_and_ask(row: &mut [f32], decay: f32, key: f32, answer: &mut [f32]) {
    for (s, answer) in row.iter_mut().zip(answer) {
        *s *= decay;
        *answer = s.mul_add(key, *answer);
    }
}

#[inline(always)]
fn write_and_read(row: &mut [f32], key: f32, correction: &[f32], query: f32, out: &mut [f32]) {
    for ((s, c), out) in row.iter_mut().zip(correction).zip(out) {
        *s = c.mul_add(key, *s);
        *out = s.mul_add(query, *out);
    }
}
