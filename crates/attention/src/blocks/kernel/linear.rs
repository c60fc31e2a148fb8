use std::sync::Arc;

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
use crate::blocks::custom_gradient::{GradientRule, of_backend, primitive, with_gradient};

type Flat = FloatTensor<Flex>;

/// Least multiplications per task: below it a second thread costs more than it brings.
const TASK: usize = 256 * 1024;

/// The inputs of `y = x W + b`, saved for the gradients.
#[derive(Debug)]
struct Saved {
    x: DispatchTensor,
    weight: DispatchTensor,
}

impl<const N: usize> GradientRule<N> for Saved {
    fn gradients(&self, upstream: DispatchTensor, wanted: [bool; N]) -> [Option<DispatchTensor>; N] {
        let [x, weight, grad] = [self.x.clone(), self.weight.clone(), upstream].map(primitive::<Flex>);
        let (mut place, mut grad_place, weight) = (None, None, forwards(&weight));
        let (rows, y, w) = (Matrix::rows_of(&x, &mut place), Matrix::rows_of(&grad, &mut grad_place), Matrix::new(&weight));
        std::array::from_fn(|input| {
            let gradient = || match input {
                0 => tensor(product(y, w.transposed(), None), shape(&x)),
                1 => tensor(product(rows.transposed(), y, None), vec![w.rows, w.columns]),
                _ => tensor(column_sums(y), vec![y.columns]),
            };
            wanted[input].then(gradient).map(of_backend::<Flex>)
        })
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

/// The tensor without negative strides.
pub(super) fn forwards(x: &Flat) -> Flat {
    if x.layout().strides().iter().any(|&stride| stride < 0) { x.to_contiguous() } else { x.clone() }
}

fn column_sums(y: Matrix<'_>) -> Vec<f32> {
    let mut sums = vec![0.0_f32; y.columns];
    for row in 0..y.rows {
        for (sum, y) in sums.iter_mut().zip(y.row(row)) {
            *sum += y;
        }
    }
    sums
}

fn shape(x: &Flat) -> Vec<usize> {
    x.layout().shape().iter().copied().collect()
}

fn tensor(values: Vec<f32>, shape: Vec<usize>) -> Flat {
    Flat::from_data(TensorData::new(values, shape))
}

/// `a b + bias`, in blocks of rows or of columns, whichever are more, one task each.
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
    let long = m.max(n);
    let tasks = (m * n * k / TASK).clamp(1, rayon::current_num_threads()).min(long.max(1));
    let target = Target::new(&mut y);
    let part = |i: usize| {
        let (start, end) = (i * long / tasks, (i + 1) * long / tasks);
        let (row, rows, column, columns) = if m >= n { (start, end - start, 0, n) } else { (0, m, start, end - start) };
        let (a, b) = (a.block(row, rows, 0, k), b.block(0, k, column, columns));
        // SAFETY: `y` has room for m × n elements, the parts are disjoint, and with a bias all have been written.
        unsafe { target.at(row * n + column).multiply([n, 1], a, b, bias.is_some()) };
    };
    if tasks == 1 {
        part(0);
    } else {
        (0..tasks).into_par_iter().for_each(part);
    }
    // SAFETY: the parts have written every element.
    unsafe { y.set_len(m * n) };
    y
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
