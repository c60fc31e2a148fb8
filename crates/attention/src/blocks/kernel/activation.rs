use burn::{
    backend::{Flex, tensor::FloatTensor},
    tensor::TensorData,
};

use super::{matrix::Matrix, parts::in_parts};
use crate::blocks::simd::{self, normal, vectorised};

type Flat = FloatTensor<Flex>;

/// Elements per task: below it a second thread costs more than it brings.
const TASK: usize = 16 * 1024;

/// A function of one number. Methods must be `inline(always)`: they are part of vector code.
pub(super) trait Pointwise: Copy + Send + Sync + 'static {
    /// Whether the derivative is a function of the output instead of the input.
    const BY_OUTPUT: bool = false;

    /// `f(x)`
    fn value(self, x: f32) -> f32;

    /// `f'`, given the input or the output.
    fn slope(self, saved: f32) -> f32;
}

/// `x Φ(x)`
#[derive(Clone, Copy)]
pub(super) struct Gelu;

impl Pointwise for Gelu {
    #[inline(always)]
    fn value(self, x: f32) -> f32 {
        x * normal(x).0
    }

    #[inline(always)]
    fn slope(self, x: f32) -> f32 {
        let (distribution, density) = normal(x);
        x.mul_add(density, distribution)
    }
}

/// `x / (1 + exp(−x))`
#[derive(Clone, Copy)]
pub(super) struct Silu;

impl Pointwise for Silu {
    #[inline(always)]
    fn value(self, x: f32) -> f32 {
        x * simd::sigmoid(x)
    }

    #[inline(always)]
    fn slope(self, x: f32) -> f32 {
        let s = simd::sigmoid(x);
        s * (1.0 - s).mul_add(x, 1.0)
    }
}

/// `1 / (1 + exp(−x))`
#[derive(Clone, Copy)]
pub(super) struct Sigmoid;

impl Pointwise for Sigmoid {
    const BY_OUTPUT: bool = true;

    #[inline(always)]
    fn value(self, x: f32) -> f32 {
        simd::sigmoid(x)
    }

    #[inline(always)]
    fn slope(self, y: f32) -> f32 {
        y * (1.0 - y)
    }
}

/// `max(x, 0)`
#[derive(Clone, Copy)]
pub(super) struct Relu;

impl Pointwise for Relu {
    const BY_OUTPUT: bool = true;

    #[inline(always)]
    fn value(self, x: f32) -> f32 {
        // Not `max`, which would hide that something is not a number.
        if x < 0.0 { 0.0 } else { x }
    }

    #[inline(always)]
    fn slope(self, y: f32) -> f32 {
        if y > 0.0 { 1.0 } else { 0.0 }
    }
}

/// `x`, the gate of SGLU.
#[derive(Clone, Copy)]
pub(super) struct Identity;

impl Pointwise for Identity {
    #[inline(always)]
    fn value(self, x: f32) -> f32 {
        x
    }

    #[inline(always)]
    fn slope(self, _: f32) -> f32 {
        1.0
    }
}

/// `f(x)` of each element.
pub(super) fn map<F: Pointwise>(x: &Flat, f: F) -> Flat {
    let mut place = None;
    let x_rows = Matrix::rows_of(x, &mut place);
    let width = x_rows.columns.max(1);
    let ([y], _) = in_parts(len(x), per_task(width), |start, [y]| values(y, x_rows, start / width, f));
    tensor(y, x)
}

/// `f'(saved) g` of each element.
pub(super) fn map_backward<F: Pointwise>(saved: &Flat, grad: &Flat, f: F) -> Flat {
    let (mut place, mut grad_place) = (None, None);
    let (saved_rows, grad_rows) = (Matrix::rows_of(saved, &mut place), Matrix::rows_of(grad, &mut grad_place));
    let width = saved_rows.columns.max(1);
    let ([dx], _) = in_parts(len(saved), per_task(width), |start, [dx]| slopes(dx, [saved_rows, grad_rows], start / width, f));
    tensor(dx, saved)
}

/// `f(a) b` of each element.
pub(super) fn gate<F: Pointwise>(a: &Flat, b: &Flat, f: F) -> Flat {
    let mut places = [None, None];
    let [place_a, place_b] = &mut places;
    let (a_rows, b_rows) = (Matrix::rows_of(a, place_a), Matrix::rows_of(b, place_b));
    let width = a_rows.columns.max(1);
    let ([y], _) = in_parts(len(a), per_task(width), |start, [y]| gated(y, [a_rows, b_rows], start / width, f));
    tensor(y, a)
}

/// The gradients of [`gate`]. `f` must have its derivative by the input.
pub(super) fn gate_backward<F: Pointwise>(a: &Flat, b: &Flat, grad: &Flat, f: F) -> [Flat; 2] {
    let mut places = [None, None, None];
    let [place_a, place_b, place_grad] = &mut places;
    let rows = [Matrix::rows_of(a, place_a), Matrix::rows_of(b, place_b), Matrix::rows_of(grad, place_grad)];
    let width = rows[0].columns.max(1);
    let (gradients, _) = in_parts(len(a), per_task(width), |start, parts| gate_gradients(parts, rows, start / width, f));
    gradients.map(|gradient| tensor(gradient, a))
}

/// Whole rows of about [`TASK`] elements together.
fn per_task(width: usize) -> usize {
    (TASK / width).max(1) * width
}

vectorised! {
    fn [F: Pointwise] values<'a>(y: &'a mut [f32], x: Matrix<'a>, first: usize, f: F) -> () {
        for (n, y) in y.chunks_exact_mut(x.columns.max(1)).enumerate() {
            let x = x.row(first + n);
            for i in 0..y.len() {
                y[i] = f.value(x[i]);
            }
        }
    }
}

vectorised! {
    fn [F: Pointwise] slopes<'a>(dx: &'a mut [f32], rows: [Matrix<'a>; 2], first: usize, f: F) -> () {
        for (n, dx) in dx.chunks_exact_mut(rows[0].columns.max(1)).enumerate() {
            let [saved, grad] = [rows[0].row(first + n), rows[1].row(first + n)];
            for i in 0..dx.len() {
                dx[i] = grad[i] * f.slope(saved[i]);
            }
        }
    }
}

vectorised! {
    fn [F: Pointwise] gated<'a>(y: &'a mut [f32], rows: [Matrix<'a>; 2], first: usize, f: F) -> () {
        for (n, y) in y.chunks_exact_mut(rows[0].columns.max(1)).enumerate() {
            let [a, b] = [rows[0].row(first + n), rows[1].row(first + n)];
            for i in 0..y.len() {
                y[i] = f.value(a[i]) * b[i];
            }
        }
    }
}

vectorised! {
    fn [F: Pointwise] gate_gradients<'a>(gradients: [&'a mut [f32]; 2], rows: [Matrix<'a>; 3], first: usize, f: F) -> () {
        let [da, db] = gradients;
        let width = rows[0].columns.max(1);
        for (n, (da, db)) in da.chunks_exact_mut(width).zip(db.chunks_exact_mut(width)).enumerate() {
            let [a, b, grad] = [rows[0].row(first + n), rows[1].row(first + n), rows[2].row(first + n)];
            for i in 0..width {
                da[i] = grad[i] * b[i] * f.slope(a[i]);
                db[i] = grad[i] * f.value(a[i]);
            }
        }
    }
}

pub(super) fn len(x: &Flat) -> usize {
    x.layout().num_elements()
}

/// The elements of a contiguous f32 tensor.
pub(super) fn slice(x: &Flat) -> &[f32] {
    x.as_slice().expect("contiguous")
}

/// A tensor of the shape of `like`.
pub(super) fn tensor(values: Vec<f32>, like: &Flat) -> Flat {
    Flat::from_data(TensorData::new(values, like.layout().shape().clone()))
}
