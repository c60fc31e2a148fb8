//! Long sequences, a run of tokens at a time: a run fits the caches, and training keeps the states between the runs instead of what
//! their operations leave behind.

use std::sync::Arc;

use burn::{
    backend::DispatchTensor,
    tensor::{Bool, Tensor},
};

use super::{causal::FlowState, options::FlowOptions};
use crate::blocks::{GradientRule, with_gradient};

/// Rows (tokens × heads × sequences) of a run.
const RUN_ROWS: usize = 4096;

/// Least tokens of a run, however many heads and sequences there are.
const RUN_TOKENS: usize = 256;

/// Tokens of a run of `rows` sequences × heads.
pub(super) fn run_length(rows: usize) -> usize {
    (RUN_ROWS / rows.max(1)).next_power_of_two().max(RUN_TOKENS)
}

/// Tokens on their way, without autodiff.
#[derive(Clone, Debug)]
struct Tokens {
    /// q, k, v, each `[B, H, T, _]`.
    qkv: [Tensor<4>; 3],
    /// `[B, 1, T, 1]`
    hidden: Option<Tensor<4, Bool>>,
    options: FlowOptions,
    run: usize,
}

impl Tokens {
    /// Start and length of each run.
    fn runs(&self) -> impl DoubleEndedIterator<Item = (usize, usize)> + ExactSizeIterator + use<> {
        let (t, run) = (self.qkv[0].dims()[2], self.run);
        (0..t.div_ceil(run)).map(move |i| (i * run, run.min(t - i * run)))
    }

    fn cut(&self, start: usize, length: usize) -> ([Tensor<4>; 3], Option<Tensor<4, Bool>>) {
        (self.qkv.clone().map(|x| x.narrow(2, start, length)), self.hidden.clone().map(|x| x.narrow(2, start, length)))
    }
}

/// Whether the loss may depend on the state after the tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum StateGradient {
    /// It may.
    Computed,
    /// It may not, which saves passes over memory: the state has the right values and no gradient.
    Left,
}

/// As [`FlowState::advance`], in runs of `run` tokens.
pub(super) fn advance_by_runs(
    state: &mut FlowState,
    qkv: [Tensor<4>; 3],
    hidden: Option<Tensor<4, Bool>>,
    options: &FlowOptions,
    run: usize,
    state_gradient: StateGradient,
) -> Tensor<4> {
    let [q, k, v] = qkv.clone();
    let [a, b, c, d, e, f] = state.sums().map(Tensor::clone);
    let inputs = [q, k, v, a, b, c, d, e, f];
    let autodiff = inputs.iter().any(Tensor::is_autodiff);
    let tracked = inputs.iter().any(Tensor::is_tracked);
    let tokens = Tokens { qkv: qkv.map(Tensor::inner), hidden: hidden.map(Tensor::inner), options: options.clone(), run };

    let mut now = state.map(Tensor::inner);
    let (mut outputs, mut starts) = (Vec::new(), Vec::new());
    for (start, length) in tokens.runs() {
        if tracked {
            starts.push(now.clone());
        }
        let (qkv, hidden) = tokens.cut(start, length);
        outputs.push(now.advance(qkv, hidden.as_ref(), options));
    }
    let o = Tensor::cat(outputs, 2);
    if !autodiff {
        *state = now;
        return o;
    }
    let inputs = inputs.map(Tensor::into_dispatch);
    let after = now.map(Tensor::autodiff);
    if state_gradient == StateGradient::Left {
        *state = after;
        return with_gradient(inputs, o, Arc::new(Runs { tokens, starts, end: now, row: None }));
    }
    // One node of the graph has one output: all of them in one row.
    let row = Row::of(&o, &now);
    let joined = Row::join(o, &now);
    let joined = with_gradient(inputs, joined, Arc::new(Runs { tokens, starts, end: now, row: Some(row.clone()) }));
    let (o, sums) = row.split(&joined);
    *state = after.with_sums(sums);
    o
}

/// The shapes of an output and of the sums after it, and how they lie in one row.
#[derive(Clone, Debug)]
pub(super) struct Row([[usize; 4]; 7]);

impl Row {
    pub(super) fn of(o: &Tensor<4>, state: &FlowState) -> Self {
        let [a, b, c, d, e, f] = state.sums().map(Tensor::dims);
        Self([o.dims(), a, b, c, d, e, f])
    }

    pub(super) fn join(o: Tensor<4>, state: &FlowState) -> Tensor<1> {
        let sums = state.sums().map(|x| x.clone().reshape([-1]));
        Tensor::cat(std::iter::once(o.reshape([-1])).chain(sums).collect(), 0)
    }

    pub(super) fn split(&self, row: &Tensor<1>) -> (Tensor<4>, [Tensor<4>; 6]) {
        let mut start = 0;
        let [o, a, b, c, d, e, f] = self.0.map(|shape| {
            let length = shape.iter().product();
            start += length;
            row.clone().narrow(0, start - length, length).reshape(shape)
        });
        (o, [a, b, c, d, e, f])
    }
}

/// Backward through the runs, the last first: each is computed again from the state before it.
#[derive(Debug)]
struct Runs {
    tokens: Tokens,
    /// The states before the runs.
    starts: Vec<FlowState>,
    /// The state after the last of them.
    end: FlowState,
    /// How output and state are joined; `None` if the output stands alone.
    row: Option<Row>,
}

impl GradientRule<9> for Runs {
    fn gradients(&self, upstream: DispatchTensor, _: [bool; 9]) -> [Option<DispatchTensor>; 9] {
        let (d_o, mut d_sums) = match &self.row {
            Some(row) => row.split(&Tensor::from_dispatch(upstream)),
            None => (Tensor::from_dispatch(upstream), self.end.sums().map(Tensor::zeros_like)),
        };
        let mut d_qkv = [Vec::new(), Vec::new(), Vec::new()];
        for ((start, length), state) in self.tokens.runs().zip(&self.starts).rev() {
            let (qkv, hidden) = self.tokens.cut(start, length);
            let qkv = qkv.map(|x| x.autodiff().require_grad());
            let before = state.map(Tensor::autodiff);
            let before = before.with_sums(before.sums().map(|x| x.clone().require_grad()));
            let mut after = before.clone();
            let o = after.advance(qkv.clone(), hidden.as_ref(), &self.tokens.options);
            let product = |x: Tensor<4>, d: Tensor<4>| (x * d.autodiff()).sum();
            let loss = after.sums().into_iter().cloned().zip(d_sums.clone()).map(|(x, d)| product(x, d));
            let grads = loss.fold(product(o, d_o.clone().narrow(2, start, length)), |a, b| a + b).backward();
            let gradient = |x: &Tensor<4>| x.grad(&grads).unwrap_or_else(|| x.clone().inner().zeros_like());
            for (all, x) in d_qkv.iter_mut().zip(&qkv) {
                all.push(gradient(x));
            }
            d_sums = before.sums().map(gradient);
        }
        let [q, k, v] = d_qkv.map(|mut runs| {
            runs.reverse();
            Tensor::cat(runs, 2)
        });
        let [a, b, c, d, e, f] = d_sums;
        [q, k, v, a, b, c, d, e, f].map(|x| Some(x.into_dispatch()))
    }
}
