//! The definition, with every projection of every token.

use burn::tensor::{Tensor, activation};

use super::{
    config::{Flavour, Layout},
    layer::PolarizedAttention,
};
use crate::blocks::project;

/// The equations as they are printed, or as the released code computes them: O(N·C²) time.
///
/// # Shapes
/// - `x`: `[B, N, C]`; output: the same
pub fn direct(layer: &PolarizedAttention, x: Tensor<3>) -> Tensor<3> {
    let channels = channel_gate(layer, x.clone()); // [B, 1, C]
    let z_channel = x.clone() * channels;
    match layer.layout {
        Layout::Parallel => z_channel + x.clone() * spatial_gate(layer, x),
        Layout::Sequential => z_channel.clone() * spatial_gate(layer, z_channel),
    }
}

/// `A_ch = gate(Σ_n softmax_n(W_q x)_n (W_v x)_n)`
fn channel_gate(layer: &PolarizedAttention, x: Tensor<3>) -> Tensor<3> {
    let weights = activation::softmax(project(&layer.q, x.clone()), 1);
    let z = (project(&layer.v, x) * weights).sum_dim(1);
    layer.gate.forward(z)
}

/// `A_sp = sigmoid(p · W_v' x)`, `p = mean_n(W_q' x)`, with a softmax over the channels of p (paper), over the tokens of the product (official,
/// parallel) or over those of each channel of `W_v' x` (official, sequential).
fn spatial_gate(layer: &PolarizedAttention, x: Tensor<3>) -> Tensor<3> {
    let p = project(&layer.sp_q, x.clone()).mean_dim(1); // [B, 1, C']
    let v = project(&layer.sp_v, x); // [B, N, C']
    let scores = match (layer.flavour, layer.layout) {
        (Flavour::Paper, _) => (v * activation::softmax(p, 2)).sum_dim(2),
        (Flavour::Official, Layout::Parallel) => activation::softmax((v * p).sum_dim(2), 1),
        (Flavour::Official, Layout::Sequential) => (activation::softmax(v, 1) * p).sum_dim(2),
    };
    activation::sigmoid(scores)
}
