use burn::tensor::{Bool, DType, Tensor, activation};
use serde::{Deserialize, Serialize};

use crate::{Error, Result, blocks::sigmoid};

/// φ, which makes queries and keys positive: their products are capacities.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FlowFeatureMap {
    /// `1 / (1 + exp(−x))`
    #[default]
    Sigmoid,
    /// `max(x, 0) + eps`, of the long-sequence experiments.
    Relu,
    /// `elu(x) + 1`. Without competition and allocation this is linear attention, normalised by the sum of its weights.
    Elu,
}

/// What Flow attention computes, exactly: the variants of the official code differ in it.
#[derive(Clone, Debug)]
pub struct FlowOptions {
    /// φ.
    pub feature_map: FlowFeatureMap,
    /// ε > 0, added to every channel of queries, keys and their sums in the four flows.
    pub eps: f64,
    /// Added once more to each of the four flows; 1e-6 in the vision experiments, else 0.
    pub extra_eps: f64,
    /// Bounds of the conserved outgoing flow, from which the competition is computed; `None` = no bounds.
    pub clamp: Option<[f64; 2]>,
    /// Whether sources compete (c); without, every source counts the same.
    pub competition: bool,
    /// Whether sinks are allocated a share (r); without, every sink gets its whole average.
    pub allocation: bool,
    /// Keys to leave out, `[B, S]`, `true` = hidden: the result is that of the sequence without them. In the causal form, where a token
    /// is source and sink in one, it leaves out both.
    pub key_mask: Option<Tensor<2, Bool>>,
    /// Queries to leave out, `[B, L]`, `true` = hidden; their outputs are zeros. For the bidirectional form alone.
    pub query_mask: Option<Tensor<2, Bool>>,
}

impl Default for FlowOptions {
    /// The core code of the authors: sigmoid, ε = 1e-6, bounds −1 and 1.
    fn default() -> Self {
        Self {
            feature_map: FlowFeatureMap::Sigmoid,
            eps: 1e-6,
            extra_eps: 0.0,
            clamp: Some([-1.0, 1.0]),
            competition: true,
            allocation: true,
            key_mask: None,
            query_mask: None,
        }
    }
}

impl FlowOptions {
    pub(super) fn check(&self, op: &'static str) -> Result<()> {
        if !(self.eps > 0.0 && self.eps.is_finite()) {
            return Err(Error::argument(op, "eps", "a positive number", self.eps));
        }
        if !(self.extra_eps >= 0.0 && self.extra_eps.is_finite()) {
            return Err(Error::argument(op, "extra_eps", "0 or a positive number", self.extra_eps));
        }
        match self.clamp {
            Some([low, high]) if low.is_nan() || high.is_nan() || low > high => {
                Err(Error::argument(op, "clamp", "a lower and an upper bound, in that order", format!("[{low}, {high}]")))
            }
            _ => Ok(()),
        }
    }

    /// φ(x), and zeros, with zero gradients, at hidden tokens.
    pub(super) fn capacity(&self, x: Tensor<4>, hidden: Option<&Tensor<4, Bool>>) -> Tensor<4> {
        let x = without(x, hidden);
        let x = match self.feature_map {
            FlowFeatureMap::Sigmoid => sigmoid(x),
            FlowFeatureMap::Relu => activation::relu(x) + self.eps,
            FlowFeatureMap::Elu => activation::elu(x, 1.0) + 1.0,
        };
        without(x, hidden)
    }

    /// One of the four flows of each token, `Σ_d x_d sum_d`, given both with ε added. `[B, H, T, 1]`
    pub(super) fn flow(&self, x: Tensor<4>, sum: Tensor<4>) -> Tensor<4> {
        let flow = (x * sum).sum_dim(3);
        if self.extra_eps == 0.0 { flow } else { flow + self.extra_eps }
    }

    /// The conserved outgoing flow within its bounds. A flow at a bound keeps its gradient.
    pub(super) fn bounded(&self, flow: Tensor<4>) -> Tensor<4> {
        match self.clamp {
            Some([low, high]) => flow.clamp(low, high),
            None => flow,
        }
    }
}

/// Zeros, with zero gradients, in the place of hidden tokens, whatever stood there.
pub(super) fn without(x: Tensor<4>, hidden: Option<&Tensor<4, Bool>>) -> Tensor<4> {
    match hidden {
        Some(hidden) => {
            let shape = x.dims();
            x.mask_fill(hidden.clone().expand(shape), 0.0)
        }
        None => x,
    }
}

/// Flows are sums over whole sequences and reciprocals of them, and never computed in less than f32.
pub(super) fn wide(dtype: DType) -> DType {
    if dtype == DType::F64 { dtype } else { DType::F32 }
}

/// A mask of tokens over all heads and channels. `[B, 1, T, 1]`
pub(super) fn column(
    op: &'static str,
    arg: &'static str,
    mask: Option<&Tensor<2, Bool>>,
    tokens: [usize; 2],
) -> Result<Option<Tensor<4, Bool>>> {
    let Some(mask) = mask else { return Ok(None) };
    let [b, t] = tokens;
    if mask.dims() != tokens {
        return Err(Error::argument(op, arg, format!("of shape [B, T] = {tokens:?}"), format!("{:?}", mask.dims())));
    }
    Ok(Some(mask.clone().reshape([b, 1, t, 1])))
}

/// What both forms ask of their arguments.
pub(super) fn check_shapes(op: &'static str, q: &Tensor<4>, k: &Tensor<4>, v: &Tensor<4>) -> Result<()> {
    let ([b, h, _, d], [b_k, h_k, _, d_k]) = (q.dims(), k.dims());
    if [b, h, d] != [b_k, h_k, d_k] {
        return Err(Error::shape(op, ("q", &q.dims()), ("k", &k.dims()), "batch, heads and key width"));
    }
    if k.dims()[..3] != v.dims()[..3] {
        return Err(Error::shape(op, ("k", &k.dims()), ("v", &v.dims()), "batch, heads and tokens"));
    }
    if d == 0 {
        return Err(Error::argument(op, "q", "of at least one channel per head", d));
    }
    Ok(())
}
