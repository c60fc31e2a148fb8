use burn::{
    module::Module,
    nn::{
        Linear, LinearConfig, PaddingConfig1d,
        conv::{Conv1d, Conv1dConfig},
    },
    tensor::{Device, Tensor, activation},
};
use regard::blocks::{project, sigmoid};
use serde::{Deserialize, Serialize};

use crate::vision::{linear_multiply_adds, map_mean};

/// What weighs the channels of a map by the means of all channels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GateKind {
    /// Nothing.
    #[default]
    None,
    /// Squeeze and excitation: two linear layers with a rectifier between, by way of a 16th of the channels, rounded to a multiple of 8.
    SqueezeExcite,
    /// Efficient channel attention: a convolution along the channels of about half the logarithm of their number.
    Efficient,
}

impl GateKind {
    /// The gate of `channels` channels, if there is one.
    pub(super) fn init(self, channels: usize, device: &Device) -> Option<ChannelGate> {
        match self {
            Self::None => None,
            Self::SqueezeExcite => {
                let inner = rounded(channels as f64 / 16.0);
                let [fc1, fc2] = [[channels, inner], [inner, channels]].map(|[from, to]| LinearConfig::new(from, to).init(device));
                Some(ChannelGate::SqueezeExcite(SqueezeExcite { fc1, fc2 }))
            }
            Self::Efficient => {
                let kernel = f64::midpoint((channels as f64).log2(), 1.0) as usize;
                let kernel = if kernel.is_multiple_of(2) { kernel + 1 } else { kernel }.max(3);
                let config = Conv1dConfig::new(1, 1, kernel).with_padding(PaddingConfig1d::Explicit(kernel / 2, kernel / 2));
                Some(ChannelGate::Efficient(Efficient { conv: config.with_bias(false).init(device) }))
            }
        }
    }
}

/// The nearest multiple of 8, at least 8.
fn rounded(width: f64) -> usize {
    ((width + 4.0) as usize / 8 * 8).max(8)
}

/// Weighs the channels of maps: see [`GateKind`].
#[derive(Module, Debug)]
#[allow(clippy::large_enum_variant, reason = "one per block, next to its weights")]
pub enum ChannelGate {
    /// Squeeze and excitation.
    SqueezeExcite(SqueezeExcite),
    /// Efficient channel attention.
    Efficient(Efficient),
}

/// `x ⊙ sigmoid(W_2 relu(W_1 mean(x)))`
#[derive(Module, Debug)]
pub struct SqueezeExcite {
    /// W_1
    pub fc1: Linear,
    /// W_2
    pub fc2: Linear,
}

/// `x ⊙ sigmoid(conv(mean(x)))`
#[derive(Module, Debug)]
pub struct Efficient {
    /// The convolution along the channels.
    pub conv: Conv1d,
}

impl ChannelGate {
    /// Weighs the channels.
    ///
    /// # Shapes
    /// - `x`: `[B, Y, X, C]`; output: the same
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let [b, _, _, c] = x.dims();
        let mean = map_mean(x.clone());
        let weights = sigmoid(match self {
            Self::SqueezeExcite(gate) => project(&gate.fc2, activation::relu(project(&gate.fc1, mean))),
            Self::Efficient(gate) => gate.conv.forward(mean.unsqueeze_dim::<3>(1)).reshape([b, c]),
        });
        x * weights.reshape([b, 1, 1, c])
    }

    /// Multiply-adds for one image.
    pub(super) fn multiply_adds(&self, channels: usize) -> f64 {
        match self {
            Self::SqueezeExcite(gate) => linear_multiply_adds(&gate.fc1, 1) + linear_multiply_adds(&gate.fc2, 1),
            Self::Efficient(gate) => (gate.conv.weight.lazy_shape().num_elements() * channels) as f64,
        }
    }
}
