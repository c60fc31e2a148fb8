use burn::{
    module::Module,
    nn::{Linear, LinearConfig},
    tensor::{Device, Tensor},
};
use serde::{Deserialize, Serialize};

use super::op::{Routing, check_regions, route, routed_attention};
use crate::{
    Error, Result, SpatialMixer,
    blocks::{DepthwiseConv, DepthwiseConvConfig, crop_map, pad_map, project, split},
};

const OP: &str = "bi_level_routing";

/// What becomes of maps whose sides the regions do not divide.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RoutedPadding {
    /// Zeros to the right and below before the projection: tokens of biases, which take part in means and softmax, as in the authors' code.
    #[default]
    Input,
    /// No padding: regions at the border are smaller, and there may be fewer of them.
    Mask,
}

/// The factor on products of queries and keys.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RoutedScale {
    /// 1/√D with the width of the model, as in the paper and all its weights.
    #[default]
    Width,
    /// 1/√(D/H) with the width of a head.
    Head,
}

/// Configuration of [`BiLevelRouting`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BiLevelRoutingConfig {
    /// Number of heads H; must divide the width.
    pub heads: usize,
    /// Regions S per side of a map, at least 1.
    #[serde(default = "seven")]
    pub regions: usize,
    /// Regions k that each region sees, from 1 to S².
    #[serde(default = "four")]
    pub topk: usize,
    /// The factor on scores.
    #[serde(default)]
    pub scale: RoutedScale,
    /// Side of the depthwise convolution of the values; odd, or 0 for none.
    #[serde(default = "five")]
    pub local: usize,
    /// What becomes of other sizes.
    #[serde(default)]
    pub padding: RoutedPadding,
}

fn seven() -> usize {
    7
}

fn four() -> usize {
    4
}

fn five() -> usize {
    5
}

impl BiLevelRoutingConfig {
    /// As in BiFormer's second stage: 7 × 7 regions, each of which sees four, and a convolution of 5 × 5 tokens.
    pub fn new(heads: usize) -> Self {
        Self { heads, regions: seven(), topk: four(), scale: RoutedScale::default(), local: five(), padding: RoutedPadding::default() }
    }

    /// The layer for width `d_model`.
    ///
    /// # Errors
    /// If the heads do not divide the width, or a number is out of its range.
    pub fn init(&self, d_model: usize, device: &Device) -> Result<BiLevelRouting> {
        for (arg, size) in [("d_model", d_model), ("regions", self.regions)] {
            if size == 0 {
                return Err(Error::argument(OP, arg, "at least 1", size));
            }
        }
        if self.heads == 0 || !d_model.is_multiple_of(self.heads) {
            return Err(Error::argument(OP, "heads", format!("a divisor of d_model = {d_model}"), self.heads));
        }
        let all = self.regions.saturating_mul(self.regions);
        if self.topk == 0 || self.topk > all {
            return Err(Error::argument(OP, "topk", format!("from 1 to the number of regions, {all}"), self.topk));
        }
        if self.local > 0 && self.local.is_multiple_of(2) {
            return Err(Error::argument(OP, "local", "odd, or 0", self.local));
        }
        Ok(BiLevelRouting {
            qkv: LinearConfig::new(d_model, 3 * d_model).init(device),
            lepe: (self.local > 0).then(|| DepthwiseConvConfig::same(d_model, self.local).init(device)).transpose()?,
            wo: LinearConfig::new(d_model, d_model).init(device),
            config: self.clone(),
        })
    }
}

/// Multi-head attention of the tokens of each region to those of the regions that suit it best, with the projections, and a convolution of the
/// values.
#[derive(Module, Debug)]
pub struct BiLevelRouting {
    /// Queries, keys and values in one projection, in that order, heads head-major.
    pub qkv: Linear,
    /// The convolution of the values, if there is one.
    pub lepe: Option<DepthwiseConv>,
    /// Back to the width of the model.
    pub wo: Linear,
    #[module(skip)]
    config: BiLevelRoutingConfig,
}

impl BiLevelRouting {
    /// As [`SpatialMixer::forward`], with the routes taken.
    ///
    /// # Shapes
    /// - `x`: `[B, Y, X, D]`; output: the same
    ///
    /// # Errors
    /// As [`SpatialMixer::check_map`].
    ///
    /// # Panics
    /// If the width of `x` is not D.
    pub fn attend(&self, x: Tensor<4>) -> Result<(Tensor<4>, Routing)> {
        let [b, y, columns, d] = x.dims();
        self.check_map([y, columns])?;
        let BiLevelRoutingConfig { heads: h, regions, topk, scale, padding, .. } = self.config;
        let x = if padding == RoutedPadding::Input { pad_map(x, [regions; 2]) } else { x };
        let [_, padded_y, padded_x, _] = x.dims();
        let qkv = project(&self.qkv, x);
        let part = |i: usize| qkv.clone().inner().narrow(3, i * d, d);
        let routing_scale = 1.0 / (d as f64).sqrt();
        let routing = route(&part(0), &part(1), regions, topk, routing_scale)?;
        let [q, k, v] = split(qkv.reshape([b, padded_y, padded_x, 3 * h, d / h]), 3, [h; 3]);
        let scale = match scale {
            RoutedScale::Width => routing_scale,
            RoutedScale::Head => (h as f64 / d as f64).sqrt(),
        };
        let o = routed_attention(q, k, v.clone(), &routing.routes, scale)?.reshape([b, padded_y, padded_x, d]);
        let o = match &self.lepe {
            Some(lepe) => o + lepe.forward(v.reshape([b, padded_y, padded_x, d])),
            None => o,
        };
        Ok((project(&self.wo, crop_map(o, [y, columns])), routing))
    }
}

impl SpatialMixer for BiLevelRouting {
    fn check_map(&self, map: [usize; 2]) -> Result<()> {
        let padded = match self.config.padding {
            RoutedPadding::Input => map.map(|length| length.next_multiple_of(self.config.regions)),
            RoutedPadding::Mask => map,
        };
        check_regions(OP, self.config.regions, self.config.topk, padded)
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        if x.dims().contains(&0) {
            return x;
        }
        self.attend(x).expect("a map that `check_map` accepts").0
    }

    fn flops(&self, map: [usize; 2]) -> f64 {
        let [d, _] = self.wo.weight.lazy_shape().dims();
        let padded = map.map(|length| length.next_multiple_of(self.config.regions));
        let [n, padded] = [map, padded].map(|map| map.iter().product::<usize>() as f64);
        let regions = (self.config.regions * self.config.regions) as f64;
        let conv = self.lepe.as_ref().map_or(0, DepthwiseConv::flops_per_output) as f64;
        let (d, seen) = (d as f64, self.config.topk as f64 * padded / regions);
        padded * (6.0 * d * d + 4.0 * d * seen + conv) + n * 2.0 * d * d + 2.0 * regions * regions * d
    }
}
