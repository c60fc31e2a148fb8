use std::ops::Range;

use burn::{
    backend::{Flex, tensor::FloatTensor},
    tensor::TensorData,
};

use super::{activation::slice, parts::in_parts};
use crate::blocks::simd::vectorised;

type Flat = FloatTensor<Flex>;

/// Rows of a map per task when filters' gradients are summed: it fixes the order, whatever the number of threads.
const ROWS: usize = 4;

/// How a filter moves over a map.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    /// Rows and columns of a filter.
    pub(super) kernel: usize,
    pub(super) stride: usize,
    /// Rows and columns of zeros around the map.
    pub(super) padding: usize,
}

impl Plan {
    pub(super) fn output(&self, length: usize) -> usize {
        (length + 2 * self.padding - self.kernel) / self.stride + 1
    }

    /// The taps of the filter that lie on the map, for the output at `at`, and the input under the first of them.
    #[inline(always)]
    pub(super) fn taps(&self, at: usize, length: usize) -> (Range<usize>, usize) {
        let start = at * self.stride;
        let first = self.padding.saturating_sub(start).min(self.kernel);
        let end = (length + self.padding).saturating_sub(start).min(self.kernel);
        (first..end.max(first), start + first - self.padding.min(start + first))
    }

    /// The outputs, of so many, that read the input at `at`; the output o does so by the tap at + padding − o · stride.
    #[inline(always)]
    pub(super) fn readers(&self, at: usize, outputs: usize) -> Range<usize> {
        let last = (at + self.padding) / self.stride;
        (at + self.padding + 1).saturating_sub(self.kernel).div_ceil(self.stride)..(last + 1).min(outputs)
    }
}

/// Maps `[B, Y, X, C]` and filters `[taps, C]` in memory.
#[derive(Clone, Copy)]
struct Maps<'a> {
    plan: Plan,
    /// Rows, columns and channels of the larger map, which the filter moves over.
    y: usize,
    x: usize,
    c: usize,
    filters: &'a [f32],
}

impl Maps<'_> {
    fn outputs(&self) -> [usize; 2] {
        [self.plan.output(self.y), self.plan.output(self.x)]
    }
}

/// `[C, 1, k, k]` as `[taps, C]`.
fn by_tap(filters: &Flat, c: usize) -> Vec<f32> {
    let filters = filters.to_contiguous();
    let filters = slice(&filters);
    let taps = filters.len() / c;
    (0..taps * c).map(|i| filters[i % c * taps + i / c]).collect()
}

pub(super) fn dims(x: &Flat) -> [usize; 4] {
    let shape = x.layout().shape();
    std::array::from_fn(|i| shape[i])
}

/// The convolution of maps `x` with filters `[C, 1, k, k]`, one per channel, and biases `[C]`.
pub(super) fn forward(x: &Flat, filters: &Flat, bias: Option<&Flat>, plan: Plan) -> Flat {
    let [b, y, columns, c] = dims(x);
    let (x, filters, bias) = (x.to_contiguous(), by_tap(filters, c), bias.map(Flat::to_contiguous));
    let maps = Maps { plan, y, x: columns, c, filters: &filters };
    let [out_y, out_x] = maps.outputs();
    let none = vec![0.0; c];
    let bias = bias.as_ref().map_or(&none[..], |bias| slice(bias));
    let x = slice(&x);
    let ([out], _) = in_parts(b * out_y * out_x * c, out_x * c, |start, [row]| {
        let row_number = start / (out_x * c);
        convolve_row(maps, &x[row_number / out_y * y * columns * c..][..y * columns * c], row_number % out_y, bias, row);
    });
    Flat::from_data(TensorData::new(out, [b, out_y, out_x, c]))
}

vectorised! {
    /// One row of outputs.
    fn convolve_row<'a>(maps: Maps<'a>, x: &'a [f32], at_y: usize, bias: &'a [f32], out: &'a mut [f32]) -> () {
        let Maps { plan, y, x: columns, c, filters } = maps;
        let (rows, first_row) = plan.taps(at_y, y);
        for (at_x, out) in out.chunks_exact_mut(c).enumerate() {
            let (taps, first) = plan.taps(at_x, columns);
            out.copy_from_slice(bias);
            for (row, in_y) in rows.clone().zip(first_row..) {
                for (tap, in_x) in taps.clone().zip(first..) {
                    let x = &x[(in_y * columns + in_x) * c..][..c];
                    add_product(out, &filters[(row * plan.kernel + tap) * c..][..c], x);
                }
            }
        }
    }
}

#[inline(always)]
pub(super) fn add(sum: &mut [f32], a: &[f32]) {
    for (sum, a) in sum.iter_mut().zip(a) {
        *sum += a;
    }
}

#[inline(always)]
fn add_product(sum: &mut [f32], a: &[f32], b: &[f32]) {
    for ((sum, a), b) in sum.iter_mut().zip(a).zip(b) {
        *sum = a.mul_add(*b, *sum);
    }
}

/// The gradients of maps, filters and biases.
pub(super) fn backward(x: &Flat, filters: &Flat, grad: &Flat, plan: Plan) -> [Flat; 3] {
    let [b, y, columns, c] = dims(x);
    let shape: Vec<usize> = filters.layout().shape().iter().copied().collect();
    let (x, filters, grad) = (x.to_contiguous(), by_tap(filters, c), grad.to_contiguous());
    let maps = Maps { plan, y, x: columns, c, filters: &filters };
    let [out_y, out_x] = maps.outputs();
    let (x, grad) = (slice(&x), slice(&grad));
    let ([dx], _) = in_parts(b * y * columns * c, columns * c, |start, [row]| {
        let row_number = start / (columns * c);
        inputs_row(maps, &grad[row_number / y * out_y * out_x * c..][..out_y * out_x * c], row_number % y, row);
    });
    // The sums of a task, of the filters and then of the biases.
    let sums = filters.len() + c;
    let tasks = (b * out_y).div_ceil(ROWS);
    let ([parts], _) = in_parts(tasks * sums, sums, |start, [sums]| {
        let first = start / sums.len() * ROWS;
        for row in first..(first + ROWS).min(b * out_y) {
            let x = &x[row / out_y * y * columns * c..][..y * columns * c];
            filters_row(maps, x, row % out_y, &grad[row * out_x * c..][..out_x * c], sums);
        }
    });
    let mut total = vec![0.0_f32; sums];
    for part in parts.chunks_exact(sums) {
        total.iter_mut().zip(part).for_each(|(total, x)| *total += x);
    }
    let bias = total.split_off(filters.len());
    let taps = filters.len() / c;
    let filters = (0..total.len()).map(|i| total[i % taps * c + i / taps]).collect();
    [
        Flat::from_data(TensorData::new(dx, [b, y, columns, c])),
        Flat::from_data(TensorData::new::<f32, _>(filters, shape)),
        Flat::from_data(TensorData::new(bias, [c])),
    ]
}

vectorised! {
    /// One row of the gradient of the maps.
    fn inputs_row<'a>(maps: Maps<'a>, grad: &'a [f32], at_y: usize, out: &'a mut [f32]) -> () {
        let Maps { plan, c, filters, .. } = maps;
        let [out_y, out_x] = maps.outputs();
        let Plan { kernel, stride, padding } = plan;
        for (at_x, out) in out.chunks_exact_mut(c).enumerate() {
            for from_y in plan.readers(at_y, out_y).rev() {
                for from_x in plan.readers(at_x, out_x).rev() {
                    let tap = (at_y + padding - from_y * stride) * kernel + at_x + padding - from_x * stride;
                    add_product(out, &filters[tap * c..][..c], &grad[(from_y * out_x + from_x) * c..][..c]);
                }
            }
        }
    }
}

vectorised! {
    /// Adds what one row of outputs contributes to the gradients of filters and biases.
    fn filters_row<'a>(maps: Maps<'a>, x: &'a [f32], at_y: usize, grad: &'a [f32], sums: &'a mut [f32]) -> () {
        let Maps { plan, y, x: columns, c, filters } = maps;
        let (sums, bias) = sums.split_at_mut(filters.len());
        let (rows, first_row) = plan.taps(at_y, y);
        for (at_x, grad) in grad.chunks_exact(c).enumerate() {
            let (taps, first) = plan.taps(at_x, columns);
            for (row, in_y) in rows.clone().zip(first_row..) {
                for (tap, in_x) in taps.clone().zip(first..) {
                    let x = &x[(in_y * columns + in_x) * c..][..c];
                    add_product(&mut sums[(row * plan.kernel + tap) * c..][..c], grad, x);
                }
            }
            add(bias, grad);
        }
    }
}
