use burn::{
    module::Module,
    nn::{Linear, LinearConfig},
    tensor::{Device, Tensor},
};
use serde::{Deserialize, Serialize};

use super::{
    activation::{gelu, gelu_tanh, product, silu_gate},
    linear::{project, project_each},
};
use crate::{Error, Result};

/// Which channel mixer a block uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MlpKind {
    /// `W_d (SiLU(W_g x) ⊙ W_u x)`
    #[default]
    SwiGlu,
    /// `W_d (W_g x ⊙ W_u x)`, without an activation (SGLU).
    Sglu,
    /// `W_d GELU(W_u x)`, the exact GELU.
    Gelu,
    /// `W_d GELU(W_u x)`, the GELU approximated by the hyperbolic tangent (GPT-2).
    GeluTanh,
}

impl MlpKind {
    /// Number of weights for one unit of inner width, without biases: what a solver of equal parameter counts needs.
    pub fn weights_per_unit(self, d_model: usize) -> usize {
        match self {
            Self::SwiGlu | Self::Sglu => 3 * d_model,
            Self::Gelu | Self::GeluTanh => 2 * d_model,
        }
    }
}

/// Configuration of an [`Mlp`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MlpConfig {
    /// Which one.
    pub kind: MlpKind,
    /// Width D of input and output.
    pub d_model: usize,
    /// Inner width.
    pub d_ff: usize,
    /// Whether the projections have biases.
    pub bias: bool,
}

impl MlpConfig {
    /// The module with Burn's initial values.
    ///
    /// # Errors
    /// If a width is 0.
    pub fn init(&self, device: &Device) -> Result<Mlp> {
        const OP: &str = "mlp";
        for (arg, width) in [("d_model", self.d_model), ("d_ff", self.d_ff)] {
            if width == 0 {
                return Err(Error::argument(OP, arg, "at least 1", width));
            }
        }
        let linear = |from, to| LinearConfig::new(from, to).with_bias(self.bias).init(device);
        Ok(Mlp {
            gate: matches!(self.kind, MlpKind::SwiGlu | MlpKind::Sglu).then(|| linear(self.d_model, self.d_ff)),
            up: linear(self.d_model, self.d_ff),
            down: linear(self.d_ff, self.d_model),
            kind: self.kind,
        })
    }
}

/// A position-wise network with one inner layer, gated or not: see [`MlpKind`].
#[derive(Module, Debug)]
pub struct Mlp {
    /// W_g, if gated.
    pub gate: Option<Linear>,
    /// W_u.
    pub up: Linear,
    /// W_d.
    pub down: Linear,
    #[module(skip)]
    kind: MlpKind,
}

impl Mlp {
    /// Applies the network to the last axis.
    ///
    /// # Shapes
    /// - `x`: `[…, D]`; output: the same
    pub fn forward<const N: usize>(&self, x: Tensor<N>) -> Tensor<N> {
        let inner = match (&self.gate, self.kind) {
            (Some(gate), kind) => {
                let [gate, up] = project_each([gate, &self.up], x);
                if kind == MlpKind::SwiGlu { silu_gate(gate, up) } else { product(gate, up) }
            }
            (None, MlpKind::GeluTanh) => gelu_tanh(project(&self.up, x)),
            (None, _) => gelu(project(&self.up, x)),
        };
        project(&self.down, inner)
    }
}
