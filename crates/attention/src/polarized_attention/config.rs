use burn::{
    nn::{Initializer, Linear, LinearConfig},
    tensor::Device,
};
use serde::{Deserialize, Serialize};

use super::layer::{ChannelGate, PolarizedAttention};
use crate::{Error, Result, blocks::NormKind};

const OP: &str = "polarized";

/// Whose formulas are computed: they differ in places of softmax, norms and biases, and weights of one do not fit the other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Flavour {
    /// The equations of the paper.
    #[default]
    Paper,
    /// The released code.
    Official,
}

/// How the two branches are put together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Layout {
    /// The sum of both branches.
    #[default]
    Parallel,
    /// The spatial branch on the output of the channel branch.
    Sequential,
}

/// Configuration of [`PolarizedAttention`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PolarizedAttentionConfig {
    /// Paper or released code.
    #[serde(default)]
    pub flavour: Flavour,
    /// Parallel or sequential.
    #[serde(default)]
    pub layout: Layout,
    /// Whether an odd number of channels, whose half is rounded down, is taken.
    #[serde(default)]
    pub allow_odd: bool,
}

impl PolarizedAttentionConfig {
    /// The layer for `d_model` channels C.
    ///
    /// # Errors
    /// If C is odd and that is not allowed, less than 2, or less than 8 for the released sequential form, whose bottleneck has ⌊C/8⌋
    /// channels.
    pub fn init(&self, d_model: usize, device: &Device) -> Result<PolarizedAttention> {
        let inner = d_model / 2;
        if d_model < 2 {
            return Err(Error::argument(OP, "d_model", "at least 2", d_model));
        }
        if !d_model.is_multiple_of(2) && !self.allow_odd {
            return Err(Error::argument(OP, "d_model", "even, unless `allow_odd` is set", d_model));
        }
        let bottleneck = (self.flavour, self.layout) == (Flavour::Official, Layout::Sequential);
        if bottleneck && inner < 4 {
            return Err(Error::argument(OP, "d_model", "at least 8 for the official sequential form", d_model));
        }
        let bias = self.flavour == Flavour::Paper;
        let linear = |from, to| projection(from, to, bias, device);
        let gate = if bottleneck {
            let r = inner / 4;
            if r == 1 {
                log::warn!("{OP}: with {d_model} channels the bottleneck has one, whose norm is its bias whatever the input");
            }
            ChannelGate {
                up: projection(inner, r, true, device),
                norm: Some(NormKind::Layer.init(r, 1e-5, device)),
                last: Some(LinearConfig::new(r, d_model).init(device)),
            }
        } else {
            let norm = bias.then(|| NormKind::Layer.init(d_model, 1e-5, device));
            ChannelGate { up: LinearConfig::new(inner, d_model).with_bias(bias).init(device), norm, last: None }
        };
        Ok(PolarizedAttention {
            q: linear(d_model, 1),
            v: linear(d_model, inner),
            gate,
            sp_q: linear(d_model, inner),
            sp_v: linear(d_model, inner),
            flavour: self.flavour,
            layout: self.layout,
        })
    }
}

/// Weights from N(0, 2/n), as for rectifiers, biases 0.
fn projection(from: usize, to: usize, bias: bool, device: &Device) -> Linear {
    let initializer = Initializer::Normal { mean: 0.0, std: (2.0 / from as f64).sqrt() };
    let linear = LinearConfig::new(from, to).with_bias(false).with_initializer(initializer).init(device);
    Linear { bias: bias.then(|| Initializer::Zeros.init([to], device)), ..linear }
}
