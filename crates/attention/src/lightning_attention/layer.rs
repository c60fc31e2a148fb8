use burn::{
    module::Module,
    nn::Linear,
    tensor::{Bool, DType, Int, Tensor},
};

use super::{Activation, LightningOpts, Lrpe, lightning_attention, lightning_step};
use crate::{
    MixerMemory, SequenceMixer, StateLayout,
    blocks::{Norm, project, project_split, sigmoid},
};

/// The gated linear attention of TransNormerLLM: `y = W_o (u ⊙ Norm(LightningAttention(q, k, v)))`.
#[derive(Module, Debug)]
pub struct Lightning {
    /// Queries, keys, values and, with a full gate, the gate u in one projection, in that order, heads head-major.
    pub qkvu_proj: Linear,
    /// The gate of low rank, if that is the kind.
    pub gate: Option<Gate>,
    /// Position encoding of queries and keys, if this layer has it.
    pub lrpe: Option<Lrpe>,
    /// Norm over all heads together.
    pub norm: Norm,
    /// Back to the width of the model.
    pub out_proj: Linear,
    /// −ln λ of the heads. Constants, not weights.
    pub(super) slopes: Vec<f64>,
    #[module(skip)]
    pub(super) activation: Activation,
    #[module(skip)]
    pub(super) value_activation: Activation,
    pub(super) heads: usize,
    pub(super) block: usize,
}

/// A gate `W_2 W_1 x` of low rank.
#[derive(Module, Debug)]
pub struct Gate {
    /// W_1, to the inner width.
    pub first: Linear,
    /// W_2, to the width of the layer.
    pub second: Linear,
    pub(super) sigmoid: bool,
}

impl Gate {
    fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let gate = project(&self.second, project(&self.first, x));
        if self.sigmoid { sigmoid(gate) } else { gate }
    }
}

/// What a [`Lightning`] layer keeps of the tokens so far.
#[derive(Clone, Debug)]
pub struct LightningState {
    /// `S = Σ_s λ^(t-s) k_sᵀ v_s` `[B, H, K, V]`, in f32 at least; K is twice the head's width in a layer with position encoding.
    pub kv: Tensor<4>,
    /// Number of tokens so far.
    pub position: usize,
}

impl LightningState {
    pub(crate) fn layout(&self) -> StateLayout {
        StateLayout::new().any(&self.kv)
    }
}

/// Queries, keys and values `[B, H, T, …]` and the gate `[B, T, w]`.
struct Projected {
    q: Tensor<4>,
    k: Tensor<4>,
    v: Tensor<4>,
    gate: Option<Tensor<3>>,
}

impl Lightning {
    fn width(&self) -> usize {
        self.out_proj.weight.lazy_shape().dims::<2>()[0]
    }

    fn key_width(&self) -> usize {
        let width = self.width() / self.heads;
        if self.lrpe.is_some() { 2 * width } else { width }
    }

    fn project(&self, x: Tensor<3>, position: usize) -> Projected {
        let [b, t, _] = x.dims();
        let (width, h) = (self.width(), self.heads);
        let ([q, k, v], gate) = match &self.gate {
            Some(gate) => (project_split(&self.qkvu_proj, x.clone(), [width; 3]), Some(gate.forward(x))),
            None if self.qkvu_proj.weight.lazy_shape().dims::<2>()[1] == 4 * width => {
                let [q, k, v, gate] = project_split(&self.qkvu_proj, x, [width; 4]);
                ([q, k, v], Some(gate))
            }
            None => (project_split(&self.qkvu_proj, x, [width; 3]), None),
        };
        let heads = |x: Tensor<3>| x.reshape([b, t, h, width / h]).swap_dims(1, 2);
        let q = heads(self.activation.apply(q));
        let k = heads(self.activation.apply(k));
        let v = heads(self.value_activation.apply(v));
        let (q, k) = match &self.lrpe {
            Some(lrpe) => lrpe.forward_pair(q, k, position),
            None => (q, k),
        };
        Projected { q, k, v, gate }
    }

    fn output(&self, attended: Tensor<4>, gate: Option<Tensor<3>>) -> Tensor<3> {
        let [b, _, t, _] = attended.dims();
        let y = attended.swap_dims(1, 2).reshape([b, t, self.width()]);
        project(
            &self.out_proj,
            match gate {
                Some(gate) => self.norm.forward_gated(y, gate),
                None => self.norm.forward(y),
            },
        )
    }

    fn attend(&self, q: Tensor<4>, k: Tensor<4>, v: Tensor<4>, initial_state: Option<Tensor<4>>) -> (Tensor<4>, Tensor<4>) {
        let options = LightningOpts { block: self.block, initial_state, ..Default::default() };
        lightning_attention(q, k, v, &self.slopes, options).unwrap_or_else(|e| panic!("{e}"))
    }

    /// As [`SequenceMixer::forward`], for tokens whose first stands at `position`. Outputs depend on it only by rounding.
    pub fn forward_at(&self, x: Tensor<3>, padding: Option<Tensor<2, Bool>>, position: usize) -> Tensor<3> {
        let [b, t, _] = x.dims();
        if t == 0 {
            return x;
        }
        let Projected { q, k, v, gate } = self.project(x, position);
        let v = match padding {
            Some(padding) => {
                let hidden = padding.reshape([b, 1, t, 1]).expand(v.dims());
                v.mask_fill(hidden, 0.0)
            }
            None => v,
        };
        let (attended, _) = self.attend(q, k, v, None);
        self.output(attended, gate)
    }
}

impl SequenceMixer for Lightning {
    type State = LightningState;

    fn forward(&self, x: Tensor<3>, padding: Option<Tensor<2, Bool>>) -> Tensor<3> {
        self.forward_at(x, padding, 0)
    }

    fn state(&self, batch: usize) -> LightningState {
        let shape = [batch, self.heads, self.key_width(), self.width() / self.heads];
        LightningState { kv: Tensor::zeros(shape, (&self.out_proj.weight.val().device(), DType::F32)), position: 0 }
    }

    fn prefill(&self, x: Tensor<3>, state: &mut LightningState) -> Tensor<3> {
        let [_, t, _] = x.dims();
        if t == 0 {
            return x;
        }
        let Projected { q, k, v, gate } = self.project(x, state.position);
        let (attended, kv) = self.attend(q, k, v, Some(state.kv.clone()));
        state.kv = kv;
        state.position += t;
        self.output(attended, gate)
    }

    fn step(&self, x: Tensor<2>, state: &mut LightningState) -> Tensor<2> {
        let Projected { q, k, v, gate } = self.project(x.unsqueeze_dim(1), state.position);
        let [q, k, v] = [q, k, v].map(|x| x.squeeze_dim::<3>(2));
        let attended = lightning_step(q, k, v, &self.slopes, 1.0, &mut state.kv).unwrap_or_else(|e| panic!("{e}"));
        state.position += 1;
        self.output(attended.unsqueeze_dim(2), gate).squeeze_dim(1)
    }

    fn flops_per_token(&self, context: usize) -> f64 {
        let linear = |l: &Linear| 2 * l.weight.lazy_shape().dims::<2>().iter().product::<usize>();
        let gate = self.gate.as_ref().map_or(0, |g| linear(&g.first) + linear(&g.second));
        let projections = linear(&self.qkvu_proj) + gate + linear(&self.out_proj);
        let (d_k, d_v) = (self.key_width(), self.width() / self.heads);
        // Half of the pairs inside a block, then the update and the reading of the state.
        let mixing = self.heads * ((d_k + d_v) * self.block.min(context) + 4 * d_k * d_v);
        (projections + mixing) as f64
    }
}

impl MixerMemory for LightningState {
    fn bytes(&self) -> usize {
        self.kv.dims().iter().product::<usize>() * self.kv.dtype().size()
    }

    fn select(&self, indices: &Tensor<1, Int>) -> Self {
        Self { kv: self.kv.clone().select(0, indices.clone()), position: self.position }
    }
}
