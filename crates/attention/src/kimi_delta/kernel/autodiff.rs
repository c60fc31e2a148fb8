//! Kimi Delta Attention as one node of the graph with two outputs.

use burn::{
    backend::{
        Autodiff, AutodiffBackend, Backend, TensorMetadata,
        autodiff::{
            checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
            grads::Gradients as Tape,
            ops::{Backward, Ops, OpsKind},
        },
        tensor::FloatTensor,
    },
    tensor::Shape,
};

use super::{Inputs, KimiDeltaKernel, Options, Output, Saved};
use crate::blocks::{Maybe, SecondOutput};

impl<B: KimiDeltaKernel, C: CheckpointStrategy> KimiDeltaKernel for Autodiff<B, C> {
    fn kimi_delta_forward(inputs: Inputs<Self>, options: Options, _: bool) -> Output<Self> {
        let (q, node_q) = inputs.q.into_parts();
        let (k, node_k) = inputs.k.into_parts();
        let (v, node_v) = inputs.v.into_parts();
        let (g, node_g) = inputs.g.into_parts();
        let (beta, node_beta) = inputs.beta.into_parts();
        let (state, node_state) = inputs.state.into_parts();
        let inputs = Inputs { q, k, v, g, beta, state };
        let parents = [node_q, node_k, node_v, node_g, node_beta, node_state];
        let second = SecondOutput::<B>::new();
        let (o, state, states) = match KimiDeltaBackward.prepare::<C>(parents).compute_bound().stateful() {
            OpsKind::Tracked(prep) => {
                let Output { o, state, states } = B::kimi_delta_forward(inputs.clone(), options.clone(), true);
                let kept = Kept { inputs, options, states: states.clone(), shape: o.shape(), second: second.clone() };
                (prep.finish(kept, o), state, states)
            }
            OpsKind::UnTracked(prep) => {
                let Output { o, state, states } = B::kimi_delta_forward(inputs, options, false);
                (prep.finish(o), state, states)
            }
        };
        let state = second.attach::<C>(&o, state);
        Output { o, state, states: <Self as AutodiffBackend>::from_inner(states) }
    }

    fn kimi_delta_backward(_: Inputs<Self>, _: Options, _: Saved<Self>) -> super::Gradients<Self> {
        unreachable!("the backward pass runs on the backend below")
    }
}

#[derive(Clone, Debug)]
struct Kept<B: Backend> {
    inputs: Inputs<B>,
    options: Options,
    states: FloatTensor<B>,
    shape: Shape,
    second: SecondOutput<B>,
}

/// The node of the output, child of the inputs.
#[derive(Debug)]
struct KimiDeltaBackward;

impl<B: KimiDeltaKernel> Backward<B, 6> for KimiDeltaBackward {
    type State = Kept<B>;

    fn backward(self, ops: Ops<Self::State, 6>, tape: &mut Tape, _: &mut Checkpointer) {
        let Kept { inputs, options, states, shape, second } = ops.state;
        let [d_o, d_state] = second.cotangents(tape.consume::<B>(&ops.node), &shape).map(Maybe::new);
        let saved = Saved { states, d_o, d_state };
        let gradients = B::kimi_delta_backward(inputs, options, saved);
        let super::Gradients { q, k, v, g, beta, state } = gradients;
        for (parent, gradient) in ops.parents.into_iter().zip([q, k, v, g, beta, state]) {
            if let Some(parent) = parent {
                tape.register::<B>(parent.id, gradient);
            }
        }
    }
}
