use std::{fmt, str::FromStr};

use burn::tensor::DType;
use serde::{Deserialize, Serialize};

use super::OPERATIONS;
use crate::{Error, Result};

/// What is measured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BenchConfig {
    /// Of [`OPERATIONS`].
    pub mixers: Vec<String>,
    /// Sequences B.
    pub batch: usize,
    /// Heads H.
    pub heads: usize,
    /// Lengths T.
    pub lengths: Vec<usize>,
    /// Width of a head, K = V.
    pub width: usize,
    /// Forward alone, or with backward.
    pub directions: Vec<Direction>,
    /// Type of the inputs.
    pub dtype: Number,
    /// Seconds that the repetitions of one measurement may take.
    pub seconds: f64,
    /// A mixer goes no further once a single pass takes longer than so many seconds.
    pub longest_pass: f64,
}

impl Default for BenchConfig {
    fn default() -> Self {
        Self {
            mixers: OPERATIONS.iter().map(|kind| (*kind).to_owned()).collect(),
            batch: 1,
            heads: 4,
            lengths: (9..14).map(|e| 1 << e).collect(),
            width: 64,
            directions: vec![Direction::Forward, Direction::Training],
            dtype: Number::F32,
            seconds: 1.0,
            longest_pass: 5.0,
        }
    }
}

impl BenchConfig {
    /// # Errors
    /// If a mixer is unknown, a list is empty, or a size is 0.
    pub fn validate(&self) -> Result<()> {
        for name in &self.mixers {
            if !OPERATIONS.contains(&name.as_str()) {
                let suggestion = regard_train::suggest::closest(name, OPERATIONS.iter().copied());
                return Err(Error::UnknownMixer { name: name.clone(), suggestion });
            }
        }
        let at_least_one = [
            ("mixers", self.mixers.len()),
            ("batch", self.batch),
            ("heads", self.heads),
            ("lengths", self.lengths.len()),
            ("lengths", self.lengths.iter().copied().min().unwrap_or(1)),
            ("width", self.width),
            ("directions", self.directions.len()),
        ];
        match at_least_one.into_iter().find(|(_, value)| *value == 0) {
            Some((key, _)) => Err(Error::value(key, "at least 1", 0)),
            None => Ok(()),
        }
    }
}

/// Which passes are measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// The forward pass alone.
    Forward,
    /// Forward and backward, with the gradients of all inputs.
    Training,
}

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Forward => "forward",
            Self::Training => "training",
        })
    }
}

impl FromStr for Direction {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "forward" | "fwd" => Ok(Self::Forward),
            "training" | "fwd+bwd" => Ok(Self::Training),
            _ => Err(Error::value("direction", "`forward` or `training`", text)),
        }
    }
}

/// Type of the inputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Number {
    /// 32 bits.
    F32,
    /// 16 bits, IEEE.
    F16,
    /// 16 bits with the exponents of 32.
    Bf16,
}

impl Number {
    pub(super) fn dtype(self) -> DType {
        match self {
            Self::F32 => DType::F32,
            Self::F16 => DType::F16,
            Self::Bf16 => DType::BF16,
        }
    }
}

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
        })
    }
}

impl FromStr for Number {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "f32" => Ok(Self::F32),
            "f16" => Ok(Self::F16),
            "bf16" => Ok(Self::Bf16),
            _ => Err(Error::value("dtype", "`f32`, `f16` or `bf16`", text)),
        }
    }
}
