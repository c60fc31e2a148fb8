//! The product that kernelised attention with relative bias consists of, `y_i = Σ_j c[j − i] (q_i · k_j) x_j`, on the CPU, forward and
//! backward: [`toeplitz_product`].

mod dense;
mod fft;
mod head;
mod passes;
mod real;

use std::sync::Arc;

use burn::{
    backend::{DispatchDevice, DispatchTensor},
    tensor::{DType, Device, Tensor},
};
use serde::{Deserialize, Serialize};

pub(super) use head::Grid;
use passes::{Backward, Forward, Inputs};

use crate::blocks::{GradientRule, with_gradient};

/// How products with a relative bias are computed; the results agree to rounding.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NprfAlgorithm {
    /// What is faster for these sizes.
    #[default]
    Auto,
    /// Matrix products over blocks of queries and keys, O(T²).
    Dense,
    /// Fourier transforms, O(T log T); rows that they would compute badly go through matrix products.
    Fft,
}

/// What a product is, besides its tensors.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    /// Where the tokens lie.
    pub(super) grid: Grid,
    /// Whether the coefficients of later keys are 0.
    pub(super) causal: bool,
    /// How it is computed.
    pub(super) algorithm: NprfAlgorithm,
}

impl Plan {
    /// Floating-point operations of the forward pass per token and head with M features and F columns.
    pub(super) fn flops_per_token(self, m: usize, f: usize) -> f64 {
        let n = self.grid.tokens();
        let sizes = head::Sizes { grid: self.grid, n, m, f, causal: self.causal };
        let flops = if passes::takes_transforms(sizes, self.algorithm) { passes::fft_flops(sizes) } else { passes::dense_flops(sizes) };
        flops / n as f64
    }
}

/// Whether [`toeplitz_product`] takes tensors of this device and type.
pub(super) fn on_cpu(device: &Device, dtype: DType) -> bool {
    matches!(dtype, DType::F32 | DType::F64) && matches!(device.clone().inner().as_dispatch(), DispatchDevice::Flex(_))
}

/// `y_i = Σ_j c[j − i] (q_i · k_j) x_j` for q, k ≥ 0 and x whose last column is 0 or 1: the denominator of the attention, by which the
/// Fourier transforms are judged. On the CPU in f32 and f64.
///
/// # Shapes
/// - `q`, `k`: `[B, H, N, M]`; `x`: `[B, H, N, F]`, no axis of length 0; `c`: `[H, taps]`, see [`Grid`]
/// - output: `[B, H, N, F]`
pub(super) fn toeplitz_product(q: Tensor<4>, k: Tensor<4>, x: Tensor<4>, c: Tensor<2>, plan: Plan) -> Tensor<4> {
    let autodiff = q.is_autodiff() || k.is_autodiff() || x.is_autodiff() || c.is_autodiff();
    if !autodiff {
        return passes::forward(&Inputs { q, k, x, c }, plan).y;
    }
    let erased = [q.clone().into_dispatch(), k.clone().into_dispatch(), x.clone().into_dispatch(), c.clone().into_dispatch()];
    let inputs = Inputs { q: plain(q), k: plain(k), x: plain(x), c: plain(c) };
    let Forward { y, dense } = passes::forward(&inputs, plan);
    with_gradient::<4, 4>(erased, y, Arc::new(Product { inputs, plan, dense }))
}

fn plain<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    if x.is_autodiff() { x.inner() } else { x }
}

/// The backward pass; everything is computed again from the inputs.
#[derive(Debug)]
struct Product {
    inputs: Inputs,
    plan: Plan,
    dense: passes::DenseRows,
}

impl GradientRule<4> for Product {
    fn gradients(&self, upstream: DispatchTensor, _: [bool; 4]) -> [Option<DispatchTensor>; 4] {
        let Backward { q, k, x, c } = passes::backward(&self.inputs, self.plan, &self.dense, Tensor::from_dispatch(upstream));
        [Some(q.into_dispatch()), Some(k.into_dispatch()), Some(x.into_dispatch()), Some(c.into_dispatch())]
    }
}
