use burn::tensor::Tensor;
use regard::blocks::{gelu, relu, silu};
use serde::{Deserialize, Serialize};

/// What stands behind a norm.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// max(x, 0)
    #[default]
    Relu,
    /// `x / (1 + exp(−x))`
    Silu,
    /// `x Φ(x)`, exactly.
    Gelu,
}

impl Activation {
    /// The activation of each element.
    pub fn apply<const D: usize>(self, x: Tensor<D>) -> Tensor<D> {
        match self {
            Self::Relu => relu(x),
            Self::Silu => silu(x),
            Self::Gelu => gelu(x),
        }
    }
}
