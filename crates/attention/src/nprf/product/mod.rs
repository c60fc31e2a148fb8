//! The product that kernelised attention with relative bias consists of, `y_i = Σ_j c[j − i] (q_i · k_j) x_j`, on the CPU, forward and
//! backward: [`toeplitz_product`].

mod dense;
mod feature_map;
mod fft;
mod head;
mod matrix;
mod passes;
mod real;

use std::sync::Arc;

use burn::{
    backend::{DispatchDevice, DispatchTensor},
    tensor::{Bool, DType, Device, Tensor},
};
use serde::{Deserialize, Serialize};

pub(super) use feature_map::{Shift, feature_map};
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
    /// Whether the result is the ratio of the sums.
    pub(super) ratio: bool,
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

/// `y_i = Σ_j c[j − i] (q_i · k_j) [v_j, 1]` over the keys that are not hidden, for q, k, c ≥ 0; or, if the plan says so, the ratio of
/// the sums and the logarithm of the denominator, zeros and −∞ where that is 0. On the CPU in f32 and f64.
///
/// # Shapes
/// - `q`, `k`: `[B, H, N, M]`; `v`: `[B, H, N, V]`; no axis but V of length 0; `c`: `[H, taps]`, see [`Grid`]; `hidden`: `[B, N]`, whose
///   keys `k` are zeros
/// - output: `[B, H, N, V + 1]`
pub(super) fn toeplitz_product([q, k, v]: [Tensor<4>; 3], c: Tensor<2>, hidden: Option<Tensor<2, Bool>>, plan: Plan) -> Tensor<4> {
    let autodiff = q.is_autodiff() || k.is_autodiff() || v.is_autodiff() || c.is_autodiff();
    if !autodiff {
        return passes::forward(&Inputs { q, k, v, c, hidden }, plan).y;
    }
    let erased = [q.clone().into_dispatch(), k.clone().into_dispatch(), v.clone().into_dispatch(), c.clone().into_dispatch()];
    let inputs = Inputs { q: plain(q), k: plain(k), v: plain(v), c: plain(c), hidden };
    let result = passes::forward(&inputs, plan);
    let y = result.y.clone();
    with_gradient::<4, 4>(erased, y, Arc::new(Product { inputs, plan, result }))
}

fn plain<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    if x.is_autodiff() { x.inner() } else { x }
}

/// The backward pass; weights are computed again from the inputs.
#[derive(Debug)]
struct Product {
    inputs: Inputs,
    plan: Plan,
    result: Forward,
}

impl GradientRule<4> for Product {
    fn gradients(&self, upstream: DispatchTensor, _: [bool; 4]) -> [Option<DispatchTensor>; 4] {
        let Backward { q, k, v, c } = passes::backward(&self.inputs, self.plan, &self.result, &Tensor::from_dispatch(upstream));
        [Some(q.into_dispatch()), Some(k.into_dispatch()), Some(v.into_dispatch()), Some(c.into_dispatch())]
    }
}
