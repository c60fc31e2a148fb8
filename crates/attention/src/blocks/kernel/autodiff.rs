//! The gradients of the kernels: each saves its inputs (the sigmoid its output) alone and calls the backward kernel.

use burn::backend::{
    Autodiff, Backend,
    autodiff::{
        NodeId,
        checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
        grads::Gradients,
        ops::{Backward, Ops, OpsKind},
    },
    tensor::{FloatTensor, IntTensor},
};

use super::{KernelOps, Kernels};

impl<B: Kernels + KernelOps, C: CheckpointStrategy> KernelOps for Autodiff<B, C> {
    fn fused_gelu(x: FloatTensor<Self>) -> FloatTensor<Self> {
        #[derive(Debug)]
        struct Gelu;
        impl<B: Kernels> Backward<B, 1> for Gelu {
            type State = FloatTensor<B>;

            fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
                let grad = grads.consume::<B>(&ops.node);
                if let [Some(x)] = ops.parents {
                    grads.register::<B>(x.id, B::gelu_backward_pass(ops.state, grad));
                }
            }
        }
        match Gelu.prepare::<C>([x.node()]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => {
                let x = x.primitive().clone();
                prep.finish(x.clone(), B::gelu_forward(x))
            }
            OpsKind::UnTracked(prep) => prep.finish(B::gelu_forward(x.into_primitive())),
        }
    }

    fn fused_sigmoid(x: FloatTensor<Self>) -> FloatTensor<Self> {
        #[derive(Debug)]
        struct Sigmoid;
        impl<B: Kernels> Backward<B, 1> for Sigmoid {
            type State = FloatTensor<B>;

            fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
                let grad = grads.consume::<B>(&ops.node);
                if let [Some(x)] = ops.parents {
                    grads.register::<B>(x.id, B::sigmoid_backward_pass(ops.state, grad));
                }
            }
        }
        match Sigmoid.prepare::<C>([x.node()]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => {
                let y = B::sigmoid_forward(x.primitive().clone());
                prep.finish(y.clone(), y)
            }
            OpsKind::UnTracked(prep) => prep.finish(B::sigmoid_forward(x.into_primitive())),
        }
    }

    fn fused_silu_gate(a: FloatTensor<Self>, b: FloatTensor<Self>) -> FloatTensor<Self> {
        #[derive(Debug)]
        struct SiluGate;
        impl<B: Kernels> Backward<B, 2> for SiluGate {
            type State = [FloatTensor<B>; 2];

            fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
                let grad = grads.consume::<B>(&ops.node);
                let [a, b] = ops.state;
                register::<B>(grads, ops.parents.map(|p| p.map(|p| p.id)), B::silu_gate_backward(a, b, grad));
            }
        }
        let run = B::silu_gate_forward;
        match SiluGate.prepare::<C>([a.node(), b.node()]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => {
                let (a, b) = (a.primitive().clone(), b.primitive().clone());
                prep.finish([a.clone(), b.clone()], run(a, b))
            }
            OpsKind::UnTracked(prep) => prep.finish(run(a.into_primitive(), b.into_primitive())),
        }
    }

    fn fused_norm(x: FloatTensor<Self>, gamma: FloatTensor<Self>, epsilon: f64, center: bool) -> FloatTensor<Self> {
        #[derive(Debug)]
        struct Norm {
            epsilon: f64,
            center: bool,
        }
        impl<B: Kernels> Backward<B, 2> for Norm {
            type State = [FloatTensor<B>; 2];

            fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
                let grad = grads.consume::<B>(&ops.node);
                let [x, gamma] = ops.state;
                let both = B::norm_backward(x, gamma, grad, self.epsilon, self.center);
                register::<B>(grads, ops.parents.map(|p| p.map(|p| p.id)), both);
            }
        }
        match (Norm { epsilon, center }).prepare::<C>([x.node(), gamma.node()]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => {
                let (x, gamma) = (x.primitive().clone(), gamma.primitive().clone());
                prep.finish([x.clone(), gamma.clone()], B::norm_forward(x, gamma, epsilon, center))
            }
            OpsKind::UnTracked(prep) => prep.finish(B::norm_forward(x.into_primitive(), gamma.into_primitive(), epsilon, center)),
        }
    }

    fn fused_cross_entropy(logits: FloatTensor<Self>, targets: IntTensor<Self>, ignore: i64) -> FloatTensor<Self> {
        #[derive(Debug)]
        struct CrossEntropy {
            ignore: i64,
        }
        impl<B: Kernels> Backward<B, 1> for CrossEntropy {
            type State = (FloatTensor<B>, IntTensor<B>);

            fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
                let grad = grads.consume::<B>(&ops.node);
                let (logits, targets) = ops.state;
                if let [Some(parent)] = ops.parents {
                    grads.register::<B>(parent.id, B::cross_entropy_backward(logits, targets, grad, self.ignore));
                }
            }
        }
        match (CrossEntropy { ignore }).prepare::<C>([logits.node()]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => {
                let logits = logits.primitive().clone();
                prep.finish((logits.clone(), targets.clone()), B::cross_entropy_forward(logits, targets, ignore))
            }
            OpsKind::UnTracked(prep) => prep.finish(B::cross_entropy_forward(logits.into_primitive(), targets, ignore)),
        }
    }
}

fn register<B: Backend>(grads: &mut Gradients, parents: [Option<NodeId>; 2], values: [FloatTensor<B>; 2]) {
    for (parent, value) in parents.into_iter().zip(values) {
        if let Some(id) = parent {
            grads.register::<B>(id, value);
        }
    }
}
