use serde::{Deserialize, Serialize};

use super::{favor::FavorOptions, options::NprfOptions, product::NprfAlgorithm, projection::ProjectionKind};
use crate::{Error, Result};

/// Features of queries and keys.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FeatureKind {
    /// `exp(W x − |x|²/2) / √M`
    #[default]
    Prf,
    /// The same with `eps` added to each (FAVOR+). In the causal form nothing is taken out of the exponents of keys, which would let them
    /// see the future.
    FavorPlus,
}

/// Configuration of [`Nprf`](super::Nprf).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NprfConfig {
    /// Number of heads H; must divide the width.
    pub heads: usize,
    /// Number of random features M. `None` = the width of a head.
    #[serde(default)]
    pub features: Option<usize>,
    /// Whether queries and keys are divided by their norms; if not, both are multiplied by `(D/H)^(-1/4)`.
    #[serde(default = "yes")]
    pub normalised: bool,
    /// Whether a learned bias by difference of positions is added to the exponents.
    #[serde(default = "yes")]
    pub rpe: bool,
    /// Largest distance with a bias of its own, in either direction; larger ones share the last. Sequences of up to `farthest + 1`
    /// tokens have a bias for every difference.
    #[serde(default = "default_farthest")]
    pub farthest: usize,
    /// Largest magnitude of a bias; larger ones count as this. 0 = no bound.
    #[serde(default = "default_clamp", with = "clamp_in_file")]
    pub clamp: Option<f64>,
    /// Features.
    #[serde(default)]
    pub kernel: FeatureKind,
    /// ε of the features of FAVOR+.
    #[serde(default = "default_eps")]
    pub eps: f64,
    /// How the rows of the random projection are drawn.
    #[serde(default)]
    pub projection: ProjectionKind,
    /// Seed of the random projection; every layer of a stack draws another one from it.
    #[serde(default)]
    pub seed: u64,
    /// Whether the projections have biases.
    #[serde(default = "yes")]
    pub bias: bool,
    /// How the product with the biases is computed. Changes speed; results only by rounding.
    #[serde(default)]
    pub algorithm: NprfAlgorithm,
}

pub(super) fn yes() -> bool {
    true
}

fn default_farthest() -> usize {
    255
}

fn default_clamp() -> Option<f64> {
    NprfOptions::default().clamp
}

fn default_eps() -> f64 {
    FavorOptions::default().eps
}

/// `None` is 0 in a file: an absent key means the default, and TOML has no null.
mod clamp_in_file {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[expect(clippy::ref_option, reason = "serde asks for this signature")]
    pub(super) fn serialize<S: Serializer>(clamp: &Option<f64>, serializer: S) -> Result<S::Ok, S::Error> {
        clamp.unwrap_or(0.0).serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<f64>, D::Error> {
        f64::deserialize(deserializer).map(|bound| (bound != 0.0).then_some(bound))
    }
}

impl NprfConfig {
    pub(super) const OP: &str = "nprf";

    /// NPRF with a bias for distances up to 255 and as many features as a head is wide.
    pub fn new(heads: usize) -> Self {
        Self {
            heads,
            features: None,
            normalised: true,
            rpe: true,
            farthest: default_farthest(),
            clamp: default_clamp(),
            kernel: FeatureKind::Prf,
            eps: default_eps(),
            projection: ProjectionKind::Gaussian,
            seed: 0,
            bias: true,
            algorithm: NprfAlgorithm::Auto,
        }
    }

    /// The baseline PRF: neither normalised nor biased.
    pub fn prf(heads: usize) -> Self {
        Self { normalised: false, rpe: false, ..Self::new(heads) }
    }

    /// The baseline FAVOR+ (Performer): neither normalised nor biased, orthogonal rows.
    pub fn favor_plus(heads: usize) -> Self {
        Self { kernel: FeatureKind::FavorPlus, projection: ProjectionKind::Orthogonal, ..Self::prf(heads) }
    }

    /// The seed of a layer: every one of a stack has a projection of its own.
    pub(super) fn layer_seed(seed: u64, index: usize) -> u64 {
        seed.wrapping_add((index as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    /// Checks the options; gives the width of a head.
    pub(super) fn check(&self, d_model: usize) -> Result<usize> {
        if d_model == 0 {
            return Err(Error::argument(Self::OP, "d_model", "at least 1", d_model));
        }
        if self.heads == 0 || !d_model.is_multiple_of(self.heads) {
            return Err(Error::argument(Self::OP, "heads", format!("a divisor of d_model = {d_model}"), self.heads));
        }
        if self.features == Some(0) {
            return Err(Error::argument(Self::OP, "features", "at least 1", 0));
        }
        if let Some(bound) = self.clamp
            && !(bound > 0.0)
        {
            return Err(Error::argument(Self::OP, "clamp", "a positive number, or 0 for no bound", bound));
        }
        FavorOptions { eps: self.eps, ..FavorOptions::default() }.check(Self::OP)?;
        Ok(d_model / self.heads)
    }
}
