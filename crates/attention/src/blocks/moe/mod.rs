mod load;
#[cfg(test)]
mod tests;

use burn::{
    module::{Initializer, Module, Param},
    tensor::{DType, Device, Int, Tensor, TensorData, activation},
};
use serde::{Deserialize, Serialize};

use self::load::Load;
use super::{
    activation::silu_gate,
    grouped::grouped_product,
    matmul::matmul,
    mlp::{Mlp, MlpConfig, MlpKind},
};
use crate::{Error, Result};

const OP: &str = "moe";

/// Added to the sum of the chosen scores before dividing by it.
const SUM_EPSILON: f64 = 1e-20;

/// Configuration of a [`Moe`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MoeConfig {
    /// Number of experts E.
    pub experts: usize,
    /// Number of experts k that a token is given to.
    pub per_token: usize,
    /// Inner width I of an expert.
    pub d_ff: usize,
    /// Number of experts that take every token, built as one of as many times the width.
    #[serde(default)]
    pub shared: usize,
    /// Number of groups of experts; must divide E.
    #[serde(default = "one")]
    pub groups: usize,
    /// Number of groups from which experts are chosen, those with the largest sums of their two best scores.
    #[serde(default = "one")]
    pub groups_per_token: usize,
    /// Whether the weights of the chosen are divided by their sum.
    #[serde(default = "yes")]
    pub renormalise: bool,
    /// Factor on the weights of the chosen.
    #[serde(default = "unit")]
    pub scale: f64,
    /// How far [`Moe::rebalance`] moves the biases of the choice after a training step; 0 = not at all.
    #[serde(default = "speed")]
    pub balance_speed: f64,
}

fn one() -> usize {
    1
}

fn yes() -> bool {
    true
}

fn unit() -> f64 {
    1.0
}

fn speed() -> f64 {
    1e-3
}

impl MoeConfig {
    /// `experts` experts of inner width `d_ff`, `per_token` of them for a token, none shared, in one group.
    pub fn new(experts: usize, per_token: usize, d_ff: usize) -> Self {
        Self {
            experts,
            per_token,
            d_ff,
            shared: 0,
            groups: one(),
            groups_per_token: one(),
            renormalise: yes(),
            scale: unit(),
            balance_speed: speed(),
        }
    }

    /// The module for width `d_model`, matrices drawn from N(0, 0.02), no expert preferred.
    ///
    /// # Errors
    /// If a size is 0, the groups do not divide the experts, or more experts are to be chosen than can be.
    pub fn init(&self, d_model: usize, device: &Device) -> Result<Moe> {
        for (arg, size) in [("d_model", d_model), ("experts", self.experts), ("d_ff", self.d_ff)] {
            if size == 0 {
                return Err(Error::argument(OP, arg, "at least 1", size));
            }
        }
        if self.groups == 0 || !self.experts.is_multiple_of(self.groups) {
            return Err(Error::argument(OP, "groups", format!("a divisor of experts = {}", self.experts), self.groups));
        }
        if !(1..=self.groups).contains(&self.groups_per_token) {
            return Err(Error::argument(OP, "groups_per_token", format!("in 1..={}, the groups", self.groups), self.groups_per_token));
        }
        let choice = self.experts / self.groups * self.groups_per_token;
        if !(1..=choice).contains(&self.per_token) {
            return Err(Error::argument(OP, "per_token", format!("in 1..={choice}, the experts to choose from"), self.per_token));
        }
        if !self.scale.is_finite() {
            return Err(Error::argument(OP, "scale", "finite", self.scale));
        }
        if !(self.balance_speed >= 0.0 && self.balance_speed.is_finite()) {
            return Err(Error::argument(OP, "balance_speed", "at least 0", self.balance_speed));
        }
        let normal = Initializer::Normal { mean: 0.0, std: 0.02 };
        let shared = MlpConfig { kind: MlpKind::SwiGlu, d_model, d_ff: self.d_ff * self.shared, bias: false };
        Ok(Moe {
            gate: Router {
                weight: normal.init([self.experts, d_model], device),
                e_score_correction_bias: Initializer::Zeros.init([self.experts], device).set_require_grad(false),
            },
            experts: Experts {
                gate_up_proj: normal.init([self.experts, 2 * self.d_ff, d_model], device),
                down_proj: normal.init([self.experts, d_model, self.d_ff], device),
            },
            shared_experts: if self.shared == 0 { None } else { Some(shared.init(device)?) },
            load: Load::new(self.experts),
            config: self.clone(),
        })
    }
}

/// The router of a [`Moe`].
#[derive(Module, Debug)]
pub struct Router {
    /// One row of scores for each expert. `[E, D]`
    pub weight: Param<Tensor<2>>,
    /// Added to the scores for the choice alone; not trained by gradients but moved by [`Moe::rebalance`]. `[E]`
    pub e_score_correction_bias: Param<Tensor<1>>,
}

/// The matrices of all experts of a [`Moe`], rows = outputs.
#[derive(Module, Debug)]
pub struct Experts {
    /// W_g of an expert, then its W_u. `[E, 2 I, D]`
    pub gate_up_proj: Param<Tensor<3>>,
    /// W_d. `[E, D, I]`
    pub down_proj: Param<Tensor<3>>,
}

/// A mixture of experts in the place of one wide SwiGLU: each token is given to the k experts that its router scores highest.
///
/// ```text
/// s = sigmoid(W_r x)     chosen: the k largest of s + bias     w_e = scale · s_e / Σ_chosen s
/// y = Σ_chosen w_e SwiGLU_e(x) + SwiGLU_shared(x)
/// ```
///
/// The bias steers the choice and never enters the weights. Of equal scores the lower expert goes first. An expert without tokens costs
/// nothing and its gradient is zero. The choice is made on the host.
#[derive(Module, Debug)]
pub struct Moe {
    /// Scores.
    pub gate: Router,
    /// The experts to choose from.
    pub experts: Experts,
    /// What every token is given to besides.
    pub shared_experts: Option<Mlp>,
    #[module(skip)]
    config: MoeConfig,
    /// Of the training passes since it was last taken.
    #[module(skip)]
    load: Load,
}

/// Which experts the tokens go to.
#[derive(Clone, Debug)]
pub struct Routing {
    /// Scores before the sigmoid. `[N, E]`, f32
    pub logits: Tensor<2>,
    /// The chosen experts of each token, in ascending order. `[N][k]`
    pub experts: Vec<Vec<usize>>,
    /// Their weights. `[N, k]`, f32
    pub weights: Tensor<2>,
}

impl Routing {
    /// Number of tokens of each of `experts` experts.
    pub fn load(&self, experts: usize) -> Vec<usize> {
        let mut load = vec![0; experts];
        self.experts.iter().flatten().for_each(|e| load[*e] += 1);
        load
    }
}

impl Moe {
    /// Applies the mixture to the last axis.
    ///
    /// # Shapes
    /// - `x`: `[…, D]`; output: the same
    pub fn forward<const N: usize>(&self, x: Tensor<N>) -> Tensor<N> {
        let shape = x.dims();
        if shape.contains(&0) {
            return x;
        }
        let d = shape[N - 1];
        let x = x.reshape([shape[..N - 1].iter().product(), d]);
        let y = self.mix(x.clone());
        let y = match &self.shared_experts {
            Some(shared) => y + shared.forward(x),
            None => y,
        };
        y.reshape(shape)
    }

    /// The sum over the chosen experts. `[N, D]`
    fn mix(&self, x: Tensor<2>) -> Tensor<2> {
        let ([n, d], k, inner) = (x.dims(), self.config.per_token, self.config.d_ff);
        let routing = self.route(x.clone());
        // Pairs of a token and an expert, numbered token by token, in the order of the experts.
        let mut pairs: Vec<usize> = (0..n * k).collect();
        let expert = |pair: usize| routing.experts[pair / k][pair % k];
        pairs.sort_by_key(|pair| expert(*pair));
        let mut place = vec![0; n * k];
        pairs.iter().enumerate().for_each(|(at, pair)| place[*pair] = at);
        let index = |values: Vec<usize>| {
            let values: Vec<i64> = values.into_iter().map(|v| v as i64).collect();
            Tensor::<1, Int>::from_data(TensorData::new(values, [n * k]), &x.device())
        };
        let counts = routing.load(self.config.experts);
        if x.is_autodiff() {
            self.load.add(&counts);
        }
        let rows = x.clone().select(0, index(pairs.iter().map(|pair| pair / k).collect()));
        let both = grouped_product(rows, self.experts.gate_up_proj.val(), counts.clone());
        let hidden = silu_gate(both.clone().narrow(1, 0, inner), both.narrow(1, inner, inner));
        let out = grouped_product(hidden, self.experts.down_proj.val(), counts);
        let weights = routing.weights.cast(x.dtype()).reshape([n, k, 1]);
        (out.select(0, index(place)).reshape([n, k, d]) * weights).sum_dim(1).squeeze_dim(1)
    }

    /// The experts of each token and their weights.
    ///
    /// # Shapes
    /// - `x`: `[N, D]`
    pub fn route(&self, x: Tensor<2>) -> Routing {
        let (n, k) = (x.dims()[0], self.config.per_token);
        let wide = |x: Tensor<2>| if x.dtype() == DType::F64 { x } else { x.cast(DType::F32) };
        let logits = matmul(wide(x), wide(self.gate.weight.val()).transpose());
        let scores = activation::sigmoid(logits.clone());
        let biased = scores.clone() + self.gate.e_score_correction_bias.val().cast(scores.dtype()).unsqueeze();
        let biased: Vec<f64> = biased.into_data().iter::<f64>().collect();
        let experts: Vec<Vec<usize>> = biased.chunks(self.config.experts).map(|row| self.choose(row)).collect();
        let index: Vec<i64> = experts.iter().flatten().map(|e| *e as i64).collect();
        let chosen = scores.gather(1, Tensor::from_data(TensorData::new(index, [n, k]), &logits.device()));
        let weights = if self.config.renormalise { chosen.clone() / (chosen.sum_dim(1) + SUM_EPSILON) } else { chosen };
        Routing { logits, experts, weights: weights * self.config.scale }
    }

    /// The experts with the largest scores in the best groups, in ascending order.
    fn choose(&self, scores: &[f64]) -> Vec<usize> {
        let MoeConfig { groups, groups_per_token, per_token, experts, .. } = self.config;
        let size = experts / groups;
        let group_score = |g: usize| {
            let members = &scores[g * size..(g + 1) * size];
            largest(2.min(size), 0..size, |i| members[i]).into_iter().map(|i| members[i]).sum::<f64>()
        };
        let best = if groups == 1 { vec![0] } else { largest(groups_per_token, 0..groups, group_score) };
        let mut chosen = largest(per_token, best.into_iter().flat_map(|g| g * size..(g + 1) * size), |e| scores[e]);
        chosen.sort_unstable();
        chosen
    }

    /// Moves the bias of every expert by `speed` towards an even load: up where fewer than the average number of tokens went, down where
    /// more (Wang et al. 2024, arXiv 2408.15664).
    ///
    /// # Errors
    /// If `load` does not have one number per expert.
    pub fn rebalance(&mut self, load: &[usize], speed: f64) -> Result<()> {
        let experts = self.config.experts;
        if load.len() != experts {
            return Err(Error::argument(OP, "load", format!("one number for each of {experts} experts"), load.len()));
        }
        let mean = load.iter().sum::<usize>() as f64 / experts as f64;
        let steps: Vec<f64> =
            load.iter().map(|n| speed * (mean - *n as f64).partial_cmp(&0.0).map_or(0.0, |o| f64::from(o as i8))).collect();
        self.gate.e_score_correction_bias = self.gate.e_score_correction_bias.clone().map(|bias| {
            let steps = Tensor::<1>::from_data(TensorData::new(steps, [experts]), (&bias.device(), bias.dtype()));
            bias + steps
        });
        Ok(())
    }

    /// [`rebalance`](Self::rebalance) by the load of all training passes since the last time, on clones of this module as well, at the
    /// speed of the configuration. To be called after each step of the optimiser.
    pub fn rebalance_by_training(&mut self) {
        let load = self.load.take();
        if self.config.balance_speed > 0.0 {
            self.rebalance(&load, self.config.balance_speed).unwrap_or_else(|e| unreachable!("one number per expert: {e}"));
        }
    }

    /// Number of weights without the bias of the router, which no gradient trains.
    pub fn trained(&self) -> usize {
        self.num_params() - self.config.experts
    }

    /// Number of weights that one token meets: the router, its experts, the shared ones.
    pub fn active(&self) -> usize {
        let per_expert = self.experts.num_params() / self.config.experts;
        self.trained() - (self.config.experts - self.config.per_token) * per_expert
    }
}

/// The `count` items of the largest values, the earlier of equal ones first.
fn largest(count: usize, items: impl IntoIterator<Item = usize>, value: impl Fn(usize) -> f64) -> Vec<usize> {
    let mut items: Vec<(usize, f64)> = items.into_iter().map(|i| (i, value(i))).collect();
    items.sort_by(|(i, a), (j, b)| b.total_cmp(a).then(i.cmp(j)));
    items.truncate(count);
    items.into_iter().map(|(i, _)| i).collect()
}
