use burn::{
    module::{Initializer, Module, Param},
    nn::{Linear, LinearConfig},
    tensor::{Bool, Device, Tensor},
};

use super::{
    config::{FeatureKind, NprfConfig},
    favor::{FavorOptions, LARGEST_EXPONENT, favor_features},
    features::{Features, Sums},
    op::coefficients,
    options::{NprfOptions, check_bias, check_mask},
    product::{Grid, Plan},
    projection::draw_projection,
    state::NprfState,
};
use crate::{
    LayerPlace, Result, SequenceMixer,
    blocks::{project, split},
};

/// Multi-head kernelised attention with relative positional bias and its projections: causal as a [`SequenceMixer`], bidirectional by
/// [`attend`](Self::attend). The weights are the same for both.
#[derive(Module, Debug)]
pub struct Nprf {
    /// W_q, heads head-major.
    pub q_proj: Linear,
    /// W_k
    pub k_proj: Linear,
    /// W_v
    pub v_proj: Linear,
    /// W_o
    pub out_proj: Linear,
    /// Biases by difference of positions, zeros at first; the first and the last are those of all larger distances.
    /// `[H, 2 farthest + 1]`
    pub rpe: Option<Param<Tensor<2>>>,
    /// The random projection, a constant that is not saved: the configuration and the place of the layer give it again.
    /// `[H, M, D/H]`
    pub projection: Tensor<3>,
    #[module(skip)]
    pub(super) config: NprfConfig,
    place: usize,
}

impl NprfConfig {
    /// The layer for width `d_model`.
    ///
    /// # Errors
    /// If the heads do not divide the width or an option is out of its range.
    pub fn init(&self, d_model: usize, place: LayerPlace, device: &Device) -> Result<Nprf> {
        let width = self.check(d_model)?;
        let linear = || LinearConfig::new(d_model, d_model).with_bias(self.bias).init(device);
        let mut layer = Nprf {
            q_proj: linear(),
            k_proj: linear(),
            v_proj: linear(),
            out_proj: linear(),
            rpe: self.rpe.then(|| Initializer::Zeros.init([self.heads, 2 * self.farthest + 1], device)),
            projection: Tensor::zeros([self.heads, self.features.unwrap_or(width), width], device),
            config: self.clone(),
            place: place.index,
        };
        layer.redraw(self.seed);
        Ok(layer)
    }
}

impl Nprf {
    /// Draws the random projection anew. A model that is trained on keeps the seed to have the same projection when it is loaded.
    pub fn redraw(&mut self, seed: u64) {
        let shape = self.projection.dims();
        let seed = NprfConfig::layer_seed(seed, self.place);
        self.projection = draw_projection(self.config.projection, shape, seed, &self.projection.device());
    }

    /// Bidirectional attention of a sequence to itself.
    ///
    /// # Shapes
    /// - `x`: `[B, T, D]`; `padding`: `[B, T]`, `true` = not a token: it has no influence on the outputs of tokens
    /// - output: `[B, T, D]`
    ///
    /// # Errors
    /// If the mask has another shape.
    ///
    /// # Panics
    /// If the width of `x` is not D.
    pub fn attend(&self, x: Tensor<3>, padding: Option<Tensor<2, Bool>>) -> Result<Tensor<3>> {
        self.mix(x, padding, false)
    }

    fn mix(&self, x: Tensor<3>, padding: Option<Tensor<2, Bool>>, causal: bool) -> Result<Tensor<3>> {
        let [b, t, d] = x.dims();
        check_mask(NprfConfig::OP, padding.as_ref(), [b, t])?;
        if b * t == 0 {
            return Ok(Tensor::zeros([b, t, d], (&x.device(), x.dtype())));
        }
        let features = self.features(x, padding, causal);
        let constant = self.constant(&features.q, causal);
        let o = match self.biases(t)? {
            Some(bias) => {
                let (c, shift) = coefficients(bias, &NprfOptions { causal, ..self.options() });
                let plan = self.plan(t, causal);
                let y = features.biased(c, plan);
                if plan.ratio {
                    let [o, _] = split(y, 3, [d / self.config.heads, 1]);
                    o
                } else {
                    ratio(y, beside(constant, shift))
                }
            }
            None => ratio(features.unbiased(causal).y, constant),
        };
        Ok(self.merge(o))
    }

    /// How the product of `tokens` is computed.
    pub(super) fn plan(&self, tokens: usize, causal: bool) -> Plan {
        let ratio = self.config.kernel == FeatureKind::Prf;
        Plan { grid: Grid::line(tokens), causal, algorithm: self.config.algorithm, ratio }
    }

    pub(super) fn options(&self) -> NprfOptions {
        NprfOptions { normalised: self.config.normalised, clamp: self.config.clamp, ..NprfOptions::default() }
    }

    /// The biases of sequences of `tokens`, `[H, 2 tokens − 1]`.
    pub(super) fn biases(&self, tokens: usize) -> Result<Option<Tensor<2>>> {
        let Some(table) = self.rpe.as_ref().map(Param::val) else { return Ok(None) };
        check_bias(NprfConfig::OP, &[("rpe", table.clone())], self.config.clamp)?;
        let ([h, entries], farthest) = (table.dims(), self.config.farthest);
        if tokens <= farthest + 1 {
            return Ok(Some(table.narrow(1, farthest + 1 - tokens, 2 * tokens - 1)));
        }
        let end = |at: usize| table.clone().narrow(1, at, 1).expand([h, tokens - 1 - farthest]);
        Ok(Some(Tensor::cat(vec![end(0), table.clone(), end(entries - 1)], 1)))
    }

    /// Whether the biases are numbers. Where they are not, since a training has diverged or a file says so, the outputs are not either:
    /// the loss shows it, and whoever trains looks there.
    pub(super) fn has_numbers(&self) -> bool {
        self.biases(1).is_ok()
    }

    /// Queries, keys and values of a sequence, as features.
    pub(super) fn features(&self, x: Tensor<3>, hidden: Option<Tensor<2, Bool>>, causal: bool) -> Features {
        let [q, k, v] = [&self.q_proj, &self.k_proj, &self.v_proj].map(|p| self.heads(project(p, x.clone())));
        let projection = self.projection.clone();
        let NprfConfig { normalised, eps, .. } = self.config;
        match self.config.kernel {
            FeatureKind::Prf => Features::positive([q, k, v], projection, hidden, normalised),
            FeatureKind::FavorPlus => favor_features([q, k, v], projection, hidden, normalised, eps, !causal),
        }
    }

    /// What FAVOR+ adds to the denominators of its causal form. `[B, H, T, 1]`
    pub(super) fn constant(&self, q: &Tensor<4>, causal: bool) -> Option<Tensor<4>> {
        let root = (q.dims()[3] as f64).sqrt();
        let favor = causal && self.config.kernel == FeatureKind::FavorPlus;
        favor.then(|| q.clone().sum_dim(3) * (FavorOptions::default().causal_eps * root))
    }

    fn heads(&self, x: Tensor<3>) -> Tensor<4> {
        let ([b, t, d], h) = (x.dims(), self.config.heads);
        x.reshape([b, t, h, d / h]).swap_dims(1, 2)
    }

    pub(super) fn merge(&self, o: Tensor<4>) -> Tensor<3> {
        let [b, h, t, width] = o.dims();
        let o = o.cast(self.out_proj.weight.val().dtype());
        project(&self.out_proj, o.swap_dims(1, 2).reshape([b, t, h * width]))
    }

    /// Largest distance with a bias of its own; 0 without biases.
    pub(super) fn farthest(&self) -> usize {
        if self.rpe.is_some() { self.config.farthest } else { 0 }
    }
}

/// The constant beside sums whose coefficients are too small by `exp(shift)`, `[H, 1]`: what was taken out of the biases depends on how
/// many of them the sequence meets.
pub(super) fn beside(constant: Option<Tensor<4>>, shift: Tensor<2>) -> Option<Tensor<4>> {
    let [h, _] = shift.dims();
    constant.map(|x| x * shift.neg().clamp_max(LARGEST_EXPONENT).exp().reshape([1, h, 1, 1]))
}

/// The ratio of the sums `y`, `[B, H, T, V + 1]`, a constant being added to the denominators.
pub(super) fn ratio(y: Tensor<4>, constant: Option<Tensor<4>>) -> Tensor<4> {
    let [b, h, t, _] = y.dims();
    let shift = Tensor::zeros([b, h, t, 1], (&y.device(), y.dtype()));
    let sums = Sums { y, shift };
    let sums = match constant {
        Some(constant) => sums.with_constant(constant),
        None => sums,
    };
    sums.ratio().0
}

impl SequenceMixer for Nprf {
    type State = NprfState;

    fn forward(&self, x: Tensor<3>, padding: Option<Tensor<2, Bool>>) -> Tensor<3> {
        if !self.has_numbers() {
            return x * f64::NAN;
        }
        self.mix(x, padding, true).expect("the mask is one of the tokens")
    }

    fn state(&self, batch: usize) -> NprfState {
        let [h, m, width] = self.projection.dims();
        NprfState::new([batch, h, m, width], &self.projection.device())
    }

    fn prefill(&self, x: Tensor<3>, state: &mut NprfState) -> Tensor<3> {
        self.continue_from(x, state)
    }

    fn step(&self, x: Tensor<2>, state: &mut NprfState) -> Tensor<2> {
        self.continue_from(x.unsqueeze_dim(1), state).squeeze_dim(1)
    }

    fn flops_per_token(&self, context: usize) -> f64 {
        let [h, m, width] = self.projection.dims();
        let d = h * width;
        let features = 2 * 2 * m * width;
        let mixing =
            if self.rpe.is_some() { self.plan(context.max(1), true).flops_per_token(m, width + 1) } else { 4.0 * (m * (width + 1)) as f64 };
        (8 * d * d) as f64 + h as f64 * (features as f64 + mixing)
    }
}
