#[cfg(feature = "cube")]
use burn::backend::{Cube, TensorMetadata};
use burn::{
    backend::{Backend, ExtensionType, Flex, backend_extension, tensor::FloatTensor},
    tensor::DType,
};

#[cfg(feature = "cube")]
use super::gpu;
use super::{Plan, cpu, passes};
use crate::blocks::{Maybe, raw::Raw};

/// What the product reads; shapes as in [`decayed_product`](super::decayed_product()).
#[derive(Clone, Debug, ExtensionType)]
pub(crate) struct Inputs<B: Backend> {
    /// `[B, H, T, K]`
    pub(crate) q: FloatTensor<B>,
    /// `[B, H, T, K]`
    pub(crate) k: FloatTensor<B>,
    /// `[B, H, T, V]`
    pub(crate) v: FloatTensor<B>,
    /// `[S, H, K, V]`
    pub(crate) state: FloatTensor<B>,
}

/// The cotangents of output and final state; none for zeros.
#[derive(Clone, Debug, ExtensionType)]
pub(crate) struct Cotangents<B: Backend> {
    /// Of the output.
    #[extension_type]
    pub(crate) o: Maybe<B>,
    /// Of the final state.
    #[extension_type]
    pub(crate) state: Maybe<B>,
}

/// Gradients of the inputs, those that were asked for.
#[derive(Clone, Debug, ExtensionType)]
pub(crate) struct InputGradients<B: Backend> {
    /// Of the queries.
    #[extension_type]
    pub(crate) q: Maybe<B>,
    /// Of the keys.
    #[extension_type]
    pub(crate) k: Maybe<B>,
    /// Of the values.
    #[extension_type]
    pub(crate) v: Maybe<B>,
    /// Of the state.
    #[extension_type]
    pub(crate) state: Maybe<B>,
}

/// The two passes of [`decayed_product`](super::decayed_product()) as operations of a backend. Both have a body in tensor operations
/// that runs on any backend; Flex replaces it for f32 by fused kernels, which alone know packed sequences, and Cube for heads of up to
/// 128 columns. `Autodiff` joins the two.
#[backend_extension(
    Flex,
    Cube: cfg(feature = "cube"),
    Autodiff
)]
pub(crate) trait DecayedProduct: Backend {
    /// Output `[B, H, T, V]` and final state `[S, H, K, V]`.
    fn decayed_product(#[extension_type] inputs: Inputs<Self>, plan: Plan) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let Inputs { q, k, v, state } = inputs;
        let (o, state) = passes::forward::<Self>([Raw(q), Raw(k), Raw(v)], Raw(state), &plan);
        (o.0, state.0)
    }

    /// Gradients of `q`, `k`, `v` and `state`, those that are `wanted`.
    fn decayed_product_backward(
        #[extension_type] inputs: Inputs<Self>,
        plan: Plan,
        #[extension_type] cotangents: Cotangents<Self>,
        wanted: [bool; 4],
    ) -> InputGradients<Self> {
        passes::backward::<Self>(inputs, cotangents, &plan, wanted)
    }
}

impl DecayedProduct for Flex {
    fn decayed_product(inputs: Inputs<Self>, plan: Plan) -> (FloatTensor<Self>, FloatTensor<Self>) {
        if inputs.q.dtype() == DType::F32 {
            return cpu::forward(inputs, &plan);
        }
        let Inputs { q, k, v, state } = inputs;
        let (o, state) = passes::forward::<Self>([Raw(q), Raw(k), Raw(v)], Raw(state), &plan);
        (o.0, state.0)
    }

    fn decayed_product_backward(inputs: Inputs<Self>, plan: Plan, cotangents: Cotangents<Self>, wanted: [bool; 4]) -> InputGradients<Self> {
        if inputs.q.dtype() == DType::F32 {
            return cpu::backward(inputs, cotangents, &plan, wanted);
        }
        passes::backward::<Self>(inputs, cotangents, &plan, wanted)
    }
}

#[cfg(feature = "cube")]
impl DecayedProduct for Cube {
    fn decayed_product(inputs: Inputs<Self>, plan: Plan) -> (FloatTensor<Self>, FloatTensor<Self>) {
        if gpu::takes(&inputs.q.client, inputs.q.dtype(), gpu::width(&inputs.q), gpu::width(&inputs.v)) {
            return gpu::forward(inputs, &plan);
        }
        let Inputs { q, k, v, state } = inputs;
        let (o, state) = passes::forward::<Self>([Raw(q), Raw(k), Raw(v)], Raw(state), &plan);
        (o.0, state.0)
    }

    fn decayed_product_backward(inputs: Inputs<Self>, plan: Plan, cotangents: Cotangents<Self>, wanted: [bool; 4]) -> InputGradients<Self> {
        if gpu::takes(&inputs.q.client, inputs.q.dtype(), gpu::width(&inputs.q), gpu::width(&inputs.v)) {
            return gpu::backward(inputs, cotangents, &plan, wanted);
        }
        passes::backward::<Self>(inputs, cotangents, &plan, wanted)
    }
}
