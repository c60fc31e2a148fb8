//! A step of AdamW, and the norm of a gradient.

use burn::tensor::DType;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::{Flat, Span};
use crate::blocks::{
    adamw::AdamWStep,
    cube::{element, empty, tensors::buffer, tile_product::PLANE},
};

#[cube(launch_unchecked, address_type = "dynamic")]
fn step_kernel<E: Float, N: Size>(
    old: &[Vector<f32, N>],
    grad: &[Vector<E, N>],
    factor: &[f32],
    old_m: &[Vector<f32, N>],
    old_v: &[Vector<f32, N>],
    theta: &mut [Vector<f32, N>],
    m: &mut [Vector<f32, N>],
    v: &mut [Vector<f32, N>],
    count: usize,
    rate: f32,
    beta1: f32,
    beta2: f32,
    epsilon: f32,
    keep: f32,
    first: f32,
    second: f32,
    #[comptime] scaled: bool,
    #[define(E)] _type: ElemType,
) {
    let at = ABSOLUTE_POS;
    if at < count {
        let mut g = Vector::<f32, N>::cast_from(grad[at]);
        if comptime!(scaled) {
            g *= Vector::new(factor[0]);
        }
        let mean = Vector::new(beta1) * old_m[at] + Vector::new(1.0f32 - beta1) * g;
        let square = Vector::new(beta2) * old_v[at] + Vector::new(1.0f32 - beta2) * g * g;
        m[at] = mean;
        v[at] = square;
        let root = (square * Vector::new(second)).sqrt() + Vector::new(epsilon);
        theta[at] = Vector::new(keep) * old[at] - Vector::new(rate * first) * mean / root;
    }
}

/// Parameter, first and second moment after a step; all contiguous and, but for the gradient, in f32.
pub(super) fn adamw([old, m, v]: &[Flat; 3], grad: &Flat, factor: Option<&Flat>, step: AdamWStep) -> [CubeTensor; 3] {
    let span = Span::of(old);
    let out = [old, m, v].map(super::like);
    let AdamWStep { rate, beta1, beta2, epsilon, decay, time } = step;
    let (first, second) = (1.0 / (1.0 - beta1.powi(time)), 1.0 / (1.0 - beta2.powi(time)));
    // SAFETY: units past the end write nothing, and all have as many elements.
    unsafe {
        step_kernel::launch_unchecked(
            &old.client,
            span.cubes(),
            span.cube(),
            span.address,
            span.vector,
            buffer(old),
            buffer(grad),
            buffer(factor.unwrap_or(old)),
            buffer(m),
            buffer(v),
            buffer(&out[0]),
            buffer(&out[1]),
            buffer(&out[2]),
            span.vectors,
            rate,
            beta1,
            beta2,
            epsilon,
            1.0 - rate * decay,
            first,
            second,
            factor.is_some(),
            element(grad),
        );
    }
    out
}

/// Units of a cube.
const UNITS: usize = 1024;

/// Sums of squares, one for each cube, from place `first` on.
#[cube(launch_unchecked, address_type = "dynamic")]
fn squares_kernel<E: Float, N: Size>(x: &[Vector<E, N>], out: &mut [f32], count: usize, first: usize, #[define(E)] _type: ElemType) {
    let mut planes = Shared::<[f32]>::new_slice(comptime!(UNITS / PLANE));
    let mut sums = Vector::<f32, N>::new(0.0f32);
    let mut at = ABSOLUTE_POS;
    while at < count {
        let values = Vector::<f32, N>::cast_from(x[at]);
        sums += values * values;
        at += CUBE_COUNT * UNITS;
    }
    let mut sum = 0.0f32;
    #[unroll]
    for i in 0..N::value().comptime() {
        sum += sums.extract(i);
    }
    let sum = plane_sum(sum);
    if UNIT_POS_PLANE == 0 {
        planes[UNIT_POS as usize / PLANE] = sum;
    }
    sync_cube();
    if UNIT_POS == 0 {
        let mut all = 0.0f32;
        for plane in 0..comptime!(UNITS / PLANE) {
            all += planes[plane];
        }
        out[first + CUBE_POS] = all;
    }
}

/// The root of the sum of some numbers, by one cube.
#[cube(launch_unchecked)]
fn root_kernel(parts: &[f32], out: &mut [f32], count: usize) {
    let mut planes = Shared::<[f32]>::new_slice(comptime!(UNITS / PLANE));
    let mut sum = 0.0f32;
    let mut at = UNIT_POS as usize;
    while at < count {
        sum += parts[at];
        at += UNITS;
    }
    let sum = plane_sum(sum);
    if UNIT_POS_PLANE == 0 {
        planes[UNIT_POS as usize / PLANE] = sum;
    }
    sync_cube();
    if UNIT_POS == 0 {
        let mut all = 0.0f32;
        for plane in 0..comptime!(UNITS / PLANE) {
            all += planes[plane];
        }
        out[0] = all.sqrt();
    }
}

/// `√Σ x²` over all numbers of contiguous tensors, in one order; nothing without tensors.
pub(super) fn norm_of_all(tensors: &[Flat]) -> Option<CubeTensor> {
    let like = tensors.first()?;
    let processors = like.client.properties().hardware.num_streaming_multiprocessors.unwrap_or(16) as usize;
    // Two cubes per processor, with some work for each unit.
    let cubes = |span: &Span| span.vectors.div_ceil(8 * UNITS).clamp(1, 2 * processors);
    let spans: Vec<Span> = tensors.iter().map(Span::of).collect();
    let count = spans.iter().map(cubes).sum();
    let (parts, out) = (empty(like, [count], DType::F32), empty(like, [1], DType::F32));
    let mut first = 0;
    for (x, span) in tensors.iter().zip(&spans) {
        let cubes = cubes(span);
        // SAFETY: units past the end read nothing, and there is a place for each cube.
        unsafe {
            squares_kernel::launch_unchecked(
                &x.client,
                CubeCount::Static(cubes as u32, 1, 1),
                CubeDim::new_1d(UNITS as u32),
                span.address,
                span.vector,
                buffer(x),
                buffer(&parts),
                span.vectors,
                first,
                element(x),
            );
        }
        first += cubes;
    }
    // SAFETY: it reads the numbers that there are.
    unsafe {
        root_kernel::launch_unchecked(
            &like.client,
            CubeCount::Static(1, 1, 1),
            CubeDim::new_1d(UNITS as u32),
            buffer(&parts),
            buffer(&out),
            count,
        );
    }
    Some(out)
}
