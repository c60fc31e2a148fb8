#[cfg(any(feature = "cuda", feature = "vulkan", feature = "metal", feature = "rocm"))]
use burn::backend::Cube;
use burn::backend::{
    Autodiff, Backend, Flex,
    autodiff::{
        NodeId,
        checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
        grads::Gradients,
        ops::{Backward, Ops, OpsKind},
    },
    backend_extension,
    tensor::FloatTensor,
};

use super::{Plan, passes};
use crate::blocks::raw::Raw;

/// The two passes of [`decayed_product`](super::decayed_product) as operations of a backend.
#[backend_extension(
    Flex,
    Cube: cfg(any(feature = "cuda", feature = "vulkan", feature = "metal", feature = "rocm")),
    Autodiff
)]
pub(crate) trait DecayedProduct: Backend {
    /// Output `[B, H, T, V]` and final state `[B, H, K, V]` in one tensor, joined on axis 2: an operation has one result for automatic
    /// differentiation.
    fn decayed_product(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        state: FloatTensor<Self>,
        plan: Plan,
    ) -> FloatTensor<Self> {
        passes::forward::<Self>([Raw(q), Raw(k), Raw(v)], Raw(state), &plan).0
    }

    /// Gradients of `q`, `k`, `v` and `state` from `grad`, the gradient of the joined result.
    fn decayed_product_backward(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        state: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        plan: Plan,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        let [dq, dk, dv, ds] = passes::backward::<Self>([Raw(q), Raw(k), Raw(v)], Raw(state), Raw(grad), &plan);
        (dq.0, dk.0, dv.0, ds.0)
    }
}

impl DecayedProduct for Flex {}

#[cfg(any(feature = "cuda", feature = "vulkan", feature = "metal", feature = "rocm"))]
impl DecayedProduct for Cube {}

impl<B: DecayedProduct, C: CheckpointStrategy> DecayedProduct for Autodiff<B, C> {
    fn decayed_product(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        state: FloatTensor<Self>,
        plan: Plan,
    ) -> FloatTensor<Self> {
        let nodes = [q.node(), k.node(), v.node(), state.node()];
        let run = |[q, k, v, state]: [FloatTensor<Self>; 4], plan| {
            B::decayed_product(q.into_primitive(), k.into_primitive(), v.into_primitive(), state.into_primitive(), plan)
        };
        match Node.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(mut prep) => {
                let saved = [&q, &k, &v, &state].map(|x| prep.checkpoint(x));
                prep.finish((saved, plan.clone()), run([q, k, v, state], plan))
            }
            OpsKind::UnTracked(prep) => prep.finish(run([q, k, v, state], plan)),
        }
    }
}

/// The backward step of the product.
#[derive(Debug)]
struct Node;

impl<B: DecayedProduct> Backward<B, 4> for Node {
    type State = ([NodeId; 4], Plan);

    fn backward(self, ops: Ops<Self::State, 4>, grads: &mut Gradients, checkpointer: &mut Checkpointer) {
        let (saved, plan) = ops.state;
        let grad = grads.consume::<B>(&ops.node);
        let [q, k, v, state] = saved.map(|id| checkpointer.retrieve_node_output::<FloatTensor<B>>(id));
        let (dq, dk, dv, ds) = B::decayed_product_backward(q, k, v, state, grad, plan);
        for (parent, gradient) in ops.parents.into_iter().zip([dq, dk, dv, ds]) {
            if let Some(parent) = parent {
                grads.register::<B>(parent.id, gradient);
            }
        }
    }
}
