//! Between Flex tensors and the slices of the kernels.

use burn::{
    backend::{
        Flex, TensorMetadata,
        flex::{FlexTensor, Layout},
    },
    tensor::{Bytes, DType, Shape},
};

use super::{
    backward::Targets,
    problem::{Problem, Sizes, sequences},
    run::{self, Cotangents, Outputs},
    step::step,
};
use crate::{
    blocks::{
        flex::{dims, view, with_whole_rows},
        simd::{Target, scratch},
    },
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
    let mut o = NewTensor::new([ready.batch, ready.tokens, w, v]);
    if !keep && problem.sequences.iter().all(|s| s.len == 1) {
        let mut states = inputs.state.to_contiguous();
        drop(inputs.state); // unless others hold it, its memory is written in place
        let at = states.layout().start_offset();
        let len = states.layout().num_elements();
        step(&problem, &mut states.storage_mut::<f32>()[at..at + len], &o.tokens_first());
        return Output { o: o.finish(), states: empty(), state: states };
    }
    let initial = with_whole_rows(inputs.state);
    let mut state = NewTensor::new(dims(&initial));
    let chunks: usize = problem.sequences.iter().map(|s| s.len.div_ceil(chunk)).sum();
    let mut states = keep.then(|| NewTensor::new([chunks, w, k, v]));
    let outputs = Outputs { o: o.tokens_first(), state: state.plain(), states: states.as_mut().map(NewTensor::plain) };
    run::forward(&problem, &view(&initial), &outputs);
    Output { o: o.finish(), states: states.map_or_else(empty, NewTensor::finish), state: state.finish() }
}

pub(in super::super) fn backward(inputs: Inputs<Flex>, options: &Options, saved: Saved<Flex>) -> Gradients<Flex> {
    let ready = Ready::new(&inputs, options);
    let problem = ready.problem(options);
    let zeros = |dims: [usize; 4]| FlexTensor::zeros(Shape::new(dims), DType::F32);
    let d_o = saved.d_o.into_option().unwrap_or_else(|| zeros(dims(&inputs.v)));
    let d_state = saved.d_state.into_option().unwrap_or_else(|| zeros(dims(&inputs.state)));
    let (d_o, d_state) = (with_whole_rows(d_o.transpose(1, 2)), with_whole_rows(d_state));
    let [mut q, mut k, mut v, mut g] = [&inputs.q, &inputs.k, &inputs.v, &inputs.g].map(|x| NewTensor::new(dims(x)));
    let mut beta = NewTensor::new([ready.batch, ready.tokens, ready.sizes.w, 1]);
    let mut state = NewTensor::new(dims(&inputs.state));
    let targets = Targets { q: q.tokens_first(), k: k.tokens_first(), v: v.tokens_first(), g: g.tokens_first(), beta: beta.tokens_first() };
    let cotangents = Cotangents { states: view(&saved.states), o: view(&d_o), state: view(&d_state) };
    run::backward(&problem, &cotangents, &targets, &state.plain());
    let beta = beta.finish().reshape(Shape::new([ready.batch, ready.tokens, ready.sizes.w]));
    Gradients { q: q.finish(), k: k.finish(), v: v.finish(), g: g.finish(), beta, state: state.finish() }
}

fn empty() -> FlexTensor {
    FlexTensor::zeros(Shape::new([0, 0, 0, 0]), DType::F32)
}

/// An f32 tensor to be filled.
struct NewTensor {
    data: Vec<f32>,
    dims: [usize; 4],
}

impl NewTensor {
    fn new(dims: [usize; 4]) -> Self {
        Self { data: scratch(dims.iter().product()), dims }
    }

    /// Of `[B, T, heads, width]`, seen as `[B, heads, T, width]`.
    fn tokens_first(&mut self) -> Target<'_> {
        let [b, t, h, width] = self.dims;
        Target::new(&mut self.data, [t * h * width, width, h * width], [b, h, t, width])
    }

    fn plain(&mut self) -> Target<'_> {
        let [_, h, t, width] = self.dims;
        Target::new(&mut self.data, [h * t * width, t * width, width], self.dims)
    }

    fn finish(self) -> FlexTensor {
        FlexTensor::new(Bytes::from_elems(self.data), Layout::contiguous(Shape::new(self.dims)), DType::F32)
    }
}
