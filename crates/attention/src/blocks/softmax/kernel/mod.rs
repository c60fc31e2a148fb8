//! Attention as one operation with its own backward pass, on every backend: see [`SoftmaxKernel`].

mod autodiff;
mod cpu;
#[cfg(feature = "cube")]
mod gpu;
mod query_blocks;

use burn::{
    backend::{
        Backend, ExtensionType, Flex, backend_extension,
        tensor::{BoolTensor, FloatTensor},
    },
    tensor::DType,
};

pub(crate) use crate::blocks::Maybe;

/// A boolean tensor or none.
#[derive(Clone, Debug, ExtensionType)]
pub(crate) enum MaybeBool<B: Backend> {
    /// The tensor.
    Some(BoolTensor<B>),
    /// Nothing.
    None,
}

/// What attention reads; shapes as in [`softmax_attention`](super::op::softmax_attention), which checks them.
#[derive(Clone, Debug, ExtensionType)]
pub(crate) struct Inputs<B: Backend> {
    /// `[B, H, T, K]`
    pub(crate) q: FloatTensor<B>,
    /// `[B, G, S, K]`
    pub(crate) k: FloatTensor<B>,
    /// `[B, G, S, V]`
    pub(crate) v: FloatTensor<B>,
    /// `[B or 1, H or 1, T or 1, S]`
    #[extension_type]
    pub(crate) bias: Maybe<B>,
    /// Bias by distance: `[H, N]`, the last for N − 1 and more.
    #[extension_type]
    pub(crate) distances: Maybe<B>,
    /// `[B, S]`, `true` = hidden.
    #[extension_type]
    pub(crate) padding: MaybeBool<B>,
}

/// How attention is computed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Options {
    /// Whether query t sees the keys up to t + S − T only.
    pub(crate) causal: bool,
    /// Factor on `q · k`.
    pub(crate) scale: f64,
}

/// What the backward pass reads besides the inputs.
#[derive(Clone, Debug, ExtensionType)]
pub(crate) struct Saved<B: Backend> {
    /// The output. `[B, H, T, V]`
    pub(crate) o: FloatTensor<B>,
    /// The log-sum-exp of the scores. `[B, H, T]`
    pub(crate) lse: FloatTensor<B>,
    /// The cotangent of the output, or none for zeros.
    #[extension_type]
    pub(crate) d_o: Maybe<B>,
    /// The cotangent of the log-sum-exp, or none for zeros.
    #[extension_type]
    pub(crate) d_lse: Maybe<B>,
}

/// Gradients of the inputs, those that were asked for.
#[derive(Clone, Debug, ExtensionType)]
pub(crate) struct Gradients<B: Backend> {
    /// Of the queries.
    #[extension_type]
    pub(crate) q: Maybe<B>,
    /// Of the keys.
    #[extension_type]
    pub(crate) k: Maybe<B>,
    /// Of the values.
    #[extension_type]
    pub(crate) v: Maybe<B>,
    /// Of the bias.
    #[extension_type]
    pub(crate) bias: Maybe<B>,
    /// Of the bias by distance.
    #[extension_type]
    pub(crate) distances: Maybe<B>,
}

/// Attention forward and backward without a T×S matrix. Both have a body in tensor operations, block of queries by block of queries,
/// that runs on any backend in any float type; Flex replaces it for f32 by fused kernels, GPUs for all but f64. `Autodiff` joins the
/// two into one node.
#[backend_extension(Flex, Cube: cfg(any(feature = "cuda", feature = "vulkan", feature = "metal", feature = "rocm")), Autodiff)]
pub(crate) trait SoftmaxKernel: Backend {
    /// The output `[B, H, T, V]` and the log-sum-exp `[B, H, T]`.
    fn softmax_forward(#[extension_type] inputs: Inputs<Self>, options: Options) -> (FloatTensor<Self>, FloatTensor<Self>) {
        query_blocks::forward::<Self>(inputs, options)
    }

    /// The gradients of queries, keys, values, bias and bias by distance, those that are `wanted`.
    fn softmax_backward(
        #[extension_type] inputs: Inputs<Self>,
        options: Options,
        #[extension_type] saved: Saved<Self>,
        wanted: [bool; 5],
    ) -> Gradients<Self> {
        query_blocks::backward::<Self>(inputs, options, saved, wanted)
    }
}

impl SoftmaxKernel for Flex {
    fn softmax_forward(inputs: Inputs<Self>, options: Options) -> (FloatTensor<Self>, FloatTensor<Self>) {
        match inputs.q.dtype() {
            DType::F32 => cpu::softmax_forward(inputs, options),
            _ => query_blocks::forward::<Self>(inputs, options),
        }
    }

    fn softmax_backward(inputs: Inputs<Self>, options: Options, saved: Saved<Self>, wanted: [bool; 5]) -> Gradients<Self> {
        match inputs.q.dtype() {
            DType::F32 => cpu::softmax_backward(inputs, options, saved, wanted),
            _ => query_blocks::backward::<Self>(inputs, options, saved, wanted),
        }
    }
}

#[cfg(feature = "cube")]
impl SoftmaxKernel for burn::backend::Cube {
    fn softmax_forward(inputs: Inputs<Self>, options: Options) -> (FloatTensor<Self>, FloatTensor<Self>) {
        match gpu::Plan::new(&inputs, options) {
            Some(plan) => gpu::softmax_forward(&plan, inputs, options),
            None => query_blocks::forward::<Self>(inputs, options),
        }
    }

    fn softmax_backward(inputs: Inputs<Self>, options: Options, saved: Saved<Self>, wanted: [bool; 5]) -> Gradients<Self> {
        let Some(plan) = gpu::Plan::new(&inputs, options) else {
            return query_blocks::backward::<Self>(inputs, options, saved, wanted);
        };
        let mut gradients = Gradients { q: Maybe::None, k: Maybe::None, v: Maybe::None, bias: Maybe::None, distances: Maybe::None };
        // The kernels do not sum the gradient of the bias by distance.
        if wanted[4] {
            let only = [false, false, false, false, true];
            gradients.distances = query_blocks::backward::<Self>(inputs.clone(), options, saved.clone(), only).distances;
        }
        if wanted[..4].contains(&true) {
            let distances = gradients.distances;
            gradients = Gradients { distances, ..gpu::softmax_backward(&plan, inputs, options, saved, wanted) };
        }
        gradients
    }
}
