use burn::{
    module::{Initializer, Module, Param},
    nn::{Linear, LinearConfig},
    tensor::{Bool, Device, Tensor},
};
use serde::{Deserialize, Serialize};

use super::{
    config::{NprfConfig, yes},
    op::nprf_grid,
    options::NprfOptions,
    product::NprfAlgorithm,
    projection::ProjectionKind,
    projection::draw_projection,
};
use crate::{Error, LayerPlace, Result, blocks::project};

/// Configuration of [`NprfImage`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NprfImageConfig {
    /// Number of heads H; must divide the width.
    pub heads: usize,
    /// Rows Y of patches.
    pub rows: usize,
    /// Columns X of patches.
    pub columns: usize,
    /// Whether a class token stands in front of the patches.
    #[serde(default)]
    pub class_token: bool,
    /// Number of random features M. `None` = the width of a head.
    #[serde(default)]
    pub features: Option<usize>,
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

impl NprfImageConfig {
    const OP: &str = "nprf_image";

    /// Attention over `rows` × `columns` patches without a class token, as many features as a head is wide.
    pub fn new(heads: usize, rows: usize, columns: usize) -> Self {
        Self {
            heads,
            rows,
            columns,
            class_token: false,
            features: None,
            projection: ProjectionKind::Gaussian,
            seed: 0,
            bias: true,
            algorithm: NprfAlgorithm::Auto,
        }
    }

    /// The layer for width `d_model`.
    ///
    /// # Errors
    /// If the heads do not divide the width, or a size is 0.
    pub fn init(&self, d_model: usize, place: LayerPlace, device: &Device) -> Result<NprfImage> {
        for (arg, size) in [("d_model", d_model), ("rows", self.rows), ("columns", self.columns), ("features", self.features.unwrap_or(1))]
        {
            if size == 0 {
                return Err(Error::argument(Self::OP, arg, "at least 1", size));
            }
        }
        if self.heads == 0 || !d_model.is_multiple_of(self.heads) {
            return Err(Error::argument(Self::OP, "heads", format!("a divisor of d_model = {d_model}"), self.heads));
        }
        let (h, width) = (self.heads, d_model / self.heads);
        let linear = || LinearConfig::new(d_model, d_model).with_bias(self.bias).init(device);
        let seed = NprfConfig::layer_seed(self.seed, place.index);
        Ok(NprfImage {
            q_proj: linear(),
            k_proj: linear(),
            v_proj: linear(),
            out_proj: linear(),
            rpe: Initializer::Zeros.init([h, 2 * self.rows - 1, 2 * self.columns - 1], device),
            class: self.class_token.then(|| Initializer::Zeros.init([h, 3], device)),
            projection: draw_projection(self.projection, [h, self.features.unwrap_or(width), width], seed, device),
            config: self.clone(),
        })
    }
}

/// Multi-head NPRF over the patches of an image with its projections, in the place of a vision transformer's attention.
#[derive(Module, Debug)]
pub struct NprfImage {
    /// W_q, heads head-major.
    pub q_proj: Linear,
    /// W_k
    pub k_proj: Linear,
    /// W_v
    pub v_proj: Linear,
    /// W_o
    pub out_proj: Linear,
    /// Biases by difference of rows and columns, zeros at first. `[H, 2Y − 1, 2X − 1]`
    pub rpe: Param<Tensor<3>>,
    /// Biases class → class, class → patch and patch → class, zeros at first. `[H, 3]`
    pub class: Option<Param<Tensor<2>>>,
    /// The random projection, a constant that is not saved: the configuration and the place of the layer give it again.
    /// `[H, M, D/H]`
    pub projection: Tensor<3>,
    #[module(skip)]
    config: NprfImageConfig,
}

impl NprfImage {
    /// Attention of all tokens to all tokens.
    ///
    /// # Shapes
    /// - `x`: `[B, N, D]`, patches row-major, behind the class token if there is one; `padding`: `[B, N]`, `true` = not a token
    /// - output: `[B, N, D]`
    ///
    /// # Errors
    /// If N is not the number of tokens, or the mask has another shape.
    ///
    /// # Panics
    /// If the width of `x` is not D.
    pub fn forward(&self, x: Tensor<3>, padding: Option<Tensor<2, Bool>>) -> Result<Tensor<3>> {
        let ([b, n, d], h) = (x.dims(), self.config.heads);
        let heads = |p: &Linear| project(p, x.clone()).reshape([b, n, h, d / h]).swap_dims(1, 2);
        let options = NprfOptions { key_mask: padding, algorithm: self.config.algorithm, ..NprfOptions::default() };
        let [q, k, v] = [&self.q_proj, &self.k_proj, &self.v_proj].map(heads);
        let class = self.class.as_ref().map(Param::val);
        let (o, _) = nprf_grid(q, k, v, self.projection.clone(), self.rpe.val(), class, &options)?;
        Ok(project(&self.out_proj, o.swap_dims(1, 2).reshape([b, n, d])))
    }
}
