use std::{
    cell::RefCell,
    fmt::Debug,
    sync::{Arc, Mutex, PoisonError},
};

#[cfg(any(feature = "cuda", feature = "vulkan", feature = "metal", feature = "rocm"))]
use burn::backend::Cube;
use burn::{
    backend::{
        Autodiff, AutodiffBackend, Backend, BackendTensor, DispatchAutodiffContext, DispatchKindConversion, DispatchTensor,
        DispatchTensorKind, Flex, GradientCheckpointingStrategy,
        autodiff::{
            checkpoint::{
                base::Checkpointer,
                strategy::{BalancedCheckpointing, CheckpointStrategy, NoCheckpointing},
            },
            grads::Gradients,
            ops::{Backward, Ops, OpsKind},
        },
    },
    tensor::Tensor,
};

/// The hand-written backward pass of an operation with `N` inputs. It holds what the forward pass saved: tensors without autodiff.
pub(crate) trait GradientRule<const N: usize>: Debug + Send + Sync {
    /// The gradients of the inputs, given the gradient of the output; all tensors without autodiff. One that is not `wanted` is not
    /// used and may be `None`.
    fn gradients(&self, upstream: DispatchTensor, wanted: [bool; N]) -> [Option<DispatchTensor>; N];
}

/// `output` as a node of the autodiff graph that depends on `inputs` through `rule`, in place of the operations that computed it.
///
/// Without autodiff there is no graph to join: `output` as it is.
pub(crate) fn with_gradient<const D: usize, const N: usize>(
    inputs: [DispatchTensor; N],
    output: Tensor<D>,
    rule: Arc<dyn GradientRule<N>>,
) -> Tensor<D> {
    let strategy = inputs.iter().find_map(|x| match x.autodiff {
        DispatchAutodiffContext::Enabled(strategy) => Some(strategy),
        DispatchAutodiffContext::Disabled => None,
    });
    let Some(strategy) = strategy else { return output };
    let output = output.inner().into_dispatch();
    Tensor::from_dispatch(match (&output.kind, strategy) {
        (DispatchTensorKind::Flex(_), GradientCheckpointingStrategy::Disabled) => attach::<Flex, NoCheckpointing, N>(inputs, output, rule),
        (DispatchTensorKind::Flex(_), GradientCheckpointingStrategy::Balanced) => {
            attach::<Flex, BalancedCheckpointing, N>(inputs, output, rule)
        }
        #[cfg(any(feature = "cuda", feature = "vulkan", feature = "metal", feature = "rocm"))]
        (DispatchTensorKind::Cube(_), GradientCheckpointingStrategy::Disabled) => attach::<Cube, NoCheckpointing, N>(inputs, output, rule),
        #[cfg(any(feature = "cuda", feature = "vulkan", feature = "metal", feature = "rocm"))]
        (DispatchTensorKind::Cube(_), GradientCheckpointingStrategy::Balanced) => {
            attach::<Cube, BalancedCheckpointing, N>(inputs, output, rule)
        }
        (DispatchTensorKind::Autodiff(_), _) => unreachable!("`inner` took autodiff off"),
    })
}

/// The hand-written backward pass of an operation with `N` inputs and `M` outputs.
pub(crate) trait JointRule<const N: usize, const M: usize>: Debug + Send + Sync {
    /// As [`GradientRule::gradients`]; the gradient of an output that the loss does not depend on is `None`.
    fn gradients(&self, upstream: [Option<DispatchTensor>; M], wanted: [bool; N]) -> [Option<DispatchTensor>; N];
}

/// As [`with_gradient`], for an operation with several outputs.
pub(crate) fn with_gradients<const D: usize, const N: usize, const M: usize>(
    inputs: [DispatchTensor; N],
    outputs: [Tensor<D>; M],
    rule: impl JointRule<N, M> + 'static,
) -> [Tensor<D>; M] {
    // A node has one output. So the outputs are children of a node that is a number: they leave their gradients in these places and
    // send it a number, by which it knows that it has to run, after them.
    let number = number(&outputs[0]);
    let places = Places(Arc::new(Mutex::new([const { None }; M])));
    let whole = with_gradient(inputs, number, Arc::new(Joint { places: places.clone(), rule }));
    let mut index = 0;
    outputs.map(|output| {
        let part = Part { places: places.clone(), index };
        index += 1;
        with_gradient([whole.clone().into_dispatch()], output, Arc::new(part))
    })
}

/// The gradients of the outputs, until all are there.
#[derive(Clone, Debug)]
struct Places<const M: usize>(Arc<Mutex<[Option<DispatchTensor>; M]>>);

#[derive(Debug)]
struct Joint<R, const M: usize> {
    places: Places<M>,
    rule: R,
}

impl<R: JointRule<N, M>, const N: usize, const M: usize> GradientRule<N> for Joint<R, M> {
    fn gradients(&self, _: DispatchTensor, wanted: [bool; N]) -> [Option<DispatchTensor>; N] {
        let upstream = std::mem::replace(&mut *self.places.0.lock().unwrap_or_else(PoisonError::into_inner), [const { None }; M]);
        self.rule.gradients(upstream, wanted)
    }
}

#[derive(Debug)]
struct Part<const M: usize> {
    places: Places<M>,
    index: usize,
}

impl<const M: usize> GradientRule<1> for Part<M> {
    fn gradients(&self, upstream: DispatchTensor, _: [bool; 1]) -> [Option<DispatchTensor>; 1] {
        let number = number(&Tensor::<1>::from_dispatch(upstream.clone()));
        let mut places = self.places.0.lock().unwrap_or_else(PoisonError::into_inner);
        // One number is enough to be told; each more would cost a kernel that adds it.
        let first = places.iter().all(Option::is_none);
        places[self.index] = Some(upstream);
        [first.then(|| number.into_dispatch())]
    }
}

/// A number on the device and of the type of `like`: one for all nodes of a thread, or each would cost a kernel.
fn number<const D: usize>(like: &Tensor<D>) -> Tensor<1> {
    thread_local! {
        static NUMBERS: RefCell<Vec<Tensor<1>>> = const { RefCell::new(Vec::new()) };
    }
    let (device, dtype) = (like.device().inner(), like.dtype());
    NUMBERS.with_borrow_mut(|numbers| {
        let known = numbers.iter().position(|number| number.dtype() == dtype && number.device() == device);
        let index = known.unwrap_or_else(|| {
            numbers.push(Tensor::zeros([1], (&device, dtype)));
            numbers.len() - 1
        });
        numbers[index].clone()
    })
}

fn attach<B, C, const N: usize>(inputs: [DispatchTensor; N], output: DispatchTensor, rule: Arc<dyn GradientRule<N>>) -> DispatchTensor
where
    B: Backend,
    C: CheckpointStrategy,
    DispatchTensor: DispatchKindConversion<B> + DispatchKindConversion<Autodiff<B, C>>,
{
    let nodes = inputs.map(|x| {
        let x = if x.autodiff == DispatchAutodiffContext::Disabled {
            <Autodiff<B, C> as AutodiffBackend>::from_inner(primitive::<B>(x))
        } else {
            primitive::<Autodiff<B, C>>(x)
        };
        x.node()
    });
    let output = primitive::<B>(output);
    let output = match Attached.prepare::<C>(nodes).compute_bound().stateful() {
        OpsKind::Tracked(prep) => prep.finish(rule, output),
        OpsKind::UnTracked(prep) => prep.finish(output),
    };
    <DispatchTensor as DispatchKindConversion<Autodiff<B, C>>>::from_backend(BackendTensor::Float(output))
}

/// The tensor of one backend.
pub(crate) fn primitive<B: Backend>(tensor: DispatchTensor) -> B::FloatTensorPrimitive
where
    DispatchTensor: DispatchKindConversion<B>,
{
    <DispatchTensor as DispatchKindConversion<B>>::try_into_backend(tensor).unwrap_or_else(|e| panic!("{e}")).float()
}

/// The reverse of [`primitive`].
pub(crate) fn of_backend<B: Backend>(tensor: B::FloatTensorPrimitive) -> DispatchTensor
where
    DispatchTensor: DispatchKindConversion<B>,
{
    <DispatchTensor as DispatchKindConversion<B>>::from_backend(BackendTensor::Float(tensor))
}

/// The backward step of every operation with a [`GradientRule`].
#[derive(Debug)]
struct Attached;

impl<B, const N: usize> Backward<B, N> for Attached
where
    B: Backend,
    DispatchTensor: DispatchKindConversion<B>,
{
    type State = Arc<dyn GradientRule<N>>;

    fn backward(self, ops: Ops<Self::State, N>, grads: &mut Gradients, _: &mut Checkpointer) {
        let upstream = grads.consume::<B>(&ops.node);
        let upstream = of_backend::<B>(upstream);
        let wanted = ops.parents.each_ref().map(Option::is_some);
        for (parent, gradient) in ops.parents.into_iter().zip(ops.state.gradients(upstream, wanted)) {
            if let (Some(parent), Some(gradient)) = (parent, gradient) {
                grads.register::<B>(parent.id, primitive::<B>(gradient));
            }
        }
    }
}
