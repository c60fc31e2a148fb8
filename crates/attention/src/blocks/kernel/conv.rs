//! Convolutions over all channels: products of the patches of a map with the filters. Patches of a few maps are laid out at a time, so that
//! memory does not grow with the batch; what the backward pass needs of them is laid out again.

use std::{borrow::Cow, ops::Range};

use burn::{
    backend::{DispatchTensor, Flex, tensor::FloatTensor},
    tensor::TensorData,
};
use rayon::prelude::*;

use super::{
    activation::slice,
    depthwise::{Plan, add, dims},
    linear::{column_sums, product_at},
    matrix::{Matrix, Target},
    parts::in_parts,
};
use crate::blocks::{
    custom_gradient::{GradientRule, of_backend, primitive},
    simd::vectorised,
};

type Flat = FloatTensor<Flex>;

/// Numbers of patches that are laid out at a time, unless one map has more.
const LAID_OUT: usize = 2 << 20;

/// Maps `[Y, X, C]` and what moves over them.
#[derive(Clone, Copy)]
struct Maps {
    plan: Plan,
    count: usize,
    y: usize,
    x: usize,
    c: usize,
}

impl Maps {
    fn new(x: &Flat, plan: Plan) -> Self {
        let [count, y, x, c] = dims(x);
        Self { plan, count, y, x, c }
    }

    fn outputs(self) -> [usize; 2] {
        [self.plan.output(self.y), self.plan.output(self.x)]
    }

    /// Patches of a map.
    fn rows(self) -> usize {
        self.outputs().iter().product()
    }

    /// Numbers of a patch.
    fn inner(self) -> usize {
        self.plan.kernel * self.plan.kernel * self.c
    }

    /// Numbers of a map.
    fn len(self) -> usize {
        self.y * self.x * self.c
    }

    /// Whether the patches lie in the maps as they are.
    fn plain(self) -> bool {
        (self.plan.kernel, self.plan.stride, self.plan.padding) == (1, 1, 0)
    }

    /// The maps in groups whose patches are laid out together.
    fn groups(self) -> impl Iterator<Item = Range<usize>> {
        let size = if self.plain() { self.count } else { (LAID_OUT / (self.rows() * self.inner()).max(1)).clamp(1, self.count.max(1)) };
        (0..self.count).step_by(size.max(1)).map(move |start| start..self.count.min(start + size))
    }

    /// The patches of a group of maps, a row each.
    fn patches(self, x: &[f32]) -> Cow<'_, [f32]> {
        if self.plain() {
            return Cow::Borrowed(x);
        }
        let ([out_y, out_x], inner) = (self.outputs(), self.inner());
        let count = x.len() / self.len();
        let ([patches], _) = in_parts(count * out_y * out_x * inner, out_x * inner, |start, [row]| {
            let row_number = start / (out_x * inner);
            self.lay_out(&x[row_number / out_y * self.len()..][..self.len()], row_number % out_y, row);
        });
        Cow::Owned(patches)
    }

    /// The patches of a row of outputs; what lies outside of the map stays 0.
    fn lay_out(self, x: &[f32], at_y: usize, out: &mut [f32]) {
        let Self { plan, y, x: columns, c, .. } = self;
        let (rows, first_row) = plan.taps(at_y, y);
        for (at_x, patch) in out.chunks_exact_mut(self.inner()).enumerate() {
            let (taps, first) = plan.taps(at_x, columns);
            let len = taps.len() * c;
            for (row, in_y) in rows.clone().zip(first_row..) {
                let from = &x[(in_y * columns + first) * c..][..len];
                patch[(row * plan.kernel + taps.start) * c..][..len].copy_from_slice(from);
            }
        }
    }
}

vectorised! {
    /// Adds what the patches of a map have for one of its rows: the reverse of laying out.
    fn gather_row<'a>(maps: Maps, patches: &'a [f32], at_y: usize, out: &'a mut [f32]) -> () {
        let Maps { plan, y, x: columns, c, .. } = maps;
        let ([out_y, out_x], inner) = (maps.outputs(), maps.inner());
        debug_assert!(at_y < y);
        for from_y in plan.readers(at_y, out_y) {
            let row = at_y + plan.padding - from_y * plan.stride;
            for from_x in 0..out_x {
                let (taps, first) = plan.taps(from_x, columns);
                let patch = &patches[(from_y * out_x + from_x) * inner + (row * plan.kernel + taps.start) * c..];
                add(&mut out[first * c..][..taps.len() * c], patch);
            }
        }
    }
}

/// `[C', C, k, k]` as a row per filter, `[k, k, C]`.
fn by_patch(filters: &Flat) -> Vec<f32> {
    let [to, c, kernel, _] = dims(filters);
    turned(slice(filters), to, c, kernel * kernel)
}

/// Each of `count` matrices of `rows` × `columns` turned over.
fn turned(x: &[f32], count: usize, rows: usize, columns: usize) -> Vec<f32> {
    let len = rows * columns;
    let mut out = vec![0.0_f32; count * len];
    out.par_chunks_mut(len.max(1)).zip(x.par_chunks(len.max(1))).with_min_len(16).for_each(|(out, x)| {
        for (i, out) in out.chunks_exact_mut(rows.max(1)).enumerate() {
            out.iter_mut().zip(x[i..].iter().step_by(columns)).for_each(|(out, x)| *out = *x);
        }
    });
    out
}

/// A matrix whose rows lie one after another.
fn matrix(values: &[f32], columns: usize) -> Matrix<'_> {
    Matrix { values, rows: values.len() / columns.max(1), columns, row_stride: columns, column_stride: 1 }
}

/// The convolution of maps `x` with filters `[C', C, k, k]`, both contiguous, and biases `[C']`.
pub(super) fn forward(x: &Flat, filters: &Flat, bias: Option<&Flat>, plan: Plan) -> Flat {
    let (maps, [to, ..]) = (Maps::new(x, plan), dims(filters));
    let (filters, bias) = (by_patch(filters), bias.map(Flat::to_contiguous));
    let (x, filters) = (slice(x), matrix(&filters, maps.inner()).transposed());
    let len = maps.count * maps.rows() * to;
    let mut out = Vec::with_capacity(len);
    if let Some(bias) = &bias {
        (0..maps.count * maps.rows()).for_each(|_| out.extend_from_slice(slice(bias)));
    }
    let target = Target::new(&mut out);
    for group in maps.groups() {
        let patches = maps.patches(&x[group.start * maps.len()..group.end * maps.len()]);
        // SAFETY: each group has its own rows of `out`, which has room for them all; with biases these have been written.
        unsafe { product_at(target.at(group.start * maps.rows() * to), to, &[(matrix(&patches, maps.inner()), filters)], bias.is_some()) };
    }
    // SAFETY: the groups have written every element.
    unsafe { out.set_len(len) };
    let [out_y, out_x] = maps.outputs();
    Flat::from_data(TensorData::new(out, [maps.count, out_y, out_x, to]))
}

/// Maps and filters, contiguous, saved for the gradients.
#[derive(Debug)]
pub(super) struct Saved {
    pub(super) x: Flat,
    pub(super) filters: Flat,
    pub(super) plan: Plan,
}

impl<const I: usize> GradientRule<I> for Saved {
    fn gradients(&self, upstream: DispatchTensor, wanted: [bool; I]) -> [Option<DispatchTensor>; I] {
        let grad = primitive::<Flex>(upstream).to_contiguous();
        let maps = Maps::new(&self.x, self.plan);
        std::array::from_fn(|input| {
            let gradient = || match input {
                0 => self.of_maps(maps, slice(&grad)),
                1 => self.of_filters(maps, slice(&grad)),
                _ => {
                    let sums = column_sums(matrix(slice(&grad), dims(&self.filters)[0]));
                    let len = sums.len();
                    Flat::from_data(TensorData::new(sums, [len]))
                }
            };
            wanted[input].then(gradient).map(of_backend::<Flex>)
        })
    }
}

impl Saved {
    fn of_maps(&self, maps: Maps, grad: &[f32]) -> Flat {
        let [to, ..] = dims(&self.filters);
        let filters = by_patch(&self.filters);
        let (filters, inner) = (matrix(&filters, maps.inner()), maps.inner());
        let row = maps.x * maps.c;
        let mut out = Vec::new();
        if !maps.plain() {
            out.resize(maps.count * maps.len(), 0.0_f32);
        }
        for group in maps.groups() {
            let grad = matrix(&grad[group.start * maps.rows() * to..group.end * maps.rows() * to], to);
            let mut patches = Vec::with_capacity(grad.rows * inner);
            // SAFETY: there is room for the product, which writes every element.
            unsafe {
                product_at(Target::new(&mut patches), inner, &[(grad, filters)], false);
                patches.set_len(grad.rows * inner);
            }
            if maps.plain() {
                // One group, whose patches are the maps.
                out = patches;
                continue;
            }
            let out = &mut out[group.start * maps.len()..group.end * maps.len()];
            out.par_chunks_mut(row).enumerate().for_each(|(i, out)| {
                gather_row(maps, &patches[i / maps.y * maps.rows() * inner..][..maps.rows() * inner], i % maps.y, out);
            });
        }
        Flat::from_data(TensorData::new(out, [maps.count, maps.y, maps.x, maps.c]))
    }

    fn of_filters(&self, maps: Maps, grad: &[f32]) -> Flat {
        let [to, c, kernel, _] = dims(&self.filters);
        let (x, inner) = (slice(&self.x), maps.inner());
        let mut out = vec![0.0_f32; to * inner];
        for group in maps.groups() {
            let grad = matrix(&grad[group.start * maps.rows() * to..group.end * maps.rows() * to], to);
            let patches = maps.patches(&x[group.start * maps.len()..group.end * maps.len()]);
            // SAFETY: the sums are `out`, all of it written.
            unsafe { product_at(Target::of(&mut out), inner, &[(grad.transposed(), matrix(&patches, inner))], true) };
        }
        Flat::from_data(TensorData::new(turned(&out, to, kernel * kernel, c), [to, c, kernel, kernel]))
    }
}
