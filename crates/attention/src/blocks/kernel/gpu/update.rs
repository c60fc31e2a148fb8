//! A step of AdamW, and sums of squares.

use burn::tensor::DType;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::{Flat, Span};
use crate::blocks::{
    adamw::AdamWStep,
    cube::{element, empty, tensors::buffer, tile_product::PLANE},
};

#[cube(launch_unchecked, address_type = "dynamic")]
fn step_kernel<N: Size>(
    old: &[Vector<f32, N>],
    grad: &[Vector<f32, N>],
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
) {
    let at = ABSOLUTE_POS;
    if at < count {
        let g = grad[at];
        let mean = Vector::new(beta1) * old_m[at] + Vector::new(1.0f32 - beta1) * g;
        let square = Vector::new(beta2) * old_v[at] + Vector::new(1.0f32 - beta2) * g * g;
        m[at] = mean;
        v[at] = square;
        let root = (square * Vector::new(second)).sqrt() + Vector::new(epsilon);
        theta[at] = Vector::new(keep) * old[at] - Vector::new(rate * first) * mean / root;
    }
}

/// Parameter, first and second moment after a step; all contiguous and in f32.
pub(super) fn adamw([old, grad, m, v]: [&Flat; 4], step: AdamWStep) -> [CubeTensor; 3] {
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
        );
    }
    out
}

/// Units of a cube.
const UNITS: usize = 1024;

/// Sums of squares, one for each cube.
#[cube(launch_unchecked, address_type = "dynamic")]
fn squares_kernel<E: Float, N: Size>(x: &[Vector<E, N>], out: &mut [f32], count: usize, #[define(E)] _type: ElemType) {
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
        out[CUBE_POS] = all;
    }
}

/// Numbers in f32 whose sum is `Σ x²`, of a contiguous tensor.
pub(super) fn sum_of_squares(x: &Flat) -> CubeTensor {
    let span = Span::of(x);
    // Two cubes per processor, with some work for each unit.
    let processors = x.client.properties().hardware.num_streaming_multiprocessors.unwrap_or(16) as usize;
    let cubes = span.vectors.div_ceil(8 * UNITS).clamp(1, 2 * processors);
    let parts = empty(x, [cubes], DType::F32);
    // SAFETY: units past the end read nothing, and there is a number for each cube.
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
            element(x),
        );
    }
    parts
}
