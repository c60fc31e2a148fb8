//! Attention with queries and keys of one number: for each head, the output is a smooth function of the query alone,
//! `o(q) = Σ_j exp(q k_j) v_j / Σ_j exp(q k_j)`, and is interpolated from its values at a few queries.

use std::{f64::consts::PI, sync::Arc};

use burn::{
    backend::DispatchTensor,
    tensor::{Tensor, TensorData},
};

use crate::{
    Result,
    blocks::{
        GradientRule,
        softmax::{SoftmaxOptions, softmax_attention},
        with_gradient,
    },
};

/// The output with an error of at most `error` times the largest value, beside rounding; `None` if that takes no less than all queries
/// or keys.
pub(super) fn interpolated([q, k, v]: [Tensor<4>; 3], scale: f64, error: f64) -> Result<Option<Tensor<4>>> {
    let [b, h, n, _] = q.dims();
    let [lowest, highest] = bounds(&q);
    let [lowest_k, highest_k] = bounds(&k);
    let spreads = (0..b * h).map(|i| (highest[i] - lowest[i]) * (highest_k[i] - lowest_k[i]) * scale.abs());
    let spread = spreads.fold(0.0, f64::max);
    let Some(m) = nodes(spread, error).filter(|m| *m < n.min(k.dims()[2])) else { return Ok(None) };

    // Chebyshev's points of the first kind on the range of each head's queries.
    let (device, dtype) = (q.device(), q.dtype());
    let at = |i: usize| (PI * (i as f64 + 0.5) / m as f64).cos();
    let points: Vec<f64> = (0..b * h * m)
        .map(|i| {
            let (low, high) = (lowest[i / m], highest[i / m]);
            0.5 * (low + high) + 0.5 * (high - low) * at(i % m)
        })
        .collect();
    let points = Tensor::from_data(TensorData::new(points, [b, h, m, 1]), (&device, dtype));
    let (values, _) = softmax_attention(points, k, v, SoftmaxOptions { scale: Some(scale), ..Default::default() })?; // [B, H, m, V]
    // From values at the points to coefficients of Chebyshev's polynomials.
    let transform: Vec<f64> = (0..m * m)
        .map(|i| {
            let (degree, point) = (i / m, i % m);
            let factor = if degree == 0 { 1.0 } else { 2.0 };
            factor / m as f64 * (degree as f64 * PI * (point as f64 + 0.5) / m as f64).cos()
        })
        .collect();
    let transform: Tensor<4> = Tensor::from_data(TensorData::new(transform, [1, 1, m, m]), (&device, dtype));
    let coefficients = transform.expand([b, h, m, m]).matmul(values);
    // Queries that are all alike stand at the centre.
    let factor = |low: f64, high: f64| if high > low { 2.0 / (high - low) } else { 0.0 };
    let ranges = lowest.iter().zip(&highest).flat_map(|(&low, &high)| [0.5 * (low + high), factor(low, high)]);
    let ranges: Tensor<4> = Tensor::from_data(TensorData::new(ranges.collect::<Vec<f64>>(), [b, h, 1, 2]), (&device, dtype));
    Ok(Some(evaluate(coefficients, q, ranges.inner())))
}

/// Least and largest number of each head.
fn bounds(x: &Tensor<4>) -> [Vec<f64>; 2] {
    let x = x.clone().inner();
    [x.clone().min_dim(2), x.max_dim(2)].map(|x| x.into_data().iter::<f64>().collect())
}

/// Number of points for queries and keys whose spreads have this product; `None` if that is no number.
///
/// With the imaginary part of q times half the spread of the keys at most f·π/2, no sum of `exp(q k_j)` is nearer to 0 than
/// cos(f·π/2) times the sum of absolute values: there `|o(q)| ≤ max |v| / cos(f·π/2)`. An ellipse about the range of the queries fits into
/// that strip, of semi-axes (in half ranges) whose sum is ρ, and the error of m points is at most `4 M ρ^−m / (ρ − 1)` (Trefethen 2013,
/// theorem 8.2), M that bound.
fn nodes(spread: f64, error: f64) -> Option<usize> {
    const F: f64 = 0.9;
    if !spread.is_finite() {
        return None;
    }
    let height = 2.0 * F * PI / spread.max(1e-3);
    let rho = height + (1.0 + height * height).sqrt();
    let bound = 4.0 / (F * PI / 2.0).cos() / (rho - 1.0);
    let m = (bound / error).ln() / rho.ln();
    Some((m.ceil().max(2.0) as usize).saturating_add(1))
}

/// `Σ_d T_d(t) c_d` with `t = (q − centre) · factor`, clamped to [−1, 1] against rounding. The ranges hold centre and factor of each head and
/// are constants.
fn evaluate(coefficients: Tensor<4>, q: Tensor<4>, ranges: Tensor<4>) -> Tensor<4> {
    let inputs = [coefficients, q];
    let [coefficients, q] = inputs.clone().map(Tensor::inner);
    let t = ((q - ranges.clone().narrow(3, 0, 1)) * ranges.clone().narrow(3, 1, 1)).clamp(-1.0, 1.0);
    let m = coefficients.dims()[2];
    let o = polynomials(&t, m, 1).matmul(coefficients.clone());
    let factor = ranges.narrow(3, 1, 1);
    with_gradient(inputs.map(Tensor::into_dispatch), o, Arc::new(Saved { coefficients, t, factor }))
}

/// Chebyshev's polynomials of degrees 0 to m − 1 at `t` `[B, H, N, 1]`, of the first kind, or of the second: `[B, H, N, m]`
fn polynomials(t: &Tensor<4>, m: usize, kind: usize) -> Tensor<4> {
    let double = t.clone() * 2.0;
    let mut terms = vec![t.ones_like(), t.clone() * kind as f64];
    while terms.len() < m {
        let [before, last] = [2, 1].map(|back| terms[terms.len() - back].clone());
        terms.push(double.clone() * last - before);
    }
    terms.truncate(m);
    Tensor::cat(terms, 3)
}

#[derive(Debug)]
struct Saved {
    coefficients: Tensor<4>,
    t: Tensor<4>,
    factor: Tensor<4>,
}

impl GradientRule<2> for Saved {
    fn gradients(&self, upstream: DispatchTensor, wanted: [bool; 2]) -> [Option<DispatchTensor>; 2] {
        let upstream = Tensor::<4>::from_dispatch(upstream);
        let m = self.coefficients.dims()[2];
        let coefficients = wanted[0].then(|| polynomials(&self.t, m, 1).swap_dims(2, 3).matmul(upstream.clone()).into_dispatch());
        let q = wanted[1].then(|| {
            // T_d' = d U_(d−1)
            let [b, h, ..] = self.t.dims();
            let degrees: Vec<f64> = (1..m).map(|d| d as f64).collect();
            let degrees: Tensor<4> = Tensor::from_data(TensorData::new(degrees, [1, 1, m - 1, 1]), (&self.t.device(), self.t.dtype()));
            let slopes = self.coefficients.clone().narrow(2, 1, m - 1) * degrees.expand([b, h, m - 1, 1]);
            let slopes = polynomials(&self.t, m - 1, 2).matmul(slopes);
            ((slopes * upstream).sum_dim(3) * self.factor.clone()).into_dispatch()
        });
        [coefficients, q]
    }
}
