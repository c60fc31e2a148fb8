//! Kimi Delta Attention as one operation with its own backward pass, on every backend: see [`KimiDeltaKernel`].

mod autodiff;
mod cpu;
#[cfg(feature = "cube")]
mod gpu;
mod tensors;

#[cfg(feature = "cube")]
use burn::backend::{Cube, DispatchDevice, TensorMetadata};
use burn::{
    backend::{Backend, ExtensionType, Flex, backend_extension, tensor::FloatTensor},
    tensor::{DType, Tensor},
};

use crate::blocks::Maybe;

pub(super) use cpu::dplr as dplr_fused;
pub(super) use tensors::dplr as dplr_tensors;

/// What a general diagonal-plus-low-rank transition reads; shapes as in [`dplr`](super::dplr::dplr), which checks them. No size is 0.
pub(super) struct Transition<T> {
    pub(super) q: T,
    pub(super) k: T,
    pub(super) v: T,
    pub(super) g: T,
    pub(super) a: T,
    pub(super) b: T,
    pub(super) state: T,
}

impl<T> Transition<T> {
    pub(super) fn map<U>(self, f: impl Fn(T) -> U) -> Transition<U> {
        let Self { q, k, v, g, a, b, state } = self;
        Transition { q: f(q), k: f(k), v: f(v), g: f(g), a: f(a), b: f(b), state: f(state) }
    }

    pub(super) fn any(&self, f: impl Fn(&T) -> bool) -> bool {
        [&self.q, &self.k, &self.v, &self.g, &self.a, &self.b, &self.state].into_iter().any(f)
    }
}

/// What the operation reads; shapes as in [`kimi_delta`](super::kimi_delta()), which checks them. No size is 0.
#[derive(Clone, Debug, ExtensionType)]
pub(crate) struct Inputs<B: Backend> {
    /// `[B, T, H, K]`
    pub(crate) q: FloatTensor<B>,
    /// `[B, T, H, K]`
    pub(crate) k: FloatTensor<B>,
    /// `[B, T, W, V]`
    pub(crate) v: FloatTensor<B>,
    /// `[B, T, W, K]` or `[B, T, W, 1]`
    pub(crate) g: FloatTensor<B>,
    /// `[B, T, W]`
    pub(crate) beta: FloatTensor<B>,
    /// The states before the sequences. `[N, W, K, V]`
    pub(crate) state: FloatTensor<B>,
}

/// How it is computed.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    /// Factor on the queries.
    pub(crate) scale: f64,
    /// Tokens per chunk.
    pub(crate) chunk: usize,
    /// Where packed sequences meet.
    pub(crate) boundaries: Option<Vec<usize>>,
}

/// What the operation returns.
#[derive(Clone, Debug, ExtensionType)]
pub(crate) struct Output<B: Backend> {
    /// `[B, T, W, V]`
    pub(crate) o: FloatTensor<B>,
    /// The states after the sequences. `[N, W, K, V]`
    pub(crate) state: FloatTensor<B>,
    /// For the backward pass: the states before the chunks, in an order of the backend's own.
    pub(crate) states: FloatTensor<B>,
}

/// What the backward pass reads besides the inputs.
#[derive(Clone, Debug, ExtensionType)]
pub(crate) struct Saved<B: Backend> {
    /// As returned by the forward pass.
    pub(crate) states: FloatTensor<B>,
    /// The cotangent of the output, or none for zeros.
    #[extension_type]
    pub(crate) d_o: Maybe<B>,
    /// The cotangent of the states after the sequences, or none for zeros.
    #[extension_type]
    pub(crate) d_state: Maybe<B>,
}

/// Gradients of the inputs, shaped as they are.
#[derive(Clone, Debug, ExtensionType)]
pub(crate) struct Gradients<B: Backend> {
    pub(crate) q: FloatTensor<B>,
    pub(crate) k: FloatTensor<B>,
    pub(crate) v: FloatTensor<B>,
    pub(crate) g: FloatTensor<B>,
    pub(crate) beta: FloatTensor<B>,
    pub(crate) state: FloatTensor<B>,
}

/// The chunkwise algorithm forward and backward. Flex computes f32 by fused kernels, and Cube heads of up to 128 columns, in 16 bits
/// too; all else is tensor operations, which run on any device in any float type. `Autodiff` joins the two passes into one node.
#[backend_extension(Flex, Cube: cfg(feature = "cube"), Autodiff)]
pub(crate) trait KimiDeltaKernel: Backend {
    /// The outputs. Unless `keep`, nothing is kept for a backward pass.
    fn kimi_delta_forward(#[extension_type] inputs: Inputs<Self>, options: Options, keep: bool) -> Output<Self>;

    /// The gradients of all inputs.
    fn kimi_delta_backward(
        #[extension_type] inputs: Inputs<Self>,
        options: Options,
        #[extension_type] saved: Saved<Self>,
    ) -> Gradients<Self>;
}

impl KimiDeltaKernel for Flex {
    fn kimi_delta_forward(inputs: Inputs<Self>, options: Options, keep: bool) -> Output<Self> {
        match inputs.q.dtype() {
            DType::F32 => cpu::forward(inputs, &options, keep),
            _ => tensors::forward(inputs, &options, keep),
        }
    }

    fn kimi_delta_backward(inputs: Inputs<Self>, options: Options, saved: Saved<Self>) -> Gradients<Self> {
        match inputs.q.dtype() {
            DType::F32 => cpu::backward(inputs, &options, saved),
            _ => tensors::backward(inputs, &options, saved),
        }
    }
}

#[cfg(feature = "cube")]
impl KimiDeltaKernel for Cube {
    fn kimi_delta_forward(inputs: Inputs<Self>, options: Options, keep: bool) -> Output<Self> {
        if on_kernels(&inputs) { gpu::forward(inputs, &options, keep) } else { tensors::forward(inputs, &options, keep) }
    }

    fn kimi_delta_backward(inputs: Inputs<Self>, options: Options, saved: Saved<Self>) -> Gradients<Self> {
        if on_kernels(&inputs) { gpu::backward(inputs, &options, saved) } else { tensors::backward(inputs, &options, saved) }
    }
}

/// Whether the kernels for GPUs take this; the same for both passes.
#[cfg(feature = "cube")]
fn on_kernels(inputs: &Inputs<Cube>) -> bool {
    let width = |x: &FloatTensor<Cube>| x.shape()[3];
    gpu::takes(&inputs.v.client, inputs.v.dtype(), width(&inputs.q), width(&inputs.v))
}

/// Whether queries, keys and values of 16 bits, with these widths, are taken as they are where `like` is; decays, β and states are f32.
pub(super) fn takes_half(like: &Tensor<4>, d_k: usize) -> bool {
    #[cfg(feature = "cube")]
    if let DispatchDevice::Cube(device) = like.device().inner().as_dispatch() {
        let dtype = like.dtype();
        return matches!(dtype, DType::BF16 | DType::F16) && gpu::takes(&device.client(), dtype, d_k, like.dims()[3]);
    }
    let _ = (like, d_k);
    false
}
