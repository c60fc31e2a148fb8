//! Packed sequences, one after another.

use burn::backend::{Cube, TensorMetadata};
use burn_cubecl::tensor::CubeTensor;

use super::{gradients, problem::chunk_size, sequences};
use crate::{
    blocks::{Maybe, raw::Raw},
    kimi_delta::kernel::{Gradients, Inputs, Options, Output, Saved},
};

fn narrow(x: &CubeTensor, axis: usize, start: usize, length: usize) -> CubeTensor {
    Raw::<Cube>(x.clone()).narrow(axis, start, length).0
}

fn join(parts: Vec<CubeTensor>, axis: usize) -> CubeTensor {
    Raw::<Cube>::cat(parts.into_iter().map(Raw).collect(), axis).0
}

/// The tokens of one sequence and its state.
fn sequence(inputs: &Inputs<Cube>, n: usize, start: usize, length: usize) -> Inputs<Cube> {
    let cut = |x: &CubeTensor| narrow(x, 1, start, length);
    let Inputs { q, k, v, g, beta, state } = inputs;
    Inputs { q: cut(q), k: cut(k), v: cut(v), g: cut(g), beta: cut(beta), state: narrow(state, 0, n, 1) }
}

fn alone(options: &Options) -> Options {
    Options { boundaries: None, ..options.clone() }
}

/// Start and length of each sequence.
fn lengths(boundaries: &[usize]) -> impl Iterator<Item = (usize, usize)> {
    boundaries.windows(2).map(|ends| (ends[0], ends[1] - ends[0]))
}

pub(super) fn forward(inputs: &Inputs<Cube>, boundaries: &[usize], options: &Options, keep: bool) -> Output<Cube> {
    let (mut outs, mut last, mut kept) = (Vec::new(), Vec::new(), Vec::new());
    for (n, (start, length)) in lengths(boundaries).enumerate() {
        if length == 0 {
            last.push(narrow(&inputs.state, 0, n, 1));
            continue;
        }
        let Output { o, state, states } = sequences(sequence(inputs, n, start, length), &alone(options), keep);
        outs.push(o);
        last.push(state);
        kept.push(states);
    }
    // No size is 0, so there is a sequence with tokens.
    let states = if keep { join(kept, 1) } else { kept.swap_remove(0) };
    Output { o: join(outs, 1), state: join(last, 0), states }
}

pub(super) fn backward(inputs: &Inputs<Cube>, boundaries: &[usize], options: &Options, saved: Saved<Cube>) -> Gradients<Cube> {
    let (d_o, d_state) = (saved.d_o.into_option(), saved.d_state.into_option());
    let chunk = chunk_size(&inputs.v.client, inputs.v.dtype());
    let mut before = 0;
    let (mut parts, mut states): ([Vec<CubeTensor>; 5], _) = (Default::default(), Vec::new());
    for (n, (start, length)) in lengths(boundaries).enumerate() {
        let d_last = d_state.as_ref().map(|x| narrow(x, 0, n, 1));
        if length == 0 {
            states.push(d_last.unwrap_or_else(|| (Raw::<Cube>(narrow(&inputs.state, 0, n, 1)).zeros()).0));
            continue;
        }
        let chunks = length.div_ceil(chunk);
        let saved = Saved {
            states: narrow(&saved.states, 1, before, chunks),
            d_o: Maybe::new(d_o.as_ref().map(|x| narrow(x, 1, start, length))),
            d_state: Maybe::new(d_last),
        };
        before += chunks;
        let Gradients { q, k, v, g, beta, state } = gradients(sequence(inputs, n, start, length), &alone(options), saved);
        for (part, gradient) in parts.iter_mut().zip([q, k, v, g, beta]) {
            part.push(gradient);
        }
        states.push(state);
    }
    let [q, k, v, g, beta] = parts.map(|part| join(part, 1));
    Gradients { q, k, v, g, beta, state: join(states, 0) }
}
