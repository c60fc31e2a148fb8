//! The product as one node of the graph with two outputs.

use burn::backend::{
    Autodiff, TensorMetadata,
    autodiff::{
        NodeId,
        checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
        grads::Gradients,
        ops::{Backward, Ops, OpsKind},
    },
    tensor::FloatTensor,
};
use burn::tensor::Shape;

use super::{
    Plan,
    extension::{Cotangents, DecayedProduct, InputGradients, Inputs},
};
use crate::blocks::{Maybe, SecondOutput};

impl<B: DecayedProduct, C: CheckpointStrategy> DecayedProduct for Autodiff<B, C> {
    fn decayed_product(inputs: Inputs<Self>, plan: Plan) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let Inputs { q, k, v, state } = inputs;
        let nodes = [q.node(), k.node(), v.node(), state.node()];
        let run = |[q, k, v, state]: [FloatTensor<Self>; 4], plan| {
            let [q, k, v, state] = [q, k, v, state].map(FloatTensor::<Self>::into_primitive);
            B::decayed_product(Inputs { q, k, v, state }, plan)
        };
        let second = SecondOutput::<B>::new();
        let (o, state) = match Node.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(mut prep) => {
                let saved = [&q, &k, &v, &state].map(|x| prep.checkpoint(x));
                let (o, state) = run([q, k, v, state], plan.clone());
                (prep.finish(Saved { inputs: saved, plan, o: o.shape(), second: second.clone() }, o), state)
            }
            OpsKind::UnTracked(prep) => {
                let (o, state) = run([q, k, v, state], plan);
                (prep.finish(o), state)
            }
        };
        let state = second.attach::<C>(&o, state);
        (o, state)
    }
}

/// What the backward step needs.
#[derive(Clone, Debug)]
struct Saved<B: DecayedProduct> {
    inputs: [NodeId; 4],
    plan: Plan,
    o: Shape,
    second: SecondOutput<B>,
}

/// The backward step of the product.
#[derive(Debug)]
struct Node;

impl<B: DecayedProduct> Backward<B, 4> for Node {
    type State = Saved<B>;

    fn backward(self, ops: Ops<Self::State, 4>, grads: &mut Gradients, checkpointer: &mut Checkpointer) {
        let Saved { inputs, plan, o, second } = ops.state;
        let [o, d_state] = second.cotangents(grads.consume::<B>(&ops.node), &o).map(Maybe::new);
        let [q, k, v, state] = inputs.map(|id| checkpointer.retrieve_node_output::<FloatTensor<B>>(id));
        let wanted = ops.parents.each_ref().map(Option::is_some);
        let cotangents = Cotangents { o, state: d_state };
        let InputGradients { q, k, v, state } = B::decayed_product_backward(Inputs { q, k, v, state }, plan, cotangents, wanted);
        for (parent, gradient) in ops.parents.into_iter().zip([q, k, v, state]) {
            if let (Some(parent), Maybe::Some(gradient)) = (parent, gradient) {
                grads.register::<B>(parent.id, gradient);
            }
        }
    }
}
