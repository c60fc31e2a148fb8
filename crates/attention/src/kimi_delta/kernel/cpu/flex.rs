//! Between Flex tensors and the slices of the kernels.

use burn::{
    backend::{Flex, TensorMetadata, flex::FlexTensor},
    tensor::{DType, Shape},
};

use super::{
    backward::Targets,
    problem::{Problem, Sizes, sequences},
    run::{self, Cotangents, Outputs},
    step::step,
};
use crate::{
    blocks::flex::{NewTensor, dims, view, with_whole_rows},
    kimi_delta::kernel::{Gradients, Inputs, Options, Output, Saved},
};

/// Inputs as `[B, heads, T, width]` with contiguous rows.
struct Ready {
    batch: usize,
    tokens: usize,
    sizes: Sizes,
    q: FlexTensor,
    k: FlexTensor,
    v: FlexTensor,
    g: FlexTensor,
    beta: FlexTensor,
}

impl Ready {
    fn new(inputs: &Inputs<Flex>, options: &Options) -> Self {
        let [b, t, h, k] = dims(&inputs.q);
        let [_, _, w, v] = dims(&inputs.v);
        let heads_first = |x: &FlexTensor| with_whole_rows(x.transpose(1, 2));
        Self {
            batch: b,
            tokens: t,
            sizes: Sizes { h, w, k, v, chunk: options.chunk },
            q: heads_first(&inputs.q),
            k: heads_first(&inputs.k),
            v: heads_first(&inputs.v),
            g: heads_first(&inputs.g),
            beta: heads_first(&inputs.beta.to_contiguous().reshape(Shape::new([b, t, w, 1]))),
        }
    }

    fn problem(&self, options: &Options) -> Problem<'_> {
        Problem {
            sizes: self.sizes,
            sequences: sequences(self.batch, self.tokens, options.boundaries.as_deref(), self.sizes.chunk),
            scale: options.scale as f32,
            q: view(&self.q),
            k: view(&self.k),
            v: view(&self.v),
            g: view(&self.g),
            g_width: self.g.shape()[3],
            beta: view(&self.beta),
        }
    }
}

pub(in super::super) fn forward(inputs: Inputs<Flex>, options: &Options, keep: bool) -> Output<Flex> {
    let ready = Ready::new(&inputs, options);
    let problem = ready.problem(options);
    let Sizes { w, k, v, chunk, .. } = ready.sizes;
    let shape = [ready.batch, w, ready.tokens, v];
    if !keep && problem.sequences.iter().all(|s| s.len == 1) {
        let mut states = inputs.state.to_contiguous();
        drop(inputs.state); // unless others hold it, its memory is written in place
        let at = states.layout().start_offset();
        let len = states.layout().num_elements();
        let mut o = NewTensor::tokens_first(shape);
        step(&problem, &mut states.storage_mut::<f32>()[at..at + len], &o.target());
        return Output { o: tokens_before_heads(o), states: empty(), state: states };
    }
    let initial = with_whole_rows(inputs.state);
    let (mut o, mut state) = (NewTensor::unwritten_tokens_first(shape), NewTensor::unwritten_contiguous(dims(&initial)));
    let chunks: usize = problem.sequences.iter().map(|s| s.len.div_ceil(chunk)).sum();
    let mut states = keep.then(|| NewTensor::unwritten_contiguous([chunks, w, k, v]));
    let outputs = Outputs { o: o.target(), state: state.target(), states: states.as_mut().map(NewTensor::target) };
    run::forward(&problem, &view(&initial), &outputs);
    // SAFETY: the chunks cover all tokens of all heads, and every sequence of every head leaves a state.
    unsafe {
        for x in [&mut o, &mut state].into_iter().chain(&mut states) {
            x.written();
        }
    }
    Output { o: tokens_before_heads(o), states: states.map_or_else(empty, NewTensor::finish), state: state.finish() }
}

pub(in super::super) fn backward(inputs: Inputs<Flex>, options: &Options, saved: Saved<Flex>) -> Gradients<Flex> {
    let ready = Ready::new(&inputs, options);
    let problem = ready.problem(options);
    let zeros = |dims: [usize; 4]| FlexTensor::zeros(Shape::new(dims), DType::F32);
    let d_o = saved.d_o.into_option().unwrap_or_else(|| zeros(dims(&inputs.v)));
    let d_state = saved.d_state.into_option().unwrap_or_else(|| zeros(dims(&inputs.state)));
    let (d_o, d_state) = (with_whole_rows(d_o.transpose(1, 2)), with_whole_rows(d_state));
    let [mut q, mut k, mut v, mut g, mut beta] =
        [&ready.q, &ready.k, &ready.v, &ready.g, &ready.beta].map(|x| NewTensor::unwritten_tokens_first(dims(x)));
    let mut state = NewTensor::unwritten_contiguous(dims(&inputs.state));
    let targets = Targets { q: q.target(), k: k.target(), v: v.target(), g: g.target(), beta: beta.target() };
    let cotangents = Cotangents { states: view(&saved.states), o: view(&d_o), state: view(&d_state) };
    run::backward(&problem, &cotangents, &targets, &state.target());
    // SAFETY: as in `forward`.
    unsafe {
        for x in [&mut q, &mut k, &mut v, &mut g, &mut beta, &mut state] {
            x.written();
        }
    }
    let [q, k, v, g, beta] = [q, k, v, g, beta].map(tokens_before_heads);
    let beta = beta.reshape(Shape::new([ready.batch, ready.tokens, ready.sizes.w]));
    Gradients { q, k, v, g, beta, state: state.finish() }
}

/// `[B, heads, T, width]` as `[B, T, heads, width]`.
fn tokens_before_heads(x: NewTensor) -> FlexTensor {
    x.finish().transpose(1, 2)
}

fn empty() -> FlexTensor {
    FlexTensor::zeros(Shape::new([0, 0, 0, 0]), DType::F32)
}
