//! Between Flex tensors and the slices of the kernels.

use burn::backend::flex::FlexTensor;
use rayon::prelude::*;

use super::{Head, Numbers, Problem, backward::Targets};
use crate::{
    blocks::{
        decayed_product::cpu::WORTH_A_THREAD,
        flex::{NewTensor, dims, view, with_whole_rows},
    },
    flow_attention::kernel::cpu::Rules,
};

/// What the backward pass needs besides the inputs: a few numbers per token.
#[derive(Clone, Debug)]
pub(in super::super::super) struct Saved {
    heads: Vec<Numbers>,
    /// Tokens that are not hidden, at least 1: queries and keys of each sequence.
    present: [Vec<f32>; 2],
}

/// # Panics
/// If shapes disagree: rows are read by pointers.
fn problem<'a>([q, k, v]: [&'a FlexTensor; 3], hidden: [Option<&'a [bool]>; 2], present: &'a [Vec<f32>; 2], rules: Rules) -> Problem<'a> {
    let ([b, h, l, d], [_, _, s, e]) = (dims(q), dims(v));
    assert!(dims(k) == [b, h, s, d] && dims(v) == [b, h, s, e], "queries, keys and values disagree in shape");
    assert!(hidden.iter().zip([l, s]).all(|(hidden, t)| hidden.is_none_or(|hidden| hidden.len() == b * t)), "one flag per token");
    let present = present.each_ref().map(Vec::as_slice);
    Problem { sizes: [b, h, l, s, d, e], q: view(q), k: view(k), v: view(v), hidden, present, rules }
}

/// One task per head, side by side if they are worth it.
fn for_each_head<R: Send>(problem: &Problem, task: impl Fn(Head) -> R + Sync) -> Vec<R> {
    let [b, h, l, s, d, e] = problem.sizes;
    let run = |i: usize| task(Head { problem, batch: i / h, index: i % h });
    if b * h * (l + s) * d * (e + 8) < WORTH_A_THREAD {
        (0..b * h).map(run).collect()
    } else {
        (0..b * h).into_par_iter().map(run).collect()
    }
}

/// The outputs, and what the backward pass needs. `hidden`: one flag per query and per key.
pub(in super::super::super) fn forward(qkv: [FlexTensor; 3], hidden: [Option<&[bool]>; 2], rules: Rules) -> (FlexTensor, Saved) {
    let [q, k, v] = qkv.map(with_whole_rows);
    let ([b, h, l, _], [_, _, s, e]) = (dims(&q), dims(&v));
    let present = [(hidden[0], l), (hidden[1], s)].map(|(hidden, tokens)| {
        let count = |b: usize| hidden.map_or(tokens, |hidden| hidden[b * tokens..][..tokens].iter().filter(|hidden| !**hidden).count());
        (0..b).map(|b| count(b).max(1) as f32).collect::<Vec<_>>()
    });
    let problem = problem([&q, &k, &v], hidden, &present, rules);
    let mut o = NewTensor::unwritten(&q, [b, h, l, e]);
    let target = o.target();
    // SAFETY: each task has a head of its own.
    let heads = for_each_head(&problem, |head| unsafe { head.forward(&target) });
    // SAFETY: every query of every head has been written.
    unsafe { o.written() };
    (o.finish(), Saved { heads, present })
}

/// The gradients of queries, keys and values.
pub(in super::super::super) fn backward(
    qkv: [&FlexTensor; 3],
    hidden: [Option<&[bool]>; 2],
    rules: Rules,
    saved: &Saved,
    d_o: FlexTensor,
) -> [FlexTensor; 3] {
    let [q, k, v] = qkv.map(|x| with_whole_rows(x.clone()));
    let d_o = with_whole_rows(d_o);
    let problem = problem([&q, &k, &v], hidden, &saved.present, rules);
    let [b, h, l, _, _, e] = problem.sizes;
    assert_eq!(dims(&d_o), [b, h, l, e], "the cotangent of the output has its shape");
    let mut new = [&q, &k, &v].map(|x| NewTensor::unwritten(x, dims(x)));
    {
        let [d_q, d_k, d_v] = &mut new;
        let targets = Targets { q: d_q.target(), k: d_k.target(), v: d_v.target() };
        let d_o = view(&d_o);
        // SAFETY: each task has a head of its own.
        for_each_head(&problem, |head| unsafe { head.backward(&saved.heads[head.batch * h + head.index], &d_o, &targets) });
    }
    new.map(|mut x| {
        // SAFETY: every token of every head has been written.
        unsafe { x.written() };
        x.finish()
    })
}
