use burn::{
    module::{Module, Param},
    nn::Linear,
    tensor::{Tensor, activation},
};

use super::config::{Flavour, Layout};
use crate::{
    Result, SpatialMixer,
    blocks::{Norm, project, sigmoid},
};

/// Gates of the channels and of the tokens of a map, each computed with the other axis collapsed at once.
#[derive(Module, Debug)]
pub struct PolarizedAttention {
    /// Channel branch: the weights of the tokens. C → 1
    pub q: Linear,
    /// Channel branch: C → C'
    pub v: Linear,
    /// Channel branch: C' → C, the gates before their sigmoid.
    pub gate: ChannelGate,
    /// Spatial branch: the weights of the channels. C → C'
    pub sp_q: Linear,
    /// Spatial branch: C → C'
    pub sp_v: Linear,
    #[module(skip)]
    pub(super) flavour: Flavour,
    #[module(skip)]
    pub(super) layout: Layout,
}

/// From the mean of the tokens to a gate for each channel.
#[derive(Module, Debug)]
pub struct ChannelGate {
    /// C' → C, or to a bottleneck.
    pub up: Linear,
    /// Behind it, if there is one.
    pub norm: Option<Norm>,
    /// From a bottleneck to C, behind a rectifier.
    pub last: Option<Linear>,
}

impl ChannelGate {
    /// The gates, in (0, 1).
    ///
    /// # Shapes
    /// - `z`: `[B, 1, C']`; output: `[B, 1, C]`
    pub fn forward(&self, z: Tensor<3>) -> Tensor<3> {
        let u = project(&self.up, z);
        let u = match &self.norm {
            Some(norm) => norm.forward(u),
            None => u,
        };
        sigmoid(match &self.last {
            Some(last) => project(last, activation::relu(u)),
            None => u,
        })
    }
}

impl PolarizedAttention {
    /// Gates the tokens of maps: O(N·C + C²) time, and nothing of the size of C'·N, but in the official sequential form.
    ///
    /// # Shapes
    /// - `x`: `[B, N, C]`, the tokens in any order; output: the same
    ///
    /// # Panics
    /// If the channels are others.
    pub fn attend(&self, x: Tensor<3>) -> Tensor<3> {
        if x.dims().contains(&0) {
            return x;
        }
        // A projection of a mean is the mean of projections: the weights of each mean sum to 1, which makes the biases right too.
        let weights = activation::softmax(project(&self.q, x.clone()), 1); // [B, N, 1]
        let mean = weights.swap_dims(1, 2).matmul(x.clone()); // [B, 1, C]
        let channels = self.gate.forward(project(&self.v, mean));
        let mean = x.clone().mean_dim(1);
        let (mean, gated) = match self.layout {
            Layout::Parallel => (mean, None),
            Layout::Sequential => (mean * channels.clone(), Some(channels.clone())),
        };
        let p = project(&self.sp_q, mean); // [B, 1, C']
        let tokens = match (self.flavour, gated) {
            (Flavour::Official, Some(gated)) => {
                let v = activation::softmax(project(&self.sp_v, x.clone() * gated), 1); // [B, N, C']
                v.matmul(p.swap_dims(1, 2))
            }
            (Flavour::Official, None) => activation::softmax(self.scores(x.clone(), p, None), 1),
            (Flavour::Paper, gated) => self.scores(x.clone(), activation::softmax(p, 2), gated),
        };
        let tokens = sigmoid(tokens); // [B, N, 1]
        match self.layout {
            Layout::Parallel => x * (channels + tokens),
            Layout::Sequential => x * (channels * tokens),
        }
    }

    /// `Σ_c p_c (W_v (gate ⊙ x) + b)_c` for each token, by one vector of C numbers. `[B, N, 1]`
    fn scores(&self, x: Tensor<3>, p: Tensor<3>, gate: Option<Tensor<3>>) -> Tensor<3> {
        let weight = self.sp_v.weight.val().swap_dims(0, 1).unsqueeze_dim::<3>(0); // [1, C', C]
        let [b, _, _] = p.dims();
        let [_, inner, c] = weight.dims();
        let vector = p.clone().matmul(weight.expand([b, inner, c])); // [B, 1, C]
        let vector = match gate {
            Some(gate) => vector * gate,
            None => vector,
        };
        let scores = x.matmul(vector.swap_dims(1, 2));
        match self.sp_v.bias.as_ref().map(Param::val) {
            Some(bias) => scores + (p * bias.unsqueeze()).sum_dim(2),
            None => scores,
        }
    }
}

impl SpatialMixer for PolarizedAttention {
    fn check_map(&self, _: [usize; 2]) -> Result<()> {
        Ok(())
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let [b, y, columns, c] = x.dims();
        self.attend(x.reshape([b, y * columns, c])).reshape([b, y, columns, c])
    }

    fn flops(&self, [y, x]: [usize; 2]) -> f64 {
        let [c, inner] = self.v.weight.lazy_shape().dims();
        let full = (self.flavour, self.layout) == (Flavour::Official, Layout::Sequential);
        // Two products with a vector and a mean; or a projection of every token.
        let per_token = 2 * (3 * c) + if full { 2 * c * inner } else { 0 };
        (y * x) as f64 * per_token as f64 + (2 * 4 * c * inner) as f64
    }
}
