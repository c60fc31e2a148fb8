//! Between Flex tensors and the slices of the kernels.

use burn::{
    backend::{
        TensorMetadata,
        flex::{FlexTensor, Layout},
    },
    tensor::{Bytes, DType, Shape},
};
use rayon::prelude::*;

use super::{
    backward::Targets,
    forward::Head,
    problem::{BLOCK, Problem, Rules, State},
};
use crate::blocks::{
    decayed_product::cpu::WORTH_A_THREAD,
    flex::{NewTensor, dims, view, with_whole_rows},
};

/// Queries, keys and values as the kernels read them.
///
/// # Panics
/// If shapes disagree: rows are read by pointers.
fn problem<'a>([q, k, v]: [&'a FlexTensor; 3], hidden: Option<&'a [bool]>, rules: Rules) -> Problem<'a> {
    let ([b, h, t, d], e) = (dims(q), dims(v)[3]);
    assert!(dims(k) == dims(q) && dims(v) == [b, h, t, e], "queries, keys and values disagree in shape");
    assert!(hidden.is_none_or(|hidden| hidden.len() == b * t), "one flag per token");
    Problem { sizes: [b, h, t, d, e], q: view(q), k: view(k), v: view(v), hidden, rules }
}

/// Multiply-adds of the product, about.
fn work([b, h, t, d, e]: [usize; 5]) -> usize {
    b * h * t * (2 * d * e + t.min(BLOCK) * (d + e) / 2)
}

/// The outputs, and the state behind the tokens in the memory of the state before them, unless somebody else holds that. `tokens`: the
/// number of tokens before the first, for each sequence.
pub(in super::super) fn forward(
    qkv: [FlexTensor; 3],
    hidden: Option<&[bool]>,
    rules: Rules,
    state: State<FlexTensor>,
    tokens: &[f32],
) -> (FlexTensor, State<FlexTensor>) {
    let [q, k, v] = qkv.map(with_whole_rows);
    let problem = problem([&q, &k, &v], hidden, rules);
    let [b, h, t, d, e] = problem.sizes;
    let mut state = state.map(in_one_piece);
    let mut o = NewTensor::unwritten(&q, [b, h, t, e]);
    {
        let target = o.target();
        let State { sums: [s0, s1, s2, s3], log_sum_exp, kv } = &mut state;
        let slices = State { sums: [s0, s1, s2, s3], log_sum_exp, kv }.map(|x: &mut FlexTensor| x.storage_mut::<f32>());
        check_state(&slices.as_ref(), b * h, d, e);
        let run = |(index, state): (usize, State<&mut [f32]>)| {
            let head = Head { problem: &problem, batch: index / h, index: index % h, tokens: tokens[index / h] };
            // SAFETY: each task has a head of its own.
            unsafe { head.forward(state, &target) };
        };
        let heads = slices.heads(b * h);
        if work(problem.sizes) < WORTH_A_THREAD {
            heads.into_iter().enumerate().for_each(run);
        } else {
            heads.into_par_iter().enumerate().for_each(run);
        }
    }
    // SAFETY: every token of every head has been written.
    unsafe { o.written() };
    (o.finish(), state)
}

/// The gradients of queries, keys and values and of the state before the tokens, given the cotangents of the outputs and of the state
/// behind the tokens.
pub(in super::super) fn backward(
    [q, k, v]: [&FlexTensor; 3],
    hidden: Option<&[bool]>,
    rules: Rules,
    (state, tokens): (&State<FlexTensor>, &[f32]),
    (d_o, d_state): (FlexTensor, Option<State<FlexTensor>>),
) -> ([FlexTensor; 3], State<FlexTensor>) {
    let [q, k, v, d_o] = [q, k, v, &d_o].map(|x| with_whole_rows(x.clone()));
    let problem = problem([&q, &k, &v], hidden, rules);
    let [b, h, _, d, e] = problem.sizes;
    assert_eq!(dims(&d_o), dims(&v), "the cotangent of the output has its shape");
    let before = state.clone().map(in_one_piece);
    let zeros = || state.clone().map(|x| FlexTensor::zeros(x.shape(), DType::F32));
    let mut d_state = d_state.unwrap_or_else(zeros).map(in_one_piece);
    let mut new = [&q, &k, &v].map(|x| NewTensor::unwritten(x, dims(x)));
    {
        let before = before.clone().map(|x| x.storage::<f32>().to_vec());
        check_state(&before.as_ref(), b * h, d, e);
        let [d_q, d_k, d_v] = &mut new;
        let targets = Targets { q: d_q.target(), k: d_k.target(), v: d_v.target() };
        let d_o = view(&d_o);
        let State { sums: [s0, s1, s2, s3], log_sum_exp, kv } = &mut d_state;
        let slices = State { sums: [s0, s1, s2, s3], log_sum_exp, kv }.map(|x: &mut FlexTensor| x.storage_mut::<f32>());
        check_state(&slices.as_ref(), b * h, d, e);
        let run = |(index, d_state): (usize, State<&mut [f32]>)| {
            let head = Head { problem: &problem, batch: index / h, index: index % h, tokens: tokens[index / h] };
            // SAFETY: each task has a head of its own.
            unsafe { head.backward(before.as_ref().head(index, b * h), &d_o, d_state, &targets) };
        };
        let heads = slices.heads(b * h);
        if work(problem.sizes) < WORTH_A_THREAD {
            heads.into_iter().enumerate().for_each(run);
        } else {
            heads.into_par_iter().enumerate().for_each(run);
        }
    }
    let gradients = new.map(|mut x| {
        // SAFETY: every token of every head has been written.
        unsafe { x.written() };
        x.finish()
    });
    (gradients, d_state)
}

/// # Panics
/// If the state is not one of these sizes: its parts are cut by them.
fn check_state(state: &State<&[f32]>, heads: usize, d: usize, e: usize) {
    let sums = state.sums.iter().all(|sum| sum.len() == heads * d);
    assert!(sums && state.log_sum_exp.len() == heads && state.kv.len() == heads * d * e, "the state has other sizes");
}

/// A tensor that is all of its memory, in order.
fn in_one_piece(x: FlexTensor) -> FlexTensor {
    if x.is_contiguous() && x.layout().start_offset() == 0 && x.storage::<f32>().len() == x.layout().num_elements() {
        return x;
    }
    let shape: Shape = x.shape();
    let x = x.to_contiguous();
    let start = x.layout().start_offset();
    let numbers = x.storage::<f32>()[start..start + x.layout().num_elements()].to_vec();
    FlexTensor::new(Bytes::from_elems(numbers), Layout::contiguous(shape), DType::F32)
}
