//! Positive random features on the CPU, forward and backward: what takes a dozen tensor operations is a matrix product and two passes
//! over memory.

use std::sync::Arc;

use burn::{
    backend::DispatchTensor,
    tensor::{Bool, DType, Device, Tensor},
};
use rayon::prelude::*;

use super::{
    matrix::{Matrix, multiply},
    plain,
    real::{Real, flags, numbers, slice, tensor},
};
use crate::blocks::{GradientRule, simd::vectorised, with_gradient};

/// Which exponent is taken out of the features.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::nprf) enum Shift {
    /// The largest of each token.
    Token,
    /// The largest of all tokens of a sequence and head that are not hidden.
    All,
}

/// The smallest norm that is divided by.
const SMALLEST_NORM: f64 = 1e-6;
/// Bound from below of a shift: that of no tokens.
const SMALLEST_SHIFT: f64 = -1e4;

/// `exp(W x̂ − |x̂|²/2 − shift)` and the shift, a constant; zeros for hidden tokens. x̂ = x/|x|, or `K^(-1/4) x` if not `normalised`.
///
/// # Shapes
/// - `x`: `[B, H, N, K]`; `projection` W: `[H or 1, M, K]`; `hidden`: `[B, N]`; no axis of length 0
/// - output: `[B, H, N, M]`, and `[B, H, N, 1]` or `[B, H, 1, 1]`
pub(in crate::nprf) fn feature_map(
    x: Tensor<4>,
    projection: Tensor<3>,
    hidden: Option<Tensor<2, Bool>>,
    normalised: bool,
    shift: Shift,
) -> (Tensor<4>, Tensor<4>) {
    let device = x.device();
    let autodiff = x.is_autodiff() || projection.is_autodiff();
    let erased = autodiff.then(|| [x.clone().into_dispatch(), projection.clone().into_dispatch()]);
    let map = Map { x: plain(x), projection: plain(projection), hidden, normalised, shift };
    let (features, shift) = if map.x.dtype() == DType::F64 { map.forward::<f64>() } else { map.forward::<f32>() };
    let Some(erased) = erased else { return (features, shift) };
    let rule = Arc::new(Backward { map, features: features.clone() });
    (with_gradient::<4, 2>(erased, features, rule), on(shift, &device))
}

/// A constant where the tensors of the graph are.
fn on(x: Tensor<4>, device: &Device) -> Tensor<4> {
    if device.is_autodiff() { Tensor::from_inner(x) } else { x }
}

/// The inputs, without autodiff.
#[derive(Debug)]
struct Map {
    x: Tensor<4>,
    projection: Tensor<3>,
    hidden: Option<Tensor<2, Bool>>,
    normalised: bool,
    shift: Shift,
}

/// Sizes of a head.
#[derive(Clone, Copy)]
struct Sizes {
    h: usize,
    n: usize,
    d: usize,
    m: usize,
    /// Numbers from the projection of a head to that of the next: 0 if all share it.
    step: usize,
}

impl Map {
    fn sizes(&self) -> Sizes {
        let ([_, h, n, d], [h_w, m, _]) = (self.x.dims(), self.projection.dims());
        Sizes { h, n, d, m, step: if h_w == 1 { 0 } else { m * d } }
    }

    /// The rows of head `i` as the kernel takes them, zeros for hidden tokens, and the factors that made them.
    fn prepared<T: Real>(&self, x: &[T], i: usize, hidden: Option<&[bool]>) -> (Vec<T>, Vec<T>) {
        let Sizes { n, d, .. } = self.sizes();
        let mut out = x[i * n * d..(i + 1) * n * d].to_vec();
        for (row, _) in out.chunks_exact_mut(d).zip(hidden.unwrap_or_default()).filter(|(_, hidden)| **hidden) {
            row.fill(T::default());
        }
        let factors = scale_rows(&mut out, d, self.normalised);
        (out, factors)
    }

    /// The flags of a sequence.
    fn hidden_of(flags: Option<&Vec<bool>>, sequence: usize, n: usize) -> Option<&[bool]> {
        flags.map(|hidden| &hidden[sequence * n..(sequence + 1) * n])
    }

    fn forward<T: Real>(&self) -> (Tensor<4>, Tensor<4>) {
        let [b, ..] = self.x.dims();
        let Sizes { h, n, d, m, step } = self.sizes();
        let (x, w, hidden) = (numbers::<T, 4>(&self.x), numbers::<T, 3>(&self.projection), self.hidden.as_ref().map(flags));
        let (x, w) = (slice::<T>(&x), slice::<T>(&w));
        let mut features = vec![T::default(); b * h * n * m];
        let shifts: Vec<Vec<T>> = features
            .par_chunks_mut(n * m)
            .enumerate()
            .map(|(i, out)| {
                let hidden = Self::hidden_of(hidden.as_ref(), i / h, n);
                let (x, _) = self.prepared(x, i, hidden);
                let w = &w[i % h * step..][..m * d];
                multiply(out, Matrix::new(&x, d), Matrix::new(w, d).t(), false);
                self.exponentials(out, &x, hidden, d, m)
            })
            .collect();
        let device = self.x.device();
        let shifts = shifts.concat();
        let count = shifts.len() / (b * h);
        (tensor(features, [b, h, n, m], &device), tensor(shifts, [b, h, count, 1], &device))
    }

    /// From products `W x̂` to features, in place; gives the shifts.
    fn exponentials<T: Real>(&self, out: &mut [T], x: &[T], hidden: Option<&[bool]>, d: usize, m: usize) -> Vec<T> {
        let seen = |i: usize| hidden.is_none_or(|hidden| !hidden[i]);
        let mut shifts = exponents(out, x, d, m);
        if self.shift == Shift::All {
            let rows = shifts.iter().enumerate().filter(|(i, _)| seen(*i)).map(|(_, &x)| x);
            let largest = rows.fold(T::from_elem(SMALLEST_SHIFT), |a, b| if b > a { b } else { a });
            for (i, row) in out.chunks_exact_mut(m).enumerate() {
                if seen(i) { exponentials_of(row, largest) } else { row.fill(T::default()) }
            }
            return vec![largest];
        }
        for (i, (row, shift)) in out.chunks_exact_mut(m).zip(&mut shifts).enumerate() {
            if seen(i) { exponentials_of(row, *shift) } else { row.fill(T::default()) }
        }
        shifts
    }
}

/// The backward pass.
#[derive(Debug)]
struct Backward {
    map: Map,
    features: Tensor<4>,
}

impl GradientRule<2> for Backward {
    fn gradients(&self, upstream: DispatchTensor, wanted: [bool; 2]) -> [Option<DispatchTensor>; 2] {
        let upstream = Tensor::from_dispatch(upstream);
        if self.features.dtype() == DType::F64 { self.run::<f64>(&upstream, wanted) } else { self.run::<f32>(&upstream, wanted) }
    }
}

impl Backward {
    fn run<T: Real>(&self, upstream: &Tensor<4>, [want_x, want_w]: [bool; 2]) -> [Option<DispatchTensor>; 2] {
        let Sizes { h, n, d, m, step } = self.map.sizes();
        let [x, w] = [numbers::<T, 4>(&self.map.x), numbers::<T, 3>(&self.map.projection)];
        let [features, upstream] = [numbers::<T, 4>(&self.features), numbers::<T, 4>(upstream)];
        let (x, w, features, upstream) = (slice::<T>(&x), slice::<T>(&w), slice::<T>(&features), slice::<T>(&upstream));
        let hidden = self.map.hidden.as_ref().map(flags);
        let mut dx = vec![T::default(); x.len()];
        let of_heads: Vec<Vec<T>> = dx
            .par_chunks_mut(n * d)
            .enumerate()
            .map(|(i, dx)| {
                let (x, factors) = self.map.prepared(x, i, Map::hidden_of(hidden.as_ref(), i / h, n));
                let range = i * n * m..(i + 1) * n * m;
                // Of the exponents.
                let mut dh = vec![T::default(); n * m];
                product(&mut dh, &features[range.clone()], &upstream[range]);
                let w = &w[i % h * step..][..m * d];
                if want_x {
                    multiply(dx, Matrix::new(&dh, m), Matrix::new(w, d), false);
                    through_preparation(dx, &x, &dh, &factors, self.map.normalised);
                }
                let mut dw = Vec::new();
                if want_w {
                    dw = vec![T::default(); m * d];
                    multiply(&mut dw, Matrix::new(&dh, m).t(), Matrix::new(&x, d), false);
                }
                dw
            })
            .collect();
        let device = self.map.x.device();
        let dx = want_x.then(|| tensor(dx, self.map.x.dims(), &device).into_dispatch());
        let dw = want_w.then(|| {
            let mut sum = vec![T::default(); w.len()];
            for (i, dw) in of_heads.iter().enumerate() {
                sum[i % h * step..].iter_mut().zip(dw).for_each(|(sum, &x)| *sum += x);
            }
            tensor(sum, self.map.projection.dims(), &device).into_dispatch()
        });
        [dx, dw]
    }
}

/// Makes rows of width `d` what the features are of, in place; gives the factors.
fn scale_rows<T: Real>(rows: &mut [T], d: usize, normalised: bool) -> Vec<T> {
    vectorised! {
        fn [T: Real] body<'a>(rows: &'a mut [T], d: usize, fixed: Option<T>) -> Vec<T> {
            let smallest = T::from_elem(SMALLEST_NORM);
            let mut factors = Vec::with_capacity(rows.len() / d);
            for row in rows.chunks_exact_mut(d) {
                let factor = fixed.unwrap_or_else(|| {
                    let norm = dot(row, row).sqrt();
                    T::ONE / if norm > smallest { norm } else { smallest }
                });
                for x in row.iter_mut() {
                    *x *= factor;
                }
                factors.push(factor);
            }
            factors
        }
    }
    let fixed = (!normalised).then(|| T::from_elem((d as f64).powf(-0.25)));
    body(rows, d, fixed)
}

/// Subtracts `|x|²/2` from each row of products, and gives the largest of each.
fn exponents<T: Real>(products: &mut [T], x: &[T], d: usize, m: usize) -> Vec<T> {
    vectorised! {
        fn [T: Real] body<'a>(products: &'a mut [T], x: &'a [T], d: usize, m: usize) -> Vec<T> {
            let (half, smallest) = (T::from_elem(0.5), T::from_elem(SMALLEST_SHIFT));
            let mut largest = Vec::with_capacity(products.len() / m);
            for (row, x) in products.chunks_exact_mut(m).zip(x.chunks_exact(d)) {
                let norm = half * dot(x, x);
                for h in row.iter_mut() {
                    *h = *h - norm;
                }
                largest.push(max(row, smallest));
            }
            largest
        }
    }
    body(products, x, d, m)
}

/// From the gradient of `W x̂` times W to that of x, in place; `dh` are the gradients of the exponents.
fn through_preparation<T: Real>(dx: &mut [T], x: &[T], dh: &[T], factors: &[T], normalised: bool) {
    vectorised! {
        fn [T: Real] body<'a>(dx: &'a mut [T], x: &'a [T], dh: &'a [T], factors: &'a [T], normalised: bool) -> () {
            let (d, m) = (dx.len() / factors.len(), dh.len() / factors.len());
            // At the smallest norm the factor is a constant.
            let largest = T::ONE / T::from_elem(SMALLEST_NORM);
            for (((dx, x), dh), &factor) in dx.chunks_exact_mut(d).zip(x.chunks_exact(d)).zip(dh.chunks_exact(m)).zip(factors) {
                let total = sum(dh);
                for (dx, &x) in dx.iter_mut().zip(x) {
                    *dx = *dx - total * x;
                }
                let along = if normalised && factor < largest { dot(dx, x) } else { T::default() };
                for (dx, &x) in dx.iter_mut().zip(x) {
                    *dx = (*dx - along * x) * factor;
                }
            }
        }
    }
    body(dx, x, dh, factors, normalised);
}

/// Lanes of a sum.
const LANES: usize = 16;

#[inline(always)]
fn dot<T: Real>(a: &[T], b: &[T]) -> T {
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
    let mut lanes = [T::default(); LANES];
    for (a, b) in a.iter().zip(b) {
        for i in 0..LANES {
            lanes[i] += a[i] * b[i];
        }
    }
    let rest = a_rest.iter().zip(b_rest).fold(T::default(), |sum, (&a, &b)| sum + a * b);
    lanes.into_iter().fold(rest, |sum, x| sum + x)
}

#[inline(always)]
fn sum<T: Real>(x: &[T]) -> T {
    let (x, rest) = x.as_chunks::<LANES>();
    let mut lanes = [T::default(); LANES];
    for x in x {
        for i in 0..LANES {
            lanes[i] += x[i];
        }
    }
    lanes.into_iter().chain(rest.iter().copied()).fold(T::default(), |sum, x| sum + x)
}

/// The largest number, at least `smallest`; NaN is passed over.
#[inline(always)]
fn max<T: Real>(x: &[T], smallest: T) -> T {
    let (x, rest) = x.as_chunks::<LANES>();
    let mut lanes = [smallest; LANES];
    for x in x {
        for i in 0..LANES {
            lanes[i] = if x[i] > lanes[i] { x[i] } else { lanes[i] };
        }
    }
    lanes.into_iter().chain(rest.iter().copied()).fold(smallest, |a, b| if b > a { b } else { a })
}

fn exponentials_of<T: Real>(row: &mut [T], shift: T) {
    vectorised! {
        fn [T: Real] body<'a>(row: &'a mut [T], shift: T) -> () {
            for h in row {
                *h = (*h - shift).exp();
            }
        }
    }
    body(row, shift);
}

fn product<T: Real>(out: &mut [T], a: &[T], b: &[T]) {
    vectorised! {
        fn [T: Real] body<'a>(out: &'a mut [T], a: &'a [T], b: &'a [T]) -> () {
            for ((out, &a), &b) in out.iter_mut().zip(a).zip(b) {
                *out = a * b;
            }
        }
    }
    body(out, a, b);
}
