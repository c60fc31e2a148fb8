//! Attention as one node of the graph with two outputs.

use burn::backend::{
    Autodiff, Backend, TensorMetadata,
    autodiff::{
        NodeId,
        checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
        grads::Gradients as Tape,
        ops::{Backward, NodeGuard, Ops, OpsKind},
    },
    tensor::FloatTensor,
};

use crate::blocks::SecondOutput;

use super::{Inputs, Maybe, MaybeBool, Options, Saved, SoftmaxKernel};

impl<B: SoftmaxKernel, C: CheckpointStrategy> SoftmaxKernel for Autodiff<B, C> {
    fn softmax_forward(inputs: Inputs<Self>, options: Options) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let (q, node_q) = inputs.q.into_parts();
        let (k, node_k) = inputs.k.into_parts();
        let (v, node_v) = inputs.v.into_parts();
        let padding = match inputs.padding {
            MaybeBool::Some(padding) => MaybeBool::Some(padding),
            MaybeBool::None => MaybeBool::None,
        };
        let split = |x: Maybe<Self>| match x {
            Maybe::Some(x) => {
                let (x, node) = x.into_parts();
                (Maybe::Some(x), Some(node))
            }
            Maybe::None => (Maybe::None, None),
        };
        let ((bias, node_bias), (distances, node_distances)) = (split(inputs.bias), split(inputs.distances));
        let inputs = Inputs { q, k, v, bias, distances, padding };
        let [o, lse] = match (node_bias, node_distances) {
            (None, None) => attend::<B, C, 3>([node_q, node_k, node_v], inputs, options),
            (Some(node), None) | (None, Some(node)) => attend::<B, C, 4>([node_q, node_k, node_v, node], inputs, options),
            (Some(a), Some(b)) => attend::<B, C, 5>([node_q, node_k, node_v, a, b], inputs, options),
        };
        (o, lse)
    }
}

/// The parents are queries, keys, values and those of bias and bias by distance that there are.
fn attend<B: SoftmaxKernel, C: CheckpointStrategy, const N: usize>(
    parents: [NodeGuard; N],
    inputs: Inputs<B>,
    options: Options,
) -> [FloatTensor<Autodiff<B, C>>; 2] {
    let second = SecondOutput::<B>::new();
    let (o, lse) = B::softmax_forward(inputs.clone(), options);
    let o = match AttentionBackward.prepare::<C>(parents).compute_bound().stateful() {
        OpsKind::Tracked(prep) => {
            let state = State { inputs, options, o: o.clone(), lse: lse.clone(), d_lse: second.clone() };
            prep.finish(state, o)
        }
        OpsKind::UnTracked(prep) => prep.finish(o),
    };
    let lse = second.attach::<C>(&o, lse);
    [o, lse]
}

#[derive(Clone, Debug)]
struct State<B: Backend> {
    inputs: Inputs<B>,
    options: Options,
    o: FloatTensor<B>,
    lse: FloatTensor<B>,
    d_lse: SecondOutput<B>,
}

/// The node of the output, child of the inputs.
#[derive(Debug)]
struct AttentionBackward;

impl<B: SoftmaxKernel, const N: usize> Backward<B, N> for AttentionBackward {
    type State = State<B>;

    fn backward(self, ops: Ops<Self::State, N>, tape: &mut Tape, _: &mut Checkpointer) {
        let State { inputs, options, o, lse, d_lse } = ops.state;
        let [d_o, d_lse] = d_lse.cotangents(tape.consume::<B>(&ops.node), &o.shape());
        let parents: [Option<NodeId>; N] = ops.parents.map(|node| node.map(|node| node.id));
        let present = [true, true, true, matches!(inputs.bias, Maybe::Some(_)), matches!(inputs.distances, Maybe::Some(_))];
        let mut parents = parents.into_iter();
        let parents = present.map(|present| if present { parents.next().flatten() } else { None });
        let saved = Saved { o, lse, d_o: Maybe::new(d_o), d_lse: Maybe::new(d_lse) };
        let gradients = B::softmax_backward(inputs, options, saved, parents.map(|parent| parent.is_some()));
        let gradients = [gradients.q, gradients.k, gradients.v, gradients.bias, gradients.distances];
        for (parent, gradient) in parents.into_iter().zip(gradients) {
            if let (Some(parent), Maybe::Some(gradient)) = (parent, gradient) {
                tape.register::<B>(parent, gradient);
            }
        }
    }
}
