use burn::{
    module::Module,
    nn::{Linear, LinearConfig},
    tensor::{Bool, Device, Tensor},
};
use serde::{Deserialize, Serialize};

use super::{
    causal::{BLOCK, FlowState, flow_attention_causal},
    op::flow_attention,
    options::{FlowFeatureMap, FlowOptions},
    reference::flow_weights,
};
use crate::{
    Error, LayerPlace, Result, SequenceMixer,
    blocks::{project, project_each},
};

/// Configuration of [`FlowAttention`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FlowAttentionConfig {
    /// Number of heads H; must divide the width of the projections.
    pub heads: usize,
    /// Whether the projections have biases.
    #[serde(default = "yes")]
    pub bias: bool,
    /// φ.
    #[serde(default)]
    pub feature_map: FlowFeatureMap,
    /// ε, see [`FlowOptions::eps`].
    #[serde(default = "default_eps")]
    pub eps: f64,
    /// See [`FlowOptions::extra_eps`].
    #[serde(default)]
    pub extra_eps: f64,
    /// Bounds of the conserved outgoing flow; in a file `clamp = [-1.0, 1.0]`, or `clamp = false` for none.
    #[serde(default = "default_clamp", with = "clamp_in_file")]
    pub clamp: Option<[f64; 2]>,
    /// Whether sources compete.
    #[serde(default = "yes")]
    pub competition: bool,
    /// Whether sinks are allocated a share.
    #[serde(default = "yes")]
    pub allocation: bool,
}

fn yes() -> bool {
    true
}

fn default_eps() -> f64 {
    FlowOptions::default().eps
}

fn default_clamp() -> Option<[f64; 2]> {
    FlowOptions::default().clamp
}

/// `None` is `false` in a file: an absent key means the default, and TOML has no null.
mod clamp_in_file {
    use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

    #[derive(Serialize, Deserialize)]
    #[serde(untagged, expecting = "`clamp` must be two bounds, [low, high], or false")]
    enum InFile {
        Bounds([f64; 2]),
        Switch(bool),
    }

    #[expect(clippy::ref_option, reason = "serde asks for this signature")]
    pub(super) fn serialize<S: Serializer>(clamp: &Option<[f64; 2]>, serializer: S) -> Result<S::Ok, S::Error> {
        clamp.map_or(InFile::Switch(false), InFile::Bounds).serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<[f64; 2]>, D::Error> {
        match InFile::deserialize(deserializer)? {
            InFile::Bounds(bounds) => Ok(Some(bounds)),
            InFile::Switch(false) => Ok(None),
            InFile::Switch(true) => Err(D::Error::custom("`clamp` must be two bounds, [low, high], or false")),
        }
    }
}

/// Widths of a [`FlowAttention`] whose input, projections and output differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowWidths {
    /// Width of queries, keys and values as they come in.
    pub input: usize,
    /// Width D of the projected ones, all heads together.
    pub model: usize,
    /// Width of the output.
    pub output: usize,
}

impl FlowAttentionConfig {
    pub(super) const OP: &str = "flow";

    /// The core code of the authors: projections with biases, sigmoid, ε = 1e-6, bounds −1 and 1.
    pub fn new(heads: usize) -> Self {
        let FlowOptions { feature_map, eps, extra_eps, clamp, competition, allocation, .. } = FlowOptions::default();
        Self { heads, bias: true, feature_map, eps, extra_eps, clamp, competition, allocation }
    }

    /// The vision code of the authors: as [`new`](Self::new), with 1e-6 added to each of the four flows.
    pub fn vision(heads: usize) -> Self {
        Self { extra_eps: 1e-6, ..Self::new(heads) }
    }

    /// The layer for width `d_model`.
    ///
    /// # Errors
    /// If the heads do not divide the width or an option is out of its range.
    pub fn init(&self, d_model: usize, _place: LayerPlace, device: &Device) -> Result<FlowAttention> {
        self.init_widths(FlowWidths { input: d_model, model: d_model, output: d_model }, device)
    }

    /// The layer for an input, an inner width and an output of their own.
    ///
    /// # Errors
    /// If a width is 0, the heads do not divide the inner width, or an option is out of its range.
    pub fn init_widths(&self, widths: FlowWidths, device: &Device) -> Result<FlowAttention> {
        let FlowWidths { input, model, output } = widths;
        for (arg, width) in [("d_model", model), ("input", input), ("output", output)] {
            if width == 0 {
                return Err(Error::argument(Self::OP, arg, "at least 1", width));
            }
        }
        self.check(model)?;
        let linear = |from, to| LinearConfig::new(from, to).with_bias(self.bias).init(device);
        Ok(FlowAttention {
            query_projection: linear(input, model),
            key_projection: linear(input, model),
            value_projection: linear(input, model),
            out_proj: linear(model, output),
            config: self.clone(),
        })
    }

    /// Whether the configuration fits projections of width `model`.
    pub(super) fn check(&self, model: usize) -> Result<()> {
        if self.heads == 0 || !model.is_multiple_of(self.heads) {
            return Err(Error::argument(Self::OP, "heads", format!("a divisor of d_model = {model}"), self.heads));
        }
        self.options().check(Self::OP)
    }

    pub(super) fn options(&self) -> FlowOptions {
        let Self { heads: _, bias: _, feature_map, eps, extra_eps, clamp, competition, allocation } = *self;
        FlowOptions { feature_map, eps, extra_eps, clamp, competition, allocation, key_mask: None, query_mask: None }
    }
}

/// Multi-head Flow attention with its projections: causal as a [`SequenceMixer`], bidirectional, also between two sequences, by
/// [`attend`](Self::attend). The weights are the same for both.
#[derive(Module, Debug)]
pub struct FlowAttention {
    /// W_q, heads head-major.
    pub query_projection: Linear,
    /// W_k
    pub key_projection: Linear,
    /// W_v
    pub value_projection: Linear,
    /// W_o
    pub out_proj: Linear,
    #[module(skip)]
    config: FlowAttentionConfig,
}

impl FlowAttention {
    /// Bidirectional attention of `queries` to `keys` and `values`; of a sequence to itself if all three are it.
    ///
    /// # Shapes
    /// - `queries`: `[B, L, D_in]`; `keys`, `values`: `[B, S, D_in]`, S ≥ 1
    /// - `query_mask`: `[B, L]`; `key_mask`: `[B, S]`; `true` = not a token: outputs are those of the sequences without them
    /// - output: `[B, L, D_out]`
    ///
    /// # Errors
    /// If batches, lengths or masks disagree, or there is no key.
    ///
    /// # Panics
    /// If the width of an input is not D_in.
    pub fn attend(
        &self,
        queries: Tensor<3>,
        keys: Tensor<3>,
        values: Tensor<3>,
        query_mask: Option<Tensor<2, Bool>>,
        key_mask: Option<Tensor<2, Bool>>,
    ) -> Result<Tensor<3>> {
        let q = self.heads(project(&self.query_projection, queries));
        let k = self.heads(project(&self.key_projection, keys));
        let v = self.heads(project(&self.value_projection, values));
        let options = FlowOptions { key_mask, query_mask, ..self.config.options() };
        Ok(self.merge(flow_attention(q, k, v, &options)?))
    }

    /// The weights that bidirectional attention of a sequence to itself implies, for inspection: quadratic.
    ///
    /// # Shapes
    /// - `x`: `[B, T, D_in]`, T ≥ 1; output: `[B, H, T, T]`
    ///
    /// # Errors
    /// If there is no token.
    ///
    /// # Panics
    /// If the width of `x` is not D_in.
    pub fn weights(&self, x: Tensor<3>) -> Result<Tensor<4>> {
        let [q, k, _] = self.project(x);
        flow_weights(q, k, &self.config.options())
    }

    /// Queries, keys and values of a sequence. `[B, H, T, D/H]` each
    fn project(&self, x: Tensor<3>) -> [Tensor<4>; 3] {
        project_each([&self.query_projection, &self.key_projection, &self.value_projection], x).map(|x| self.heads(x))
    }

    fn heads(&self, x: Tensor<3>) -> Tensor<4> {
        let ([b, t, d], h) = (x.dims(), self.config.heads);
        x.reshape([b, t, h, d / h]).swap_dims(1, 2)
    }

    fn merge(&self, o: Tensor<4>) -> Tensor<3> {
        let [b, h, t, width] = o.dims();
        project(&self.out_proj, o.swap_dims(1, 2).reshape([b, t, h * width]))
    }
}

impl SequenceMixer for FlowAttention {
    type State = FlowState;

    fn forward(&self, x: Tensor<3>, padding: Option<Tensor<2, Bool>>) -> Tensor<3> {
        let [q, k, v] = self.project(x);
        let options = FlowOptions { key_mask: padding, ..self.config.options() };
        self.merge(flow_attention_causal(q, k, v, &options).expect("the projections give matching shapes"))
    }

    fn state(&self, batch: usize) -> FlowState {
        let weight = self.out_proj.weight.val();
        let (heads, [d_model, _]) = (self.config.heads, weight.dims());
        FlowState::new(batch, heads, d_model / heads, d_model / heads, &weight.device())
    }

    fn prefill(&self, x: Tensor<3>, state: &mut FlowState) -> Tensor<3> {
        let [q, k, v] = self.project(x);
        self.merge(state.prefill(q, k, v, &self.config.options()).expect("the projections give matching shapes"))
    }

    fn step(&self, x: Tensor<2>, state: &mut FlowState) -> Tensor<2> {
        self.prefill(x.unsqueeze_dim(1), state).squeeze_dim(1)
    }

    fn flops_per_token(&self, context: usize) -> f64 {
        let [input, d] = self.query_projection.weight.lazy_shape().dims();
        let [_, output] = self.out_proj.weight.lazy_shape().dims();
        let width = d / self.config.heads;
        let projections = 2 * (3 * input * d + d * output);
        // Four flows; half of the pairs of a block, q·k and ·v; reading and writing the state.
        let pairs = (context.min(BLOCK) + 1) as f64 / 2.0;
        let across = if context > BLOCK { 4 * width } else { 0 };
        projections as f64 + d as f64 * (8.0 + 4.0 * pairs + across as f64)
    }
}
