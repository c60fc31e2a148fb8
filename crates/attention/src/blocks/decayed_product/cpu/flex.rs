//! Between Flex tensors and the sweeps.

use std::ops::Range;

use burn::{
    backend::{
        Flex,
        flex::{FlexTensor, Layout},
    },
    tensor::{Bytes, DType, Shape},
};
use pulp::Arch;
use rayon::prelude::*;

use super::{
    decay::Decay,
    schedule::{Pass, WORTH_A_THREAD, run},
    step::Step,
    sweep::{Direction, Roles, Sweep},
};
use crate::blocks::{
    Maybe,
    decayed_product::{
        Plan,
        extension::{Cotangents, InputGradients, Inputs},
    },
    flex::{NewTensor, dims, view, with_whole_rows},
    simd::{Target, View},
};

/// Sequences of up to this many tokens go token by token: blocks would be mostly empty.
const STEPS: usize = 4;

/// Batch and tokens of each sequence: together all tokens of all batches.
fn sequences(plan: &Plan, b: usize, t: usize) -> Vec<(usize, Range<usize>)> {
    match &plan.bounds {
        Some(bounds) => {
            let cuts = bounds.first() == Some(&0) && bounds.last() == Some(&t) && bounds.is_sorted();
            assert!(cuts && b == 1, "bounds {bounds:?} of {t} tokens in a batch of {b}");
            bounds.windows(2).map(|bound| (0, bound[0]..bound[1])).collect()
        }
        None => (0..b).map(|b| (b, 0..t)).collect(),
    }
}

fn longest(sequences: &[(usize, Range<usize>)]) -> usize {
    sequences.iter().map(|(_, tokens)| tokens.len()).max().unwrap_or(0)
}

/// B, H, T, K and V.
///
/// # Panics
/// If shapes disagree: rows are read by pointers.
fn sizes(plan: &Plan, q: &FlexTensor, k: &FlexTensor, v: &FlexTensor, states: usize) -> [usize; 5] {
    let ([b, h, t, d_k], [_, _, _, d_v]) = (dims(q), dims(v));
    assert!(dims(k) == dims(q) && dims(v) == [b, h, t, d_v], "queries, keys and values disagree in shape");
    assert!(plan.slopes.as_ref().is_none_or(|slopes| slopes.len() == h), "one slope per head");
    let sequences = plan.bounds.as_ref().map_or(b, |bounds| bounds.len() - 1);
    assert_eq!(states, sequences * h * d_k * d_v, "one state per sequence and head");
    [b, h, t, d_k, d_v]
}

fn decay(plan: &Plan, heads: usize, longest: usize) -> Decay {
    let none = vec![0.0; if plan.slopes.is_some() { 0 } else { heads }];
    Decay::new(plan.slopes.as_deref().unwrap_or(&none), plan.scale, plan.block.min(longest).max(1))
}

pub(in super::super) fn forward(inputs: Inputs<Flex>, plan: &Plan) -> (FlexTensor, FlexTensor) {
    let [q, k, v] = [inputs.q, inputs.k, inputs.v].map(with_whole_rows);
    let mut state = inputs.state;
    if !(state.is_contiguous() && state.layout().start_offset() == 0 && state.storage::<f32>().len() == state.layout().num_elements()) {
        state = state.to_contiguous();
    }
    let [b, h, t, d_k, d_v] = sizes(plan, &q, &k, &v, state.layout().num_elements());
    let sequences = sequences(plan, b, t);
    let mut o = NewTensor::unwritten(&q, [b, h, t, d_v]);
    let (q, k, v) = (view(&q), view(&k), view(&v));
    // Copies the state if somebody else holds it.
    let states = state.storage_mut::<f32>();
    if longest(&sequences) <= STEPS {
        steps([q, k, v], [h, d_k, d_v], &sequences, plan, states, &o.target());
    } else {
        let sweep = Sweep::new(Roles { a: q, b: k, c: v }, None, Direction::Past);
        let decay = decay(plan, h, longest(&sequences));
        run(&mut [Pass { sweep, outs: [Some(o.target()), None], states }], &sequences, h, &decay);
    }
    // SAFETY: the sequences cover all tokens of all batches, and every token of every head has been written.
    unsafe { o.written() };
    (o.finish(), state)
}

/// As a sweep over the past, token by token.
fn steps(
    [q, k, v]: [View; 3],
    [h, d_k, d_v]: [usize; 3],
    sequences: &[(usize, Range<usize>)],
    plan: &Plan,
    states: &mut [f32],
    o: &Target,
) {
    let arch = Arch::new();
    let work = 2 * states.len() * longest(sequences);
    let head = |(index, state): (usize, &mut [f32])| {
        let ((batch, tokens), h) = (&sequences[index / h], index % h);
        let decay = plan.slopes.as_ref().map_or(1.0, |slopes| (-slopes[h]).exp()) as f32;
        for t in tokens.clone() {
            // SAFETY: the token is one of the tensors', and no other task has this sequence of this head.
            unsafe {
                let row = |x: &View, width| std::slice::from_raw_parts(x.row(*batch, h, t), width);
                let (q, k, v) = (row(&q, d_k), row(&k, d_k), row(&v, d_v));
                Step { q, k, v, decay, scale: plan.scale as f32, state, out: o.rows(*batch, h, t).0 }.run(arch);
            }
        }
    };
    if work < WORTH_A_THREAD {
        states.chunks_exact_mut(d_k * d_v).enumerate().for_each(head);
    } else {
        states.par_chunks_exact_mut(d_k * d_v).enumerate().for_each(head);
    }
}

/// Two sweeps, with M, Λ and P as in the passes in tensor operations: dQ = ((dO Vᵀ) ⊙ M) K + Λ dO Sᵀ over the past, carrying Sᵀ;
/// from the future, carrying dS, dV = ((K Qᵀ) ⊙ Mᵀ) dO + P K dS and its twin dK = ((V dOᵀ) ⊙ Mᵀ) Q + P V dSᵀ.
pub(in super::super) fn backward(
    inputs: Inputs<Flex>,
    cotangents: Cotangents<Flex>,
    plan: &Plan,
    [want_q, want_k, want_v, want_state]: [bool; 4],
) -> InputGradients<Flex> {
    let [q, k, v] = [inputs.q, inputs.k, inputs.v].map(with_whole_rows);
    let [b, h, t, d_k, d_v] = sizes(plan, &q, &k, &v, inputs.state.layout().num_elements());
    let sequences = sequences(plan, b, t);
    let d_o = cotangents.o.into_option().unwrap_or_else(|| FlexTensor::zeros(Shape::new([b, h, t, d_v]), DType::F32));
    let d_o = with_whole_rows(d_o);
    assert_eq!(dims(&d_o), dims(&v), "the cotangent of the output has its shape");
    let mut d_state = match cotangents.state {
        Maybe::Some(d_state) => values(d_state),
        Maybe::None => vec![0.0; sequences.len() * h * d_k * d_v],
    };
    assert_eq!(d_state.len(), sequences.len() * h * d_k * d_v, "the cotangent of the state has its shape");
    let mut state_turned = if want_q { turned(&values(inputs.state), d_k, d_v) } else { Vec::new() };
    let new = |wanted: bool, like: &FlexTensor| wanted.then(|| NewTensor::unwritten(like, dims(like)));
    let (mut dq, mut dk, mut dv) = (new(want_q, &q), new(want_k, &k), new(want_v, &v));
    {
        let (q, k, v, d_o) = (view(&q), view(&k), view(&v), view(&d_o));
        let mut passes = Vec::new();
        if let Some(dq) = &mut dq {
            let sweep = Sweep::new(Roles { a: d_o, b: v, c: k }, None, Direction::Past);
            passes.push(Pass { sweep, outs: [Some(dq.target()), None], states: &mut state_turned });
        }
        if want_k || want_v || want_state {
            let sweep = Sweep::new(Roles { a: k, b: q, c: d_o }, Some(Roles { a: v, b: d_o, c: q }), Direction::Future);
            let outs = [&mut dv, &mut dk].map(|x| x.as_mut().map(NewTensor::target));
            passes.push(Pass { sweep, outs, states: &mut d_state });
        }
        run(&mut passes, &sequences, h, &decay(plan, h, longest(&sequences)));
    }
    let state = want_state.then(|| {
        let shape = Shape::new([sequences.len(), h, d_k, d_v]);
        FlexTensor::new(Bytes::from_elems(d_state), Layout::contiguous(shape), DType::F32)
    });
    let done = |x: Option<NewTensor>| {
        Maybe::new(x.map(|mut x| {
            // SAFETY: as in `forward`.
            unsafe { x.written() };
            x.finish()
        }))
    };
    InputGradients { q: done(dq), k: done(dk), v: done(dv), state: Maybe::new(state) }
}

/// The numbers of a tensor, in order.
fn values(x: FlexTensor) -> Vec<f32> {
    let x = x.to_contiguous();
    let start = x.layout().start_offset();
    x.storage::<f32>()[start..start + x.layout().num_elements()].to_vec()
}

/// Matrices `[rows, columns]`, each turned.
fn turned(x: &[f32], rows: usize, columns: usize) -> Vec<f32> {
    let mut y = Vec::with_capacity(x.len());
    for matrix in x.chunks_exact(rows * columns) {
        for column in 0..columns {
            y.extend(matrix[column..].iter().step_by(columns));
        }
    }
    y
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inputs(t: usize, state: FlexTensor) -> Inputs<Flex> {
        let draw = |shape: [usize; 4]| {
            let values = (0..shape.iter().product()).map(|i: usize| (i % 7) as f32 - 3.0).collect::<Vec<_>>();
            FlexTensor::new(Bytes::from_elems(values), Layout::contiguous(Shape::new(shape)), DType::F32)
        };
        Inputs { q: draw([1, 2, t, 3]), k: draw([1, 2, t, 3]), v: draw([1, 2, t, 5]), state }
    }

    #[test]
    fn a_state_that_nobody_else_holds_changes_where_it_lies() {
        let plan = Plan { slopes: None, scale: 1.0, block: 8, bounds: None };
        for t in [1, 4, 20] {
            let state = FlexTensor::zeros(Shape::new([1, 2, 3, 5]), DType::F32);
            let place = state.bytes().as_ptr();
            let (_, after) = forward(inputs(t, state), &plan);
            assert_eq!(after.bytes().as_ptr(), place, "{t} tokens");
            let held = after.clone();
            let (_, next) = forward(inputs(t, after), &plan);
            assert_eq!(held.bytes().as_ptr(), place, "{t} tokens");
            assert_ne!(next.bytes().as_ptr(), place, "{t} tokens");
        }
    }
}
