//! The fused forms on the CPU, each as one node of the graph: tokens, state and their gradients in f32. This is the causal one.

mod cpu;
mod whole;

use std::sync::Arc;

use burn::{
    backend::{DispatchTensor, Flex, flex::FlexTensor},
    tensor::{Bool, Tensor},
};

use super::{
    causal::FlowState,
    options::FlowOptions,
    runs::{Row, StateGradient},
};
use crate::blocks::{GradientRule, kernel::on_cpu, of_backend, primitive, with_gradient};
use cpu::{Rules, State};
pub(super) use whole::attend;

/// Whether these tokens run on the fused kernel.
pub(super) fn takes(x: &Tensor<4>) -> bool {
    on_cpu(&x.device(), x.dtype())
}

/// The outputs of the next tokens, T ≥ 1, for which [`takes`] says yes; the state moves behind them, in its own memory if nobody else
/// holds it and no gradient is wanted.
pub(super) fn advance(
    state: &mut FlowState,
    qkv: [Tensor<4>; 3],
    hidden: Option<&Tensor<4, Bool>>,
    options: &FlowOptions,
    state_gradient: StateGradient,
) -> Tensor<4> {
    let rules = Rules::new(options);
    let flags: Option<Vec<bool>> = hidden.map(|hidden| hidden.clone().inner().into_data().iter::<bool>().collect());
    let [b, _, t, _] = qkv[0].dims();
    let before: Vec<f32> = state.tokens.clone().inner().into_data().iter::<f32>().collect();
    let present = |b: usize| flags.as_ref().map_or(t, |flags| flags[b * t..][..t].iter().filter(|hidden| !**hidden).count());
    let counts: Vec<f32> = before.iter().enumerate().map(|(b, n)| n + present(b) as f32).collect();
    let device = state.kv.device();
    let tokens = Tensor::<1>::from_data(counts.as_slice(), &device).reshape([b, 1, 1, 1]);

    let autodiff = qkv.iter().chain(state.sums()).any(Tensor::is_autodiff);
    if !autodiff {
        let empty = Tensor::empty([0, 0, 0, 0], &device);
        let old = std::mem::replace(state, FlowState::of(std::array::from_fn(|_| empty.clone()), empty.clone()));
        let (o, after) = cpu::forward(qkv.map(flat), flags.as_deref(), rules, flat_state(old), &before);
        *state = FlowState::of(tensors(after), tokens);
        return Tensor::from_dispatch(of_backend::<Flex>(o));
    }
    let [q, k, v] = qkv.clone();
    let [a, b, c, d, e, f] = state.sums().map(Tensor::clone);
    let inputs = [q, k, v, a, b, c, d, e, f];
    let saved = Saved { qkv: qkv.map(flat), hidden: flags, rules, state: flat_state(state.clone()), tokens: before, row: None };
    let (o, after) = cpu::forward(saved.qkv.clone(), saved.hidden.as_deref(), rules, saved.state.clone(), &saved.tokens);
    let o: Tensor<4> = Tensor::from_dispatch(of_backend::<Flex>(o));
    let after = FlowState::of(tensors(after), tokens.inner());
    let inputs = inputs.map(Tensor::into_dispatch);
    if state_gradient == StateGradient::Left {
        *state = after.map(Tensor::autodiff);
        return with_gradient(inputs, o, Arc::new(saved));
    }
    // One node of the graph has one output: all of them in one row.
    let row = Row::of(&o, &after);
    let joined = Row::join(o, &after);
    let joined = with_gradient(inputs, joined, Arc::new(Saved { row: Some(row.clone()), ..saved }));
    let (o, sums) = row.split(&joined);
    *state = after.map(Tensor::autodiff).with_sums(sums);
    o
}

/// The tensor without automatic differentiation.
fn flat(x: Tensor<4>) -> FlexTensor {
    primitive::<Flex>(if x.is_autodiff() { x.inner() } else { x }.into_dispatch())
}

fn flat_state(state: FlowState) -> State<FlexTensor> {
    let FlowState { sum_k, sum_q, sum_k_outgoing, sum_q_incoming, log_sum_exp, kv, tokens: _ } = state;
    State { sums: [sum_k, sum_q, sum_k_outgoing, sum_q_incoming], log_sum_exp, kv }.map(flat)
}

fn in_order<X>(state: State<X>) -> [X; 6] {
    let State { sums: [a, b, c, d], log_sum_exp, kv } = state;
    [a, b, c, d, log_sum_exp, kv]
}

fn tensors(state: State<FlexTensor>) -> [Tensor<4>; 6] {
    in_order(state).map(|x| Tensor::from_dispatch(of_backend::<Flex>(x)))
}

/// What the backward pass needs: the inputs, and the state before them.
#[derive(Debug)]
struct Saved {
    qkv: [FlexTensor; 3],
    /// `[B, T]`
    hidden: Option<Vec<bool>>,
    rules: Rules,
    state: State<FlexTensor>,
    tokens: Vec<f32>,
    /// How output and state are joined; `None` if the output stands alone.
    row: Option<Row>,
}

impl GradientRule<9> for Saved {
    fn gradients(&self, upstream: DispatchTensor, _: [bool; 9]) -> [Option<DispatchTensor>; 9] {
        let (d_o, d_state) = match &self.row {
            Some(row) => {
                let (d_o, [a, b, c, d, log_sum_exp, kv]) = row.split(&Tensor::from_dispatch(upstream));
                (flat(d_o), Some(State { sums: [a, b, c, d], log_sum_exp, kv }.map(flat)))
            }
            None => (primitive::<Flex>(upstream), None),
        };
        let state = (&self.state, &self.tokens[..]);
        let qkv = self.qkv.each_ref();
        let ([q, k, v], state) = cpu::backward(qkv, self.hidden.as_deref(), self.rules, state, (d_o, d_state));
        let [a, b, c, d, e, f] = in_order(state);
        [q, k, v, a, b, c, d, e, f].map(|x| Some(of_backend::<Flex>(x)))
    }
}
