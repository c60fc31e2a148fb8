use burn::{
    module::{Module, Param},
    nn::Initializer,
    tensor::{DType, Device, Tensor, activation},
};
use serde::{Deserialize, Serialize};

use super::{kernel, product};

/// `y = x / sqrt(mean(x²) + ε)` over the last axis, without a weight (SRMSNorm). Statistics in f32 at least.
///
/// The gradient is `dx = r (dy − y · mean(y · dy))`, `r = 1/sqrt(mean(x²) + ε)`; a row of zeros gives zeros.
///
/// # Shapes
/// - `x`: `[…, n]`; output: the same
pub fn srms_norm<const D: usize>(x: Tensor<D>, epsilon: f64) -> Tensor<D> {
    normalise(x, None, epsilon, false)
}

/// `γ ⊙ (x − mean) / sqrt(var + ε)`, or without the mean; as one kernel in each direction on the CPU and on NVIDIA GPUs.
pub(super) fn normalise<const D: usize>(x: Tensor<D>, gamma: Option<Tensor<1>>, epsilon: f64, center: bool) -> Tensor<D> {
    let (device, dtype) = (x.device(), x.dtype());
    let width = x.dims()[D - 1];
    if kernel::on_cpu(&device, dtype) {
        let gamma = gamma.unwrap_or_else(|| Tensor::ones([width], &device));
        return kernel::norm(x, gamma, epsilon, center);
    }
    #[cfg(feature = "cube")]
    if let Some([_, y]) = kernel::gpu::norm(&x, None, gamma.as_ref(), epsilon, center) {
        return y;
    }
    let x = if matches!(dtype, DType::F16 | DType::BF16) { x.cast(DType::F32) } else { x };
    let x = if center { x.clone() - x.mean_dim(D - 1) } else { x };
    let scale = (x.clone().square().mean_dim(D - 1) + epsilon).sqrt().recip();
    let y = (x * scale).cast(dtype);
    match gamma {
        Some(gamma) => y * gamma.unsqueeze(),
        None => y,
    }
}

/// `y = x / sqrt(Σ x² + ε)` over the last axis, in f32 at least. A row of zeros gives zeros.
///
/// # Shapes
/// - `x`: `[…, n]`; output: the same
pub fn l2_norm<const D: usize>(x: Tensor<D>, epsilon: f64) -> Tensor<D> {
    let dtype = x.dtype();
    if kernel::on_cpu(&x.device(), dtype) && !x.dims().contains(&0) {
        return kernel::unit(x, epsilon);
    }
    let wide = if matches!(dtype, DType::F16 | DType::BF16) { x.cast(DType::F32) } else { x };
    let scale = (wide.clone().square().sum_dim(D - 1) + epsilon).sqrt().recip();
    (wide * scale).cast(dtype)
}

/// `x / sqrt(mean(x²) + ε) ⊙ γ ⊙ sigmoid(gate)` over the last axis, in f32 at least; on the CPU as one kernel in each direction.
///
/// # Shapes
/// - `x`, `gate`: `[…, n]`; `gamma` γ: `[n]`; output: as `x`
pub fn gated_rms_norm<const D: usize>(x: Tensor<D>, gamma: Tensor<1>, gate: Tensor<D>, epsilon: f64) -> Tensor<D> {
    if kernel::on_cpu(&x.device(), x.dtype()) && !x.dims().contains(&0) {
        return kernel::gated_norm(x, gamma, gate, epsilon, true);
    }
    normalise(x, Some(gamma), epsilon, false) * activation::sigmoid(gate)
}

/// Which norm a block uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NormKind {
    /// `x / sqrt(mean(x²) + ε) · γ`
    #[default]
    Rms,
    /// `(x − mean) / sqrt(var + ε) · γ + β`
    Layer,
    /// As `Layer`, without β.
    LayerNoBias,
    /// `x / sqrt(mean(x²) + ε)`: [`srms_norm`].
    SimpleRms,
}

impl NormKind {
    /// A norm over `width` numbers, γ = 1, β = 0.
    pub fn init(self, width: usize, epsilon: f64, device: &Device) -> Norm {
        Norm {
            gamma: (self != Self::SimpleRms).then(|| Initializer::Ones.init([width], device)),
            beta: (self == Self::Layer).then(|| Initializer::Zeros.init([width], device)),
            epsilon,
            center: matches!(self, Self::Layer | Self::LayerNoBias),
        }
    }
}

/// A norm over the last axis: see [`NormKind`]. Statistics in f32 at least.
///
/// Burn's `LayerNorm` and `RmsNorm` compute the same; their gradients are composed of a dozen tensor operations.
#[derive(Module, Debug)]
pub struct Norm {
    /// γ, if it has one.
    pub gamma: Option<Param<Tensor<1>>>,
    /// β, if it has one.
    pub beta: Option<Param<Tensor<1>>>,
    epsilon: f64,
    center: bool,
}

impl Norm {
    /// Normalises the last axis.
    ///
    /// # Shapes
    /// - `x`: `[…, width]`; output: the same
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        self.shift(normalise(x, self.gamma.as_ref().map(Param::val), self.epsilon, self.center))
    }

    /// `y + β`
    fn shift<const D: usize>(&self, y: Tensor<D>) -> Tensor<D> {
        match &self.beta {
            Some(beta) => y + beta.val().unsqueeze(),
            None => y,
        }
    }

    /// `x + update`, and that normalised; as one kernel in each direction on the CPU and on NVIDIA GPUs.
    ///
    /// # Shapes
    /// - `x`, `update`: `[…, width]`; outputs: the same
    pub fn forward_add<const D: usize>(&self, x: Tensor<D>, update: Tensor<D>) -> [Tensor<D>; 2] {
        #[cfg(feature = "cube")]
        {
            let gamma = self.gamma.as_ref().map(Param::val);
            if let Some([sum, y]) = kernel::gpu::norm(&x, Some(&update), gamma.as_ref(), self.epsilon, self.center) {
                return [sum, self.shift(y)];
            }
        }
        if self.beta.is_some() || !kernel::on_cpu(&x.device(), x.dtype()) || update.dtype() != x.dtype() || x.dims().contains(&0) {
            let sum = x + update;
            return [sum.clone(), self.forward(sum)];
        }
        kernel::add_norm(x.clone(), update, self.gamma_or_ones(&x), self.epsilon, self.center)
    }

    fn gamma_or_ones<const D: usize>(&self, x: &Tensor<D>) -> Tensor<1> {
        self.gamma.as_ref().map_or_else(|| Tensor::ones([x.dims()[D - 1]], &x.device()), Param::val)
    }

    /// `gate ⊙` the normalised last axis.
    ///
    /// # Shapes
    /// - `x`, `gate`: `[…, width]`; output: the same
    pub fn forward_gated<const D: usize>(&self, x: Tensor<D>, gate: Tensor<D>) -> Tensor<D> {
        if self.center || self.beta.is_some() || !kernel::on_cpu(&x.device(), x.dtype()) || x.dims().contains(&0) {
            return product(gate, self.forward(x));
        }
        let gamma = self.gamma_or_ones(&x);
        kernel::gated_norm(x, gamma, gate, self.epsilon, false)
    }
}
