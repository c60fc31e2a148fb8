use std::ops::Range;

use rayon::prelude::*;

use super::{
    decay::Decay,
    sweep::{Direction, Stretch, Sweep},
};
use crate::blocks::simd::Target;

/// Multiply-adds below which a second thread costs more than it brings.
pub(crate) const WORTH_A_THREAD: usize = 1 << 17;

/// One sweep over all heads of all sequences.
pub(super) struct Pass<'a> {
    pub(super) sweep: Sweep<'a>,
    /// Where its output and that of its twin go, as far as they are wanted.
    pub(super) outs: [Option<Target<'a>>; 2],
    /// The states before, and in the end after, each sequence. `[S, H, inner, outer]`
    pub(super) states: &'a mut [f32],
}

/// A stretch with the pass it belongs to and its state.
struct Task<'a, 'b> {
    pass: &'a Sweep<'a>,
    outs: [Option<&'a Target<'a>>; 2],
    stretch: Stretch,
    state: &'b mut [f32],
}

impl Task<'_, '_> {
    fn run(self, decay: &Decay) {
        // SAFETY: stretches lie within the sequences, whose bounds are those of the tensors, and no two of a pass share tokens.
        unsafe { self.pass.run(&self.stretch, decay, self.state, self.outs) };
    }
}

/// Runs the passes, which are independent of one another, over the sequences: batch and tokens each.
pub(super) fn run(passes: &mut [Pass], sequences: &[(usize, Range<usize>)], heads: usize, decay: &Decay) {
    let tokens: usize = sequences.iter().map(|(_, tokens)| tokens.len()).sum();
    let work: usize = passes.iter().map(|pass| 2 * tokens * heads * pass.sweep.state_len()).sum();
    let threads = if work < WORTH_A_THREAD { 1 } else { rayon::current_num_threads() };
    let whole = passes.len() * sequences.len() * heads;
    // To cut a sequence costs a third more work, which pays if there are threads without a head.
    let parts = if 2 * whole <= threads { threads.div_ceil(whole.max(1)) } else { 1 };
    if parts > 1 {
        return run_in_parts(passes, sequences, heads, decay, parts);
    }
    let mut tasks = Vec::with_capacity(whole);
    for Pass { sweep, outs, states } in passes {
        let size = sweep.state_len();
        for (index, state) in states.chunks_exact_mut(size).enumerate() {
            let (batch, ref tokens) = sequences[index / heads];
            let stretch = Stretch { batch, head: index % heads, tokens: tokens.clone() };
            tasks.push(Task { pass: sweep, outs: outs.each_ref().map(Option::as_ref), stretch, state });
        }
    }
    if threads > 1 {
        tasks.into_par_iter().for_each(|task| task.run(decay));
    } else {
        for task in tasks {
            task.run(decay);
        }
    }
}

/// As [`run`], with every sequence cut into parts: first what each part adds to the state, then the states before the parts, then the
/// outputs of all parts.
fn run_in_parts(passes: &mut [Pass], sequences: &[(usize, Range<usize>)], heads: usize, decay: &Decay, parts: usize) {
    let cut = |tokens: &Range<usize>, direction| -> Vec<Range<usize>> {
        let length = tokens.len().div_ceil(parts).next_multiple_of(decay.block());
        let ranges = (tokens.start..tokens.end).step_by(length.max(1)).map(|start| start..(start + length).min(tokens.end));
        match direction {
            Direction::Past => ranges.collect(),
            Direction::Future => ranges.rev().collect(),
        }
    };
    for Pass { sweep, outs, states } in passes {
        let size = sweep.state_len();
        for (index, state) in states.chunks_exact_mut(size).enumerate() {
            let ((batch, tokens), head) = (&sequences[index / heads], index % heads);
            let cuts = cut(tokens, sweep.direction());
            let mut starts = vec![0.0; cuts.len() * size];
            let stretch = |tokens: &Range<usize>| Stretch { batch: *batch, head, tokens: tokens.clone() };
            let Some(last) = cuts.len().checked_sub(1) else { continue };
            starts[..last * size].par_chunks_exact_mut(size).zip(&cuts).for_each(|(state, tokens)| {
                Task { pass: sweep, outs: [None; 2], stretch: stretch(tokens), state }.run(decay);
            });
            // Part p holds what it adds, and gets the state before it.
            let mut before = state.to_vec();
            for (added, tokens) in starts.chunks_exact_mut(size).zip(&cuts) {
                let factor = decay.over_tokens(head, tokens.len());
                for (before, added) in before.iter_mut().zip(added) {
                    let after = factor.mul_add(*before, *added);
                    *added = std::mem::replace(before, after);
                }
            }
            starts.par_chunks_exact_mut(size).zip(&cuts).for_each(|(state, tokens)| {
                Task { pass: sweep, outs: outs.each_ref().map(Option::as_ref), stretch: stretch(tokens), state }.run(decay);
            });
            state.copy_from_slice(&starts[last * size..]);
        }
    }
}
