use burn::{
    module::{Initializer, Module, Param},
    nn::{Dropout, DropoutConfig, Linear, LinearConfig},
    tensor::{Bool, Device, Tensor},
};
use regard::{
    Error, LayerPlace, Result,
    blocks::{Norm, NormKind, gelu},
    flow_attention::{FlowAttention, FlowAttentionConfig},
};
use serde::{Deserialize, Serialize};

const OP: &str = "flowformer_series";

/// Configuration of [`FlowformerSeries`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FlowformerSeriesConfig {
    /// Numbers per time step. A file may leave it out, as `length` and `classes`: training takes them from the task.
    #[serde(default)]
    pub features: usize,
    /// Time steps T of a series; shorter ones are padded to it.
    #[serde(default)]
    pub length: usize,
    /// Number of classes.
    #[serde(default)]
    pub classes: usize,
    /// Width D.
    #[serde(default = "default_d_model")]
    pub d_model: usize,
    /// Number of layers.
    #[serde(default = "two")]
    pub layers: usize,
    /// Inner width of the channel mixers.
    #[serde(default = "default_d_ff")]
    pub d_ff: usize,
    /// The token mixer of all layers.
    pub attention: FlowAttentionConfig,
    /// Whether attention leaves padded steps out. The published code attends to them.
    #[serde(default = "yes")]
    pub mask_in_attention: bool,
    /// ε of the norms.
    #[serde(default = "epsilon")]
    pub norm_epsilon: f64,
    /// Probability of dropping an element in training: of the input, of each branch and inside the channel mixers, before the head.
    #[serde(default)]
    pub dropout: f64,
}

fn default_d_model() -> usize {
    512
}

fn default_d_ff() -> usize {
    2048
}

fn two() -> usize {
    2
}

fn yes() -> bool {
    true
}

fn epsilon() -> f64 {
    1e-5
}

impl FlowformerSeriesConfig {
    /// The published network for such series: two layers, width 512, 8 heads, flows without bounds, dropout 0.1; padding is left out.
    pub fn new(features: usize, length: usize, classes: usize) -> Self {
        Self {
            features,
            length,
            classes,
            d_model: default_d_model(),
            layers: two(),
            d_ff: default_d_ff(),
            attention: FlowAttentionConfig { clamp: None, ..FlowAttentionConfig::new(8) },
            mask_in_attention: true,
            norm_epsilon: epsilon(),
            dropout: 0.1,
        }
    }

    /// The network with Burn's initial values, position vectors drawn from U(−0.02, 0.02).
    ///
    /// # Errors
    /// If a size is 0, `dropout` is outside [0, 1), the heads do not divide the width, or an option is out of its range.
    pub fn init(&self, device: &Device) -> Result<FlowformerSeries> {
        let sizes = [
            ("features", self.features),
            ("length", self.length),
            ("classes", self.classes),
            ("d_model", self.d_model),
            ("layers", self.layers),
            ("d_ff", self.d_ff),
        ];
        for (arg, size) in sizes {
            if size == 0 {
                return Err(Error::argument(OP, arg, "at least 1", size));
            }
        }
        if !(0.0..1.0).contains(&self.dropout) {
            return Err(Error::argument(OP, "dropout", "in [0, 1)", self.dropout));
        }
        let linear = |from, to| LinearConfig::new(from, to).init(device);
        let norm = || NormKind::Layer.init(self.d_model, self.norm_epsilon, device);
        let layers = (0..self.layers).map(|index| {
            let place = LayerPlace { index, count: self.layers };
            Ok(SeriesLayer {
                attention: self.attention.init(self.d_model, place, device)?,
                conv1: linear(self.d_model, self.d_ff),
                conv2: linear(self.d_ff, self.d_model),
                norm1: norm(),
                norm2: norm(),
                dropout: DropoutConfig::new(self.dropout).init(),
            })
        });
        Ok(FlowformerSeries {
            project_inp: linear(self.features, self.d_model),
            pos_enc: Initializer::Uniform { min: -0.02, max: 0.02 }.init([self.length, self.d_model], device),
            layers: layers.collect::<Result<_>>()?,
            norm: norm(),
            output_layer: linear(self.length * self.d_model, self.classes),
            dropout: DropoutConfig::new(self.dropout).init(),
            mask_in_attention: self.mask_in_attention,
        })
    }
}

/// `x ← LN(x + Flow(x))`, then `x ← LN(x + W_2 GELU(W_1 x))`.
#[derive(Module, Debug)]
pub struct SeriesLayer {
    /// Token mixer.
    pub attention: FlowAttention,
    /// W_1, in the published code a convolution of width 1.
    pub conv1: Linear,
    /// W_2
    pub conv2: Linear,
    /// Norm behind the token mixer.
    pub norm1: Norm,
    /// Norm behind the channel mixer.
    pub norm2: Norm,
    /// Dropout of both branches and inside the channel mixer.
    pub dropout: Dropout,
}

impl SeriesLayer {
    fn forward(&self, x: Tensor<3>, hidden: Option<Tensor<2, Bool>>) -> Result<Tensor<3>> {
        let mixed = self.attention.attend(x.clone(), x.clone(), x.clone(), hidden.clone(), hidden)?;
        let x = self.norm1.forward(x + self.dropout.forward(mixed));
        let inner = self.dropout.forward(gelu(self.conv1.forward(x.clone())));
        Ok(self.norm2.forward(x + self.dropout.forward(self.conv2.forward(inner))))
    }
}

/// A classifier of multivariate series: see the [module's page](super).
#[derive(Module, Debug)]
pub struct FlowformerSeries {
    /// From the numbers of a step to its vector.
    pub project_inp: Linear,
    /// Position vectors. `[T, D]`
    pub pos_enc: Param<Tensor<2>>,
    /// The layers.
    pub layers: Vec<SeriesLayer>,
    /// Norm behind the layers.
    pub norm: Norm,
    /// From the vectors of all steps to the classes.
    pub output_layer: Linear,
    /// Dropout of the input and before the head.
    pub dropout: Dropout,
    mask_in_attention: bool,
}

impl FlowformerSeries {
    /// Logits of the classes.
    ///
    /// # Shapes
    /// - `x`: `[B, T, features]`
    /// - `padding`: `[B, T]`, `true` = not a step of the series
    /// - output: `[B, classes]`
    ///
    /// # Errors
    /// If the series have another length or number of features, or the padding another shape.
    pub fn forward(&self, x: Tensor<3>, padding: Option<Tensor<2, Bool>>) -> Result<Tensor<2>> {
        let [b, t, features] = x.dims();
        let [length, d_model] = self.pos_enc.lazy_shape().dims();
        let [expected, _] = self.project_inp.weight.lazy_shape().dims();
        if [t, features] != [length, expected] {
            let want = format!("of shape [B, {length}, {expected}]");
            return Err(Error::argument(OP, "x", want, format!("{:?}", x.dims())));
        }
        if let Some(padding) = &padding
            && padding.dims() != [b, t]
        {
            return Err(Error::argument(OP, "padding", format!("of shape {:?}", [b, t]), format!("{:?}", padding.dims())));
        }
        let x = self.project_inp.forward(x) * (d_model as f64).sqrt() + self.pos_enc.val().unsqueeze();
        let mut x = self.dropout.forward(x);
        for layer in &self.layers {
            x = layer.forward(x, padding.clone().filter(|_| self.mask_in_attention))?;
        }
        let x = self.dropout.forward(gelu(self.norm.forward(x)));
        let x = match padding {
            Some(padding) => {
                let shape = x.dims();
                x.mask_fill(padding.unsqueeze_dim::<3>(2).expand(shape), 0.0)
            }
            None => x,
        };
        Ok(self.output_layer.forward(x.reshape([b, t * d_model])))
    }
}
