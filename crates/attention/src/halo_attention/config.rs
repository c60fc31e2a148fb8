use burn::{module::Initializer, nn::LinearConfig, tensor::Device};
use serde::{Deserialize, Serialize};

use super::{layer::HaloAttention, op::HaloOptions};
use crate::{Error, Result};

const OP: &str = "halo";

/// What the tokens at the border of a map see outside of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Border {
    /// Keys and values of zeros, which take part in the softmax with the scores of their place: the public weights.
    #[default]
    Zero,
    /// Nothing.
    Mask,
}

/// How the place of a query in its block is counted if not every token is a query.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StridedPositions {
    /// In queries: the public weights.
    #[default]
    Index,
    /// In tokens.
    Pixel,
}

/// The order of the rows of the projection to keys and values.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KvLayout {
    /// For each head its key, then its value.
    #[default]
    PerHead,
    /// The keys of all heads, then the values.
    KeysFirst,
}

/// Widths of a [`HaloAttention`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HaloWidths {
    /// Channels of the input.
    pub input: usize,
    /// Of a query and a key, per head.
    pub key: usize,
    /// Of a value, per head.
    pub value: usize,
}

/// Configuration of [`HaloAttention`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HaloAttentionConfig {
    /// Number of heads H.
    pub heads: usize,
    /// Rows and columns b of a block.
    #[serde(default = "eight")]
    pub block: usize,
    /// Rows and columns h around a block that its tokens see too.
    #[serde(default = "three")]
    pub halo: usize,
    /// 1, or 2 to halve the sides of the map.
    #[serde(default = "one")]
    pub stride: usize,
    /// With a stride of 2: whether attention is at full resolution, and its outputs are averaged; always so if b is odd.
    #[serde(default)]
    pub avg_down: bool,
    /// How places are counted with a stride.
    #[serde(default)]
    pub positions: StridedPositions,
    /// Whether the biases by place have the factor of scores, too.
    #[serde(default)]
    pub scaled_positions: bool,
    /// What is outside of a map.
    #[serde(default)]
    pub border: Border,
    /// Whether queries, keys and values have biases.
    #[serde(default)]
    pub qkv_bias: bool,
    /// Whether there is a projection of the output, with biases.
    #[serde(default)]
    pub out_proj: bool,
    /// The order of keys and values.
    #[serde(default)]
    pub kv_layout: KvLayout,
}

fn eight() -> usize {
    8
}

fn three() -> usize {
    3
}

fn one() -> usize {
    1
}

impl HaloAttentionConfig {
    /// As in HaloNet H0: blocks of 8 × 8 with a halo of 3.
    pub fn new(heads: usize) -> Self {
        Self {
            heads,
            block: eight(),
            halo: three(),
            stride: one(),
            avg_down: false,
            positions: StridedPositions::default(),
            scaled_positions: false,
            border: Border::default(),
            qkv_bias: false,
            out_proj: false,
            kv_layout: KvLayout::default(),
        }
    }

    /// The layer for width `d_model`, which keeps width and size of a map.
    ///
    /// # Errors
    /// If the heads do not divide the width, the stride is not 1, or a number is out of its range.
    pub fn init(&self, d_model: usize, device: &Device) -> Result<HaloAttention> {
        if d_model == 0 {
            return Err(Error::argument(OP, "d_model", "at least 1", d_model));
        }
        if self.heads == 0 || !d_model.is_multiple_of(self.heads) {
            return Err(Error::argument(OP, "heads", format!("a divisor of d_model = {d_model}"), self.heads));
        }
        if self.stride != 1 {
            return Err(Error::argument(OP, "stride", "1 in a layer that keeps the size of a map", self.stride));
        }
        let width = d_model / self.heads;
        self.init_widths(HaloWidths { input: d_model, key: width, value: width }, device)
    }

    /// The layer with any widths and strides.
    ///
    /// # Errors
    /// If a number is out of its range.
    pub fn init_widths(&self, widths: HaloWidths, device: &Device) -> Result<HaloAttention> {
        let HaloWidths { input, key, value } = widths;
        for (arg, size) in [("heads", self.heads), ("input", input), ("key", key), ("value", value)] {
            if size == 0 {
                return Err(Error::argument(OP, arg, "at least 1", size));
            }
        }
        if !(1..=2).contains(&self.stride) {
            return Err(Error::argument(OP, "stride", "1 or 2", self.stride));
        }
        let pooled = self.stride == 2 && (self.avg_down || !self.block.is_multiple_of(2));
        let options = HaloOptions {
            block: self.block,
            halo: self.halo,
            stride: if pooled { 1 } else { self.stride },
            in_pixels: self.positions == StridedPositions::Pixel,
            masked: self.border == Border::Mask,
            scaled_positions: self.scaled_positions,
            scale: None,
        };
        options.check(OP)?;
        let linear = |from, to, bias| LinearConfig::new(from, to).with_bias(bias).init(device);
        let std = 1.0 / (key as f64).sqrt();
        let vectors = || Initializer::Normal { mean: 0.0, std }.init([2 * options.window() - 1, key], device);
        Ok(HaloAttention {
            q: linear(input, self.heads * key, self.qkv_bias),
            kv: linear(input, self.heads * (key + value), self.qkv_bias),
            height_rel: vectors(),
            width_rel: vectors(),
            out: self.out_proj.then(|| linear(self.heads * value, input, true)),
            widths,
            options,
            pooled,
            kv_layout: self.kv_layout,
        })
    }
}
