//! The bidirectional form on the CPU, as one node of the graph.

use std::sync::Arc;

use burn::{
    backend::{DispatchTensor, Flex, flex::FlexTensor},
    tensor::{Bool, Tensor},
};

use super::{
    cpu::{Rules, whole},
    flat,
};
use crate::{
    blocks::{GradientRule, of_backend, primitive, with_gradient},
    flow_attention::options::FlowOptions,
};

/// The outputs for tokens, at least one query and one key, for which [`takes`](super::takes) says yes; `hidden`: queries and keys.
pub(in super::super) fn attend(qkv: [Tensor<4>; 3], hidden: [Option<&Tensor<4, Bool>>; 2], options: &FlowOptions) -> Tensor<4> {
    let rules = Rules::new(options);
    let hidden = hidden.map(|hidden| hidden.map(|hidden| hidden.clone().inner().into_data().iter::<bool>().collect::<Vec<_>>()));
    let inner = qkv.clone().map(flat);
    let (o, numbers) = whole::forward(inner.clone(), hidden.each_ref().map(Option::as_deref), rules);
    let o = Tensor::from_dispatch(of_backend::<Flex>(o));
    if !qkv.iter().any(Tensor::is_autodiff) {
        return o;
    }
    with_gradient(qkv.map(Tensor::into_dispatch), o, Arc::new(Saved { qkv: inner, hidden, rules, numbers }))
}

/// What the backward pass needs.
#[derive(Debug)]
struct Saved {
    qkv: [FlexTensor; 3],
    /// `[B, L]` and `[B, S]`
    hidden: [Option<Vec<bool>>; 2],
    rules: Rules,
    numbers: whole::Saved,
}

impl GradientRule<3> for Saved {
    fn gradients(&self, upstream: DispatchTensor, _: [bool; 3]) -> [Option<DispatchTensor>; 3] {
        let hidden = self.hidden.each_ref().map(Option::as_deref);
        let gradients = whole::backward(self.qkv.each_ref(), hidden, self.rules, &self.numbers, primitive::<Flex>(upstream));
        gradients.map(|x| Some(of_backend::<Flex>(x)))
    }
}
