use std::{ops::Range, sync::Arc};

use burn::{
    backend::{DispatchTensor, Flex, tensor::FloatTensor},
    tensor::{Tensor, TensorData},
};
use rayon::prelude::*;

use super::{
    activation::slice,
    matrix::{Matrix, Target},
    row,
};
use crate::blocks::{
    custom_gradient::{GradientRule, JointRule, of_backend, primitive, with_gradient, with_gradients},
    simd::vectorised,
    split::cut,
};

type Flat = FloatTensor<Flex>;

/// Least multiplications per task: below it a second thread costs more than it brings.
const TASK: usize = 256 * 1024;

/// The inputs of `y = x W + b`, saved for the gradients.
#[derive(Debug)]
struct Saved {
    x: DispatchTensor,
    weight: DispatchTensor,
}

impl Saved {
    /// The gradients of `x`, W and b, given those of parts of the columns, `None` for zeros, and how many columns each has. Each part's
    /// own products are added up where they belong: the parts are not put side by side first.
    fn of_parts<const I: usize>(&self, parts: &[(Option<Flat>, usize)], wanted: [bool; I]) -> [Option<DispatchTensor>; I] {
        let [x, weight] = [self.x.clone(), self.weight.clone()].map(primitive::<Flex>);
        let (mut place, weight) = (None, forwards(&weight));
        let (rows, w) = (Matrix::rows_of(&x, &mut place), Matrix::new(&weight));
        let mut places: Vec<Option<Flat>> = parts.iter().map(|_| None).collect();
        let mut start = 0;
        let given = parts.iter().zip(&mut places).filter_map(|((gradient, length), place)| {
            start += length;
            gradient.as_ref().map(|gradient| (Matrix::rows_of(gradient, place), start - length))
        });
        let given: Vec<(Matrix<'_>, usize)> = given.filter(|(y, _)| y.rows * y.columns > 0).collect();
        let d_x = || {
            let factors = given.iter().map(|&(y, column)| (y, w.block(0, w.rows, column, y.columns).transposed()));
            tensor(sum_of_products([rows.rows, w.rows], &factors.collect::<Vec<_>>()), shape(&x))
        };
        let d_weight = || {
            let mut d_weight = Vec::with_capacity(w.rows * w.columns);
            if given.len() < parts.len() {
                d_weight.resize(w.rows * w.columns, 0.0);
            }
            let target = Target::new(&mut d_weight);
            for &(y, column) in &given {
                // SAFETY: the parts are columns of their own, and together with the zeros they cover the matrix.
                unsafe { product_at(target.at(column), w.columns, &[(rows.transposed(), y)], false) };
            }
            // SAFETY: as above.
            unsafe { d_weight.set_len(w.rows * w.columns) };
            tensor(d_weight, vec![w.rows, w.columns])
        };
        let d_bias = || {
            let mut d_bias = vec![0.0; w.columns];
            for &(y, column) in &given {
                d_bias[column..][..y.columns].copy_from_slice(&column_sums(y));
            }
            tensor(d_bias, vec![w.columns])
        };
        std::array::from_fn(|input| {
            let gradient = || match input {
                0 => d_x(),
                1 => d_weight(),
                _ => d_bias(),
            };
            wanted[input].then(gradient).map(of_backend::<Flex>)
        })
    }
}

impl<const I: usize> GradientRule<I> for Saved {
    fn gradients(&self, upstream: DispatchTensor, wanted: [bool; I]) -> [Option<DispatchTensor>; I] {
        let gradient = primitive::<Flex>(upstream);
        let columns = shape(&gradient).pop().unwrap_or(1);
        self.of_parts(&[(Some(gradient), columns)], wanted)
    }
}

/// `x W + b` over the last axis. Burn's own product fills its result with zeros and copies it before it computes.
pub(crate) fn linear<const D: usize>(x: Tensor<D>, weight: Tensor<2>, bias: Option<Tensor<1>>) -> Tensor<D> {
    let inner = [x.clone().inner().into_dispatch(), weight.clone().inner().into_dispatch()];
    let y = {
        let [x, weight] = inner.clone().map(primitive::<Flex>);
        let (mut place, weight) = (None, forwards(&weight));
        let bias = bias.clone().map(|b| primitive::<Flex>(b.inner().into_dispatch()).to_contiguous());
        let (rows, columns) = (Matrix::rows_of(&x, &mut place), Matrix::new(&weight));
        let mut dims = shape(&x);
        dims[D - 1] = columns.columns;
        let y = tensor(product(rows, columns, bias.as_ref().map(slice)), dims);
        Tensor::from_dispatch(of_backend::<Flex>(y))
    };
    let [saved_x, saved_weight] = inner;
    let saved = Arc::new(Saved { x: saved_x, weight: saved_weight });
    let (x, weight) = (x.into_dispatch(), weight.into_dispatch());
    match bias {
        Some(bias) => with_gradient([x, weight, bias.into_dispatch()], y, saved),
        None => with_gradient([x, weight], y, saved),
    }
}

/// As [`Saved`], for a product whose columns were cut into parts.
#[derive(Debug)]
struct SavedParts<const N: usize> {
    saved: Saved,
    lengths: [usize; N],
}

impl<const I: usize, const N: usize> JointRule<I, N> for SavedParts<N> {
    fn gradients(&self, upstream: [Option<DispatchTensor>; N], wanted: [bool; I]) -> [Option<DispatchTensor>; I] {
        let gradients = upstream.map(|gradient| gradient.map(primitive::<Flex>));
        self.saved.of_parts(&gradients.into_iter().zip(self.lengths).collect::<Vec<_>>(), wanted)
    }
}

/// `x W + b` over the last axis, its columns cut into parts of `lengths`, which are views.
pub(crate) fn linear_split<const D: usize, const N: usize>(
    x: Tensor<D>,
    weight: Tensor<2>,
    bias: Option<Tensor<1>>,
    lengths: [usize; N],
) -> [Tensor<D>; N] {
    let [saved_x, saved_weight] = [x.clone().inner().into_dispatch(), weight.clone().inner().into_dispatch()];
    let parts = cut(&linear(x.clone().inner(), weight.clone().inner(), bias.clone().map(Tensor::inner)), D - 1, lengths);
    let rule = SavedParts { saved: Saved { x: saved_x, weight: saved_weight }, lengths };
    let (x, weight) = (x.into_dispatch(), weight.into_dispatch());
    match bias {
        Some(bias) => with_gradients([x, weight, bias.into_dispatch()], parts, rule),
        None => with_gradients([x, weight], parts, rule),
    }
}

/// The tensor without negative strides.
pub(super) fn forwards(x: &Flat) -> Flat {
    if x.layout().strides().iter().any(|&stride| stride < 0) { x.to_contiguous() } else { x.clone() }
}

/// Rows per task of a sum over rows: it fixes the order of the sum, whatever the number of threads.
const SUMMED_ROWS: usize = 64;

pub(super) fn column_sums(y: Matrix<'_>) -> Vec<f32> {
    let part = |i: usize| sums(y, i * SUMMED_ROWS..y.rows.min((i + 1) * SUMMED_ROWS));
    let parts: Vec<Vec<f32>> = (0..y.rows.div_ceil(SUMMED_ROWS)).into_par_iter().map(part).collect();
    let mut total = vec![0.0_f32; y.columns];
    for part in parts {
        for (total, part) in total.iter_mut().zip(part) {
            *total += part;
        }
    }
    total
}

vectorised! {
    fn sums<'a>(y: Matrix<'a>, rows: Range<usize>) -> Vec<f32> {
        let mut sums = vec![0.0_f32; y.columns];
        for row in rows {
            for (sum, y) in sums.iter_mut().zip(y.row(row)) {
                *sum += y;
            }
        }
        sums
    }
}

fn shape(x: &Flat) -> Vec<usize> {
    x.layout().shape().iter().copied().collect()
}

fn tensor(values: Vec<f32>, shape: Vec<usize>) -> Flat {
    Flat::from_data(TensorData::new(values, shape))
}

/// `a b + bias`
fn product(a: Matrix<'_>, b: Matrix<'_>, bias: Option<&[f32]>) -> Vec<f32> {
    let (m, n, k) = (a.rows, b.columns, a.columns);
    assert_eq!(k, b.rows, "inner sizes");
    assert!(bias.is_none_or(|bias| n == bias.len()), "one bias per column");
    if m == 1
        && k > 0
        && let Some(mut y) = row_product(a, b)
    {
        // Last, as in general products.
        y.iter_mut().zip(bias.unwrap_or_default()).for_each(|(y, bias)| *y += bias);
        return y;
    }
    let mut y = Vec::with_capacity(m * n);
    if let Some(bias) = bias {
        (0..m).for_each(|_| y.extend_from_slice(bias));
    }
    if k == 0 {
        y.resize(m * n, 0.0);
        return y;
    }
    // SAFETY: `y` has room for m × n elements, and with a bias all have been written.
    unsafe { product_at(Target::new(&mut y), n, &[(a, b)], bias.is_some()) };
    // SAFETY: the product has written every element.
    unsafe { y.set_len(m * n) };
    y
}

/// `Σ aᵢ bᵢ`, of m × n elements each.
fn sum_of_products([m, n]: [usize; 2], pairs: &[(Matrix<'_>, Matrix<'_>)]) -> Vec<f32> {
    if pairs.is_empty() {
        return vec![0.0; m * n];
    }
    let mut y = Vec::with_capacity(m * n);
    // SAFETY: `y` has room for m × n elements, all of which are written.
    unsafe {
        product_at(Target::new(&mut y), n, pairs, false);
        y.set_len(m * n);
    }
    y
}

/// Writes `Σ aᵢ bᵢ` to a place with rows `row` numbers apart, or adds it to what is there: in blocks of rows or of columns, whichever are
/// more, one task each.
///
/// # Safety
/// The elements lie in the result's memory and nothing else uses them now; if added to, they have been written.
pub(super) unsafe fn product_at(target: Target, row: usize, pairs: &[(Matrix<'_>, Matrix<'_>)], add: bool) {
    let (m, n) = (pairs[0].0.rows, pairs[0].1.columns);
    let work: usize = pairs.iter().map(|(a, _)| m * n * a.columns).sum();
    let long = m.max(n);
    let tasks = (work / TASK).clamp(1, rayon::current_num_threads()).min(long.max(1));
    let part = |i: usize| {
        let (start, end) = (i * long / tasks, (i + 1) * long / tasks);
        let (first, rows, column, columns) = if m >= n { (start, end - start, 0, n) } else { (0, m, start, end - start) };
        for (index, (a, b)) in pairs.iter().enumerate() {
            assert!((a.rows, b.columns) == (m, n), "products of one size");
            let (a, b) = (a.block(first, rows, 0, a.columns), b.block(0, b.rows, column, columns));
            // SAFETY: the parts are disjoint, the rest is the caller's promise.
            unsafe { target.at(first * row + column).multiply([row, 1], a, b, add || index > 0) };
        }
    };
    if tasks == 1 {
        part(0);
    } else {
        (0..tasks).into_par_iter().for_each(part);
    }
}

/// One row `a` times `b`, parts of the columns side by side; nothing if `b` has neither rows nor columns in one piece.
fn row_product(a: Matrix<'_>, b: Matrix<'_>) -> Option<Vec<f32>> {
    let (n, k) = (b.columns, b.rows);
    if a.column_stride != 1 || (b.column_stride != 1 && b.row_stride != 1) {
        return None;
    }
    let mut y = vec![0.0; n];
    let tasks = (n * k / TASK).clamp(1, rayon::current_num_threads());
    let width = n.div_ceil(tasks).max(1);
    let part = |(task, y): (usize, &mut [f32])| {
        row::add_product(y, &a.values[..k], b.block(0, k, task * width, y.len()));
    };
    if tasks == 1 {
        y.chunks_mut(width).enumerate().for_each(part);
    } else {
        y.par_chunks_mut(width).enumerate().for_each(part);
    }
    Some(y)
}
