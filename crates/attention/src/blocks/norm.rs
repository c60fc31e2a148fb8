use burn::{
    module::Module,
    nn::{LayerNorm, LayerNormConfig, RmsNorm, RmsNormConfig},
    tensor::{DType, Device, Tensor},
};
use serde::{Deserialize, Serialize};

/// `y = x / sqrt(mean(x²) + ε)` over the last axis, without a weight (SRMSNorm). Statistics in f32 at least.
///
/// The gradient is `dx = r (dy − y · mean(y · dy))`, `r = 1/sqrt(mean(x²) + ε)`; a row of zeros gives zeros.
///
/// # Shapes
/// - `x`: `[…, n]`; output: the same
pub fn srms_norm<const D: usize>(x: Tensor<D>, epsilon: f64) -> Tensor<D> {
    let dtype = x.dtype();
    let wide = if matches!(dtype, DType::F16 | DType::BF16) { x.cast(DType::F32) } else { x };
    let scale = (wide.clone().square().mean_dim(D - 1) + epsilon).sqrt().recip();
    (wide * scale).cast(dtype)
}

/// `y = x / sqrt(Σ x² + ε)` over the last axis, in f32 at least. A row of zeros gives zeros.
///
/// # Shapes
/// - `x`: `[…, n]`; output: the same
pub fn l2_norm<const D: usize>(x: Tensor<D>, epsilon: f64) -> Tensor<D> {
    let dtype = x.dtype();
    let wide = if matches!(dtype, DType::F16 | DType::BF16) { x.cast(DType::F32) } else { x };
    let scale = (wide.clone().square().sum_dim(D - 1) + epsilon).sqrt().recip();
    (wide * scale).cast(dtype)
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
    /// A norm over `width` numbers.
    pub fn init(self, width: usize, epsilon: f64, device: &Device) -> Norm {
        match self {
            Self::Rms => Norm::Rms(RmsNormConfig::new(width).with_epsilon(epsilon).init(device)),
            Self::Layer => Norm::Layer(LayerNormConfig::new(width).with_epsilon(epsilon).init(device)),
            Self::LayerNoBias => Norm::Layer(LayerNormConfig::new(width).with_epsilon(epsilon).with_bias(false).init(device)),
            Self::SimpleRms => Norm::SimpleRms(SimpleRmsNorm { epsilon }),
        }
    }
}

/// A norm over the last axis: see [`NormKind`].
#[derive(Module, Debug)]
pub enum Norm {
    /// RMSNorm.
    Rms(RmsNorm),
    /// LayerNorm, with or without bias.
    Layer(LayerNorm),
    /// RMSNorm without a weight.
    SimpleRms(SimpleRmsNorm),
}

impl Norm {
    /// Normalises the last axis.
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        match self {
            Self::Rms(norm) => norm.forward(x),
            Self::Layer(norm) => norm.forward(x),
            Self::SimpleRms(norm) => srms_norm(x, norm.epsilon),
        }
    }
}

/// [`srms_norm`] as a module.
#[derive(Module, Debug)]
pub struct SimpleRmsNorm {
    /// ε under the root.
    pub epsilon: f64,
}
