use burn::tensor::{Bool, Tensor};

use super::{
    features::{Features, Sums, exponents, largest_of_all, largest_of_token, prepared, without},
    options::{check_mask, check_shapes, column, wide},
};
use crate::{Error, Result, blocks::matmul};

/// How [`favor_plus`] computes.
#[derive(Clone, Debug)]
pub struct FavorOptions {
    /// Whether query i sees the keys j ≤ i only.
    pub causal: bool,
    /// Keys to leave out, `[B, S]`, `true` = hidden.
    pub key_mask: Option<Tensor<2, Bool>>,
    /// Added to every feature before the factor `1/√M`; not negative.
    pub eps: f64,
    /// Added to every component of the sum of keys in the denominator of the causal form; not negative.
    pub causal_eps: f64,
}

impl Default for FavorOptions {
    /// Bidirectional, all keys, the constants of the common implementation: 1e-4 and 1e-6.
    fn default() -> Self {
        Self { causal: false, key_mask: None, eps: 1e-4, causal_eps: 1e-6 }
    }
}

impl FavorOptions {
    pub(super) fn check(&self, op: &'static str) -> Result<()> {
        for (arg, x) in [("eps", self.eps), ("causal_eps", self.causal_eps)] {
            if !(x >= 0.0 && x.is_finite()) {
                return Err(Error::argument(op, arg, "0 or a positive number", x));
            }
        }
        Ok(())
    }
}

/// What [`favor_plus`] gives.
#[derive(Clone, Debug)]
pub struct FavorOutput {
    /// The output. `[B, H, T, V]`
    pub o: Tensor<4>,
    /// Features of the queries. `[B, H, T, M]`
    pub phi_q: Tensor<4>,
    /// Features of the keys, those of hidden keys zeros. `[B, H, S, M]`
    pub phi_k: Tensor<4>,
}

/// The baseline FAVOR+ (Performer): `o_i = Σ_j φ(q_i)·φ(k_j) v_j / Σ_j φ(q_i)·φ(k_j)`, `φ(x) = (exp(W x' − |x'|²/2 − c) + ε) / √M`,
/// `x' = K^(-1/4) x`.
///
/// The constant c is the largest `W x'`, for queries of the features of each token, for keys of the features of all tokens: with ε > 0
/// the causal form sees that much of the future. O(T M V) time.
///
/// # Shapes
/// - `q`: `[B, H, T, K]`; `k`: `[B, H, S, K]`; `v`: `[B, H, S, V]`, T = S in the causal form; `projection` W: `[M, K]`
///
/// # Errors
/// If the shapes disagree or an option is out of its range.
pub fn favor_plus(q: Tensor<4>, k: Tensor<4>, v: Tensor<4>, projection: Tensor<2>, options: &FavorOptions) -> Result<FavorOutput> {
    const OP: &str = "favor_plus";
    options.check(OP)?;
    let projection = projection.unsqueeze_dim::<3>(0);
    check_shapes(OP, &q, &k, &v, &projection)?;
    let ([b, _, t, _], s) = (q.dims(), k.dims()[2]);
    if t != s && options.causal {
        return Err(Error::argument(OP, "causal", "false unless queries and keys are equal in number", format!("{t} queries, {s} keys")));
    }
    check_mask(OP, options.key_mask.as_ref(), [b, s])?;
    let (dtype, shape) = (q.dtype(), [q.dims(), v.dims()]);
    let root = (projection.dims()[1] as f64).sqrt();
    if shape.concat().contains(&0) {
        let zeros = |tokens: usize, width: usize| Tensor::zeros([b, shape[0][1], tokens, width], (&q.device(), dtype));
        let m = projection.dims()[1];
        return Ok(FavorOutput { o: zeros(t, shape[1][3]), phi_q: zeros(t, m), phi_k: zeros(s, m) });
    }
    let features = favor_features([q, k, v], projection, options.key_mask.clone(), false, options.eps, true);
    let (phi_q, phi_k) = (features.q.clone() * root.recip(), features.k.clone() * root.recip());
    // The factor 1/√M of both features cancels, but not in front of the constant.
    let (o, _) = features.favor_sums(options.causal, options.causal_eps * root).ratio();
    Ok(FavorOutput { o: o.cast(dtype), phi_q: phi_q.cast(dtype), phi_k: phi_k.cast(dtype) })
}

/// Exponent that is cut off at where nothing is taken out of it.
pub(super) const LARGEST_EXPONENT: f64 = 80.0;

/// The features of FAVOR+ without their factor `1/√M`. `stabilised` takes the largest `W x'` of all keys out of the exponents of keys;
/// otherwise nothing is, so that no key depends on another.
pub(super) fn favor_features(
    [q, k, v]: [Tensor<4>; 3],
    projection: Tensor<3>,
    hidden: Option<Tensor<2, Bool>>,
    normalised: bool,
    eps: f64,
    stabilised: bool,
) -> Features {
    let dtype = wide(q.dtype());
    let projection = projection.cast(dtype);
    let mask = hidden.as_ref().map(column);
    let [q, k, v] = [q, without(k, mask.as_ref()), v].map(|x| x.cast(dtype));
    let [q, k] = [q, k].map(|x| prepared(x, normalised));
    let products = |x: &Tensor<4>| matmul(x.clone(), projection.clone().swap_dims(1, 2).unsqueeze_dim(0));
    let q_shift = largest_of_token(&products(&q));
    let [b, h, ..] = k.dims();
    let k_shift = if stabilised { largest_of_all(&products(&k), mask.as_ref()) } else { Tensor::zeros([b, h, 1, 1], (&k.device(), dtype)) };
    let q = exponents(q, projection.clone()) - q_shift.clone();
    let k = exponents(k, projection) - k_shift.clone();
    let k = if stabilised { k } else { k.clamp_max(LARGEST_EXPONENT) };
    Features { q: q.exp() + eps, k: without(k.exp() + eps, mask.as_ref()), v, hidden, q_shift, k_shift }
}

impl Features {
    /// The sums of FAVOR+, `causal_eps` being added to the sum of keys of the denominator in the causal form.
    pub(super) fn favor_sums(self, causal: bool, causal_eps: f64) -> Sums {
        let total = self.q.clone().sum_dim(3);
        let sums = self.unbiased(causal);
        if causal { sums.with_constant(total * causal_eps) } else { sums }
    }
}

impl Sums {
    /// The denominators larger by `constant`, `[B, H, T, 1]`.
    pub(super) fn with_constant(self, constant: Tensor<4>) -> Self {
        let width = self.y.dims()[3] - 1;
        let denominator = self.y.clone().narrow(3, width, 1) + constant;
        Self { y: Tensor::cat(vec![self.y.narrow(3, 0, width), denominator], 3), shift: self.shift }
    }
}
