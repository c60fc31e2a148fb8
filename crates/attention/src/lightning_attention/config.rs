use burn::{
    nn::{Linear, LinearConfig},
    tensor::{Device, Tensor, activation},
};
use serde::{Deserialize, Serialize};

use super::{
    DecayRule, LrpeConfig,
    layer::{Gate, Lightning},
};
use crate::{
    Error, LayerPlace, Result,
    blocks::{NormKind, silu},
};

/// What a layer knows of positions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PositionPolicy {
    /// Decay in every layer and [`Lrpe`](super::Lrpe) in layer 0: all released models.
    #[default]
    Mix,
    /// Decay and `Lrpe` in every layer.
    LrpeDecay,
    /// `Lrpe` in every layer, no decay.
    Lrpe,
    /// Decay alone.
    Decay,
    /// Nothing: for a model with position vectors of its own.
    None,
}

impl PositionPolicy {
    /// Whether the layers decay.
    pub fn decays(self) -> bool {
        matches!(self, Self::Mix | Self::LrpeDecay | Self::Decay)
    }

    /// Whether layer `layer` (from 0) encodes positions.
    pub fn encodes(self, layer: usize) -> bool {
        match self {
            Self::Mix => layer == 0,
            Self::LrpeDecay | Self::Lrpe => true,
            Self::Decay | Self::None => false,
        }
    }
}

/// An activation of queries, keys or values.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// `x σ(x)`
    #[default]
    Silu,
    /// `1 + elu(x)`, positive
    OnePlusElu,
    /// `x`
    None,
}

impl Activation {
    /// Applies it elementwise.
    pub fn apply<const D: usize>(self, x: Tensor<D>) -> Tensor<D> {
        match self {
            Self::Silu => silu(x),
            Self::OnePlusElu => activation::elu(x, 1.0) + 1.0,
            Self::None => x,
        }
    }
}

/// The gate on the normalised output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum GateKind {
    /// `u = W_u x`: linear, of full rank.
    #[default]
    Full,
    /// `u = W_2 W_1 x` of rank `width`, through a sigmoid if asked for.
    LowRank {
        /// Inner width.
        width: usize,
        /// Whether the gate is `σ(u)`.
        #[serde(default)]
        sigmoid: bool,
    },
    /// No gate.
    None,
}

/// Configuration of [`Lightning`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LightningConfig {
    /// Number of heads H; must divide the inner width.
    pub heads: usize,
    /// Inner width w; `None` = the width of the model.
    #[serde(default)]
    pub width: Option<usize>,
    /// Positions.
    #[serde(default)]
    pub positions: PositionPolicy,
    /// Decay rates of the heads.
    #[serde(default)]
    pub decay: DecayRule,
    /// Whether decay depends on the layer: fast in the lower ones, almost none in the last ("decay temperature").
    #[serde(default = "yes")]
    pub decay_by_layer: bool,
    /// Activation of queries and keys.
    #[serde(default)]
    pub activation: Activation,
    /// Activation of values.
    #[serde(default = "no_activation")]
    pub value_activation: Activation,
    /// Gate.
    #[serde(default)]
    pub gate: GateKind,
    /// Norm over the inner width, in the place of softmax's denominator.
    #[serde(default = "simple_rms")]
    pub norm: NormKind,
    /// ε of the norm.
    #[serde(default = "epsilon")]
    pub norm_epsilon: f64,
    /// Whether the projections have biases.
    #[serde(default)]
    pub bias: bool,
    /// Tokens C per block of the tiled algorithm. Changes speed; results only by rounding.
    #[serde(default = "block")]
    pub block: usize,
}

fn yes() -> bool {
    true
}

fn no_activation() -> Activation {
    Activation::None
}

fn simple_rms() -> NormKind {
    NormKind::SimpleRms
}

fn epsilon() -> f64 {
    1e-6
}

fn block() -> usize {
    super::op::BLOCK
}

impl LightningConfig {
    /// The layer of TransNormerLLM.
    pub fn new(heads: usize) -> Self {
        Self {
            heads,
            width: None,
            positions: PositionPolicy::default(),
            decay: DecayRule::default(),
            decay_by_layer: yes(),
            activation: Activation::default(),
            value_activation: no_activation(),
            gate: GateKind::default(),
            norm: simple_rms(),
            norm_epsilon: epsilon(),
            bias: false,
            block: block(),
        }
    }

    /// The slopes of the heads in a layer: constants.
    pub fn slopes(&self, place: LayerPlace) -> Vec<f64> {
        if !self.positions.decays() {
            vec![0.0; self.heads]
        } else if self.decay_by_layer {
            self.decay.slopes(self.heads, place.count, place.index)
        } else {
            self.decay.base(self.heads)
        }
    }

    /// Number of weights of the layer, without making it.
    pub fn params(&self, d_model: usize, place: LayerPlace) -> usize {
        let width = self.width.unwrap_or(d_model);
        let linear = |from: usize, to: usize| from * to + if self.bias { to } else { 0 };
        let gate = match self.gate {
            GateKind::Full => linear(d_model, 4 * width) - linear(d_model, 3 * width),
            GateKind::LowRank { width: inner, .. } => linear(d_model, inner) + linear(inner, width),
            GateKind::None => 0,
        };
        let norm = match self.norm {
            NormKind::SimpleRms => 0,
            NormKind::Rms | NormKind::LayerNoBias => width,
            NormKind::Layer => 2 * width,
        };
        let lrpe = if self.positions.encodes(place.index) { width } else { 0 };
        linear(d_model, 3 * width) + gate + norm + lrpe + linear(width, d_model)
    }

    /// The layer for width `d_model`.
    ///
    /// # Errors
    /// If the heads do not divide the inner width, a size or ε is 0, or the place is not one of the stack.
    pub fn init(&self, d_model: usize, place: LayerPlace, device: &Device) -> Result<Lightning> {
        const OP: &str = "lightning";
        let width = self.width.unwrap_or(d_model);
        for (arg, size) in [("d_model", d_model), ("width", width), ("block", self.block)] {
            if size == 0 {
                return Err(Error::argument(OP, arg, "at least 1", size));
            }
        }
        if self.heads == 0 || !width.is_multiple_of(self.heads) {
            let want = match self.width {
                None => format!("a divisor of d_model = {d_model}"),
                Some(_) => format!("a divisor of width = {width}"),
            };
            return Err(Error::argument(OP, "heads", want, self.heads));
        }
        if !(self.norm_epsilon.is_finite() && self.norm_epsilon > 0.0) {
            return Err(Error::argument(OP, "norm_epsilon", "positive", self.norm_epsilon));
        }
        if place.index >= place.count {
            return Err(Error::argument(OP, "place", format!("a layer of a stack of {}", place.count), place.index));
        }
        let linear = |from, to| -> Linear { LinearConfig::new(from, to).with_bias(self.bias).init(device) };
        let gate = match self.gate {
            GateKind::LowRank { width: 0, .. } => return Err(Error::argument(OP, "gate.width", "at least 1", 0)),
            GateKind::LowRank { width: inner, sigmoid } => {
                Some(Gate { first: linear(d_model, inner), second: linear(inner, width), sigmoid })
            }
            GateKind::Full | GateKind::None => None,
        };
        let parts = if self.gate == GateKind::Full { 4 } else { 3 };
        let lrpe = self.positions.encodes(place.index);
        Ok(Lightning {
            qkvu_proj: linear(d_model, parts * width),
            gate,
            lrpe: if lrpe { Some(LrpeConfig::new(self.heads, width / self.heads).init(device)?) } else { None },
            norm: self.norm.init(width, self.norm_epsilon, device),
            out_proj: linear(width, d_model),
            slopes: self.slopes(place),
            activation: self.activation,
            value_activation: self.value_activation,
            heads: self.heads,
            block: self.block,
        })
    }
}
