//! Operations with two outputs in the graph of automatic differentiation, whose nodes have one each: the node of the second output is a
//! child of the first's, run before it, and leaves its cotangent where the first finds it.

use std::sync::{Arc, Mutex};

use burn::{
    backend::{
        Autodiff, Backend, TensorMetadata,
        autodiff::{
            checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
            grads::Gradients,
            ops::{Backward, Ops, OpsKind},
        },
        tensor::FloatTensor,
    },
    tensor::{DType, Shape},
};

/// Where the node of the second output leaves its cotangent for the node of the first.
#[derive(Clone, Debug)]
pub(crate) struct SecondOutput<B: Backend>(Arc<Mutex<Option<FloatTensor<B>>>>);

impl<B: Backend> SecondOutput<B> {
    pub(crate) fn new() -> Self {
        Self(Arc::default())
    }

    /// `second` as a tensor of the graph, given the first output of the operation.
    pub(crate) fn attach<C: CheckpointStrategy>(
        self,
        first: &FloatTensor<Autodiff<B, C>>,
        second: FloatTensor<B>,
    ) -> FloatTensor<Autodiff<B, C>> {
        match Second.prepare::<C>([first.node()]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish((self, first.dtype()), second),
            OpsKind::UnTracked(prep) => prep.finish(second),
        }
    }

    /// The cotangents of both outputs, `None` for zeros, given what arrived at the node of the first, whose shape is `first`.
    pub(crate) fn cotangents(self, upstream: FloatTensor<B>, first: &Shape) -> [Option<FloatTensor<B>>; 2] {
        // If only the second output is used, what arrived is its placeholder.
        let upstream = (upstream.shape() == *first).then_some(upstream);
        [upstream, self.0.lock().ok().and_then(|mut slot| slot.take())]
    }
}

/// Leaves the cotangent in the slot, and a zero that keeps the other node from going without one.
#[derive(Debug)]
struct Second;

impl<B: Backend> Backward<B, 1> for Second {
    /// With the type of the first output: cotangents of one tensor have one type.
    type State = (SecondOutput<B>, DType);

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let cotangent = grads.consume::<B>(&ops.node);
        let [Some(first)] = ops.parents else { return };
        let (second, dtype) = ops.state;
        let zero = B::float_zeros(Shape::new([1, 1, 1, 1]), &cotangent.device(), dtype.into());
        if let Ok(mut slot) = second.0.lock() {
            *slot = Some(cotangent);
        }
        grads.register::<B>(first.id, zero);
    }
}
