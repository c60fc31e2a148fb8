//! Kimi Delta Attention as one node of the graph with two outputs.

use burn::backend::{
    Autodiff, Backend, TensorMetadata,
    autodiff::{
        checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
        grads::Gradients as Tape,
        ops::{Backward, Ops, OpsKind},
    },
};

use super::{Inputs, KimiDeltaKernel, Options, Output, Saved};
use crate::blocks::{Maybe, SecondCotangent, second_output};

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
        let d_state = SecondCotangent::<B>::default();
        let (o, state, states) = match KimiDeltaBackward.prepare::<C>(parents).compute_bound().stateful() {
            OpsKind::Tracked(prep) => {
                let Output { o, state, states } = B::kimi_delta_forward(inputs.clone(), options.clone(), true);
                let kept = Kept { inputs, options, states: states.clone(), shape: o.shape().dims(), d_state: d_state.clone() };
                (prep.finish(kept, o), state, states)
            }
            OpsKind::UnTracked(prep) => {
                let Output { o, state, states } = B::kimi_delta_forward(inputs, options, false);
                (prep.finish(o), state, states)
            }
        };
        let state = second_output::<B, C>(&o, state, d_state);
        Output { o, state, states: <Self as burn::backend::AutodiffBackend>::from_inner(states) }
    }

    fn kimi_delta_backward(_: Inputs<Self>, _: Options, _: Saved<Self>) -> super::Gradients<Self> {
        unreachable!("the backward pass runs on the backend below")
    }
}

#[derive(Clone, Debug)]
struct Kept<B: Backend> {
    inputs: Inputs<B>,
    options: Options,
    states: burn::backend::tensor::FloatTensor<B>,
    shape: [usize; 4],
    d_state: SecondCotangent<B>,
}

/// The node of the output, child of the inputs.
#[derive(Debug)]
struct KimiDeltaBackward;

impl<B: KimiDeltaKernel> Backward<B, 6> for KimiDeltaBackward {
    type State = Kept<B>;

    fn backward(self, ops: Ops<Self::State, 6>, tape: &mut Tape, _: &mut Checkpointer) {
        let Kept { inputs, options, states, shape, d_state } = ops.state;
        let d_o = tape.consume::<B>(&ops.node);
        // If only the state is used, what arrives is its placeholder.
        let d_o = if d_o.shape().dims::<4>() == shape { Maybe::Some(d_o) } else { Maybe::None };
        let saved = Saved { states, d_o, d_state: Maybe::new(d_state.take()) };
        let gradients = B::kimi_delta_backward(inputs, options, saved);
        let super::Gradients { q, k, v, g, beta, state } = gradients;
        for (parent, gradient) in ops.parents.into_iter().zip([q, k, v, g, beta, state]) {
            if let Some(parent) = parent {
                tape.register::<B>(parent.id, gradient);
            }
        }
    }
}
