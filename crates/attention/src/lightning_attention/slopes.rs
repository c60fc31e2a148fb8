use serde::{Deserialize, Serialize};

/// How the decay rates of the heads of a layer are chosen: `λ_h = exp(-slope_h)`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DecayRule {
    /// The authors' code and all released checkpoints: the slopes of ALiBi, `2^(-8(h+1)/H)` for H a power of two, times
    /// `1 - l/(L-1) + 1e-5`.
    #[default]
    Code,
    /// The formula printed in the paper: `8h/H · (1 - l/L)`, h from 1.
    Paper,
    /// flash-linear-attention: as `Paper` with h from 0, so that the first head never decays.
    Fla,
}

impl DecayRule {
    /// The slopes without the factor of the layer.
    pub fn base(self, heads: usize) -> Vec<f64> {
        let first = match self {
            Self::Code => return alibi(heads),
            Self::Paper => 1,
            Self::Fla => 0,
        };
        (first..first + heads).map(|h| 8.0 * h as f64 / heads as f64).collect()
    }

    /// The slopes of layer `layer` (from 0) of `layers`: lower layers look nearby, the last one far.
    pub fn slopes(self, heads: usize, layers: usize, layer: usize) -> Vec<f64> {
        let part = |of: usize| if of == 0 { 0.0 } else { layer as f64 / of as f64 };
        let factor = match self {
            Self::Code => 1.0 - part(layers.saturating_sub(1)) + 1e-5,
            Self::Paper | Self::Fla => 1.0 - part(layers),
        };
        self.base(heads).into_iter().map(|slope| slope * factor).collect()
    }
}

/// The slopes of ALiBi. For H not a power of two: those of the largest power P below H, then every second one of 2P heads.
fn alibi(heads: usize) -> Vec<f64> {
    let geometric = |heads: usize| (0..heads).map(move |h| (-8.0 * (h + 1) as f64 / heads as f64).exp2());
    if heads == 0 {
        return Vec::new();
    }
    let whole = 1 << heads.ilog2();
    geometric(whole).chain(geometric(2 * whole).step_by(2).take(heads - whole)).collect()
}
