//! Positive random features.

use burn::tensor::{Bool, Tensor};

use super::{
    options::{column, wide},
    product::{Plan, Shift, feature_map, on_cpu, toeplitz_product},
    reference,
};
use crate::blocks::{Terms, decayed_product, matmul};

/// Causal attention without a bias.
pub(super) const TERMS: Terms<'_> = Terms { slopes: None, scale: 1.0, block: 64, bounds: None };

/// Smallest norm that a query or key is divided by.
const SMALLEST_NORM: f64 = 1e-6;

/// Queries or keys as the kernel takes them: divided by their norms, or times `K^(-1/4)`.
pub(super) fn prepared(x: Tensor<4>, normalised: bool) -> Tensor<4> {
    let width = x.dims()[3];
    if !normalised {
        return x * (width as f64).powf(-0.25);
    }
    let norm = x.clone().square().sum_dim(3).clamp_min(SMALLEST_NORM * SMALLEST_NORM).sqrt();
    x / norm
}

/// `w_r · x − |x|²/2`, the logarithms of the features without their factor `1/√M`. `[B, H, T, M]`
pub(super) fn exponents(x: Tensor<4>, projection: Tensor<3>) -> Tensor<4> {
    let half_norm = x.clone().square().sum_dim(3) * 0.5;
    matmul(x, projection.swap_dims(1, 2).unsqueeze_dim(0)) - half_norm
}

/// The largest exponent of each token, a constant: what is taken out of queries. `[B, H, T, 1]`
pub(super) fn largest_of_token(exponents: &Tensor<4>) -> Tensor<4> {
    exponents.clone().detach().max_dim(3)
}

/// The largest exponent of all tokens that are not hidden, a constant: what is taken out of keys. `[B, H, 1, 1]`
pub(super) fn largest_of_all(exponents: &Tensor<4>, hidden: Option<&Tensor<4, Bool>>) -> Tensor<4> {
    let largest = largest_of_token(exponents);
    let largest = match hidden {
        Some(hidden) => largest.clone().mask_fill(hidden.clone().expand(largest.dims()), -1e30),
        None => largest,
    };
    largest.max_dim(2).clamp_min(-1e4)
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

/// Values and, behind them, the weights that the denominator sums: 1, or 0 for hidden keys. `[B, H, S, V + 1]`
pub(super) fn with_weights(v: Tensor<4>, hidden: Option<&Tensor<4, Bool>>) -> Tensor<4> {
    let [b, h, s, _] = v.dims();
    let ones = without(Tensor::ones([b, h, s, 1], (&v.device(), v.dtype())), hidden);
    Tensor::cat(vec![without(v, hidden), ones], 3)
}

/// Features of queries and keys with what was taken out of their exponents, and values.
pub(super) struct Features {
    /// `[B, H, T, M]`
    pub(super) q: Tensor<4>,
    /// Zeros for hidden keys. `[B, H, S, M]`
    pub(super) k: Tensor<4>,
    /// `[B, H, S, V]`
    pub(super) v: Tensor<4>,
    /// Keys to leave out. `[B, S]`
    pub(super) hidden: Option<Tensor<2, Bool>>,
    /// Logarithm of the factor by which the features of queries are too small. `[B, H, T, 1]`
    pub(super) q_shift: Tensor<4>,
    /// The same of keys. `[B, H, 1, 1]`
    pub(super) k_shift: Tensor<4>,
}

impl Features {
    /// `φ(x) = exp(W x − |x|²/2) / √M`, the factor `1/√M` being part of the shifts.
    pub(super) fn positive([q, k, v]: [Tensor<4>; 3], projection: Tensor<3>, hidden: Option<Tensor<2, Bool>>, normalised: bool) -> Self {
        let dtype = wide(q.dtype());
        let projection = projection.cast(dtype);
        let [q, k, v] = [q, k, v].map(|x| x.cast(dtype));
        let root = (projection.dims()[1] as f64).ln() / 2.0;
        let ((q, q_shift), (k, k_shift)) = if on_cpu(&q.device(), dtype) {
            let q = feature_map(q, projection.clone(), None, normalised, Shift::Token);
            (q, feature_map(k, projection, hidden.clone(), normalised, Shift::All))
        } else {
            let mask = hidden.as_ref().map(column);
            let [q, k] = [q, without(k, mask.as_ref())].map(|x| exponents(prepared(x, normalised), projection.clone()));
            let (q_shift, k_shift) = (largest_of_token(&q), largest_of_all(&k, mask.as_ref()));
            let k = without((k - k_shift.clone()).exp(), mask.as_ref());
            (((q - q_shift.clone()).exp(), q_shift), (k, k_shift))
        };
        Self { q, k, v, hidden, q_shift: q_shift - root, k_shift: k_shift - root }
    }

    /// Values and, behind them, the weights that the denominator sums.
    fn columns(&self) -> Tensor<4> {
        with_weights(self.v.clone(), self.hidden.as_ref().map(column).as_ref())
    }

    /// The tokens `start..start + count` alone.
    pub(super) fn part(&self, start: usize, count: usize) -> Self {
        let part = |x: &Tensor<4>| x.clone().narrow(2, start, count);
        Self {
            q: part(&self.q),
            k: part(&self.k),
            v: part(&self.v),
            hidden: self.hidden.clone().map(|x| x.narrow(1, start, count)),
            q_shift: part(&self.q_shift),
            k_shift: self.k_shift.clone(),
        }
    }

    /// `q_i Σ_j k_jᵀ [v_j, 1]` of these queries and the keys and values of `other`. `[B, H, T, V + 1]`
    pub(super) fn sums_over(self, other: Self) -> Tensor<4> {
        let x = other.columns();
        matmul(self.q, matmul(other.k.swap_dims(2, 3), x))
    }

    /// The sums without a bias.
    pub(super) fn unbiased(self, causal: bool) -> Sums {
        let x = self.columns();
        let Self { q, k, q_shift, k_shift, .. } = self;
        let y = if causal { decayed_product([q, k, x], None, TERMS).0 } else { matmul(q, matmul(k.swap_dims(2, 3), x)) };
        Sums { y, shift: q_shift + k_shift }
    }

    /// The sums with coefficients, or their ratio and the logarithm of the denominator. `[B, H, T, V + 1]`
    pub(super) fn biased(self, c: Tensor<2>, plan: Plan) -> Tensor<4> {
        if on_cpu(&self.v.device(), self.v.dtype()) {
            return toeplitz_product([self.q, self.k, self.v], c, self.hidden, plan);
        }
        let x = self.columns();
        let y = reference::product(self.q, self.k, x, c, plan.grid);
        if !plan.ratio {
            return y;
        }
        let (o, log) = Sums { y, shift: self.q_shift.zeros_like() }.ratio();
        Tensor::cat(vec![o, log.unsqueeze_dim(3)], 3)
    }
}

/// Numerators and, in the last column, denominators.
pub(super) struct Sums {
    /// `[B, H, T, V + 1]`
    pub(super) y: Tensor<4>,
    /// Logarithm of the factor by which they are too small. `[B, H, T, 1]`
    pub(super) shift: Tensor<4>,
}

impl Sums {
    /// The output, and the logarithm of the denominator.
    pub(super) fn ratio(self) -> (Tensor<4>, Tensor<3>) {
        let width = self.y.dims()[3] - 1;
        let denominator = self.y.clone().narrow(3, width, 1);
        let blind = denominator.clone().lower_equal_elem(0);
        let safe = denominator.mask_fill(blind.clone(), 1);
        let log = (safe.clone().log() + self.shift).mask_fill(blind.clone(), f64::NEG_INFINITY);
        // Where the denominator, a sum of positive numbers, is 0, the numerators are.
        (self.y.narrow(3, 0, width) / safe, log.squeeze_dim(3))
    }
}
