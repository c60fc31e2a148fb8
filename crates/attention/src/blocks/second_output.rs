use std::sync::{Arc, Mutex};

use burn::{
    backend::{
        Autodiff, Backend, TensorMetadata,
        autodiff::{
            checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
            grads::Gradients as Tape,
            ops::{Backward, Ops, OpsKind},
        },
        tensor::FloatTensor,
    },
    tensor::Shape,
};

/// Where the node of an operation's second output leaves its cotangent for the node of the first.
#[derive(Clone, Debug)]
pub(crate) struct SecondCotangent<B: Backend>(Arc<Mutex<Option<FloatTensor<B>>>>);

impl<B: Backend> Default for SecondCotangent<B> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<B: Backend> SecondCotangent<B> {
    /// The cotangent, once the second output's node has run; none if that output is not used.
    pub(crate) fn take(&self) -> Option<FloatTensor<B>> {
        self.0.lock().ok().and_then(|mut slot| slot.take())
    }
}

/// The second output of an operation whose first is `first`. A step of the graph has one output, so the second is a child of the
/// first, run before it in the backward pass: it leaves its cotangent in `slot`, and a zero of shape `[1, 1, 1, 1]` that keeps the
/// first's step from going without a cotangent, and by whose shape it can tell that it got no other.
pub(crate) fn second_output<B: Backend, C: CheckpointStrategy>(
    first: &FloatTensor<Autodiff<B, C>>,
    second: FloatTensor<B>,
    slot: SecondCotangent<B>,
) -> FloatTensor<Autodiff<B, C>> {
    match SecondBackward.prepare::<C>([first.node()]).compute_bound().stateful() {
        OpsKind::Tracked(prep) => prep.finish(slot, second),
        OpsKind::UnTracked(prep) => prep.finish(second),
    }
}

#[derive(Debug)]
struct SecondBackward;

impl<B: Backend> Backward<B, 1> for SecondBackward {
    type State = SecondCotangent<B>;

    fn backward(self, ops: Ops<Self::State, 1>, tape: &mut Tape, _: &mut Checkpointer) {
        let cotangent = tape.consume::<B>(&ops.node);
        let [Some(first)] = ops.parents else { return };
        let zero = B::float_zeros(Shape::new([1, 1, 1, 1]), &cotangent.device(), cotangent.dtype().into());
        if let Ok(mut slot) = ops.state.0.lock() {
            *slot = Some(cotangent);
        }
        tape.register::<B>(first.id, zero);
    }
}
