//! Activations and gates, element by element.

use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::{Flat, Span};
use crate::blocks::cube::{element, tensors::buffer};

/// A function of one number, computed in f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Activation {
    /// `x Φ(x)`
    Gelu,
    /// `x/2 · (1 + tanh(√(2/π) (x + 0.044715 x³)))`
    GeluTanh,
    /// `x / (1 + exp(−x))`
    Silu,
    /// `1 / (1 + exp(−x))`
    Sigmoid,
    /// `x`
    Identity,
}

/// 2 √(2/π)
const TWICE: f32 = 1.595_769_1;
const CUBIC: f32 = 0.044_715;

#[cube]
fn sigmoid<N: Size>(x: Vector<f32, N>) -> Vector<f32, N> {
    let one = Vector::new(1.0f32);
    one / (one + (-x).exp())
}

#[cube]
fn value<N: Size>(x: Vector<f32, N>, #[comptime] f: Activation) -> Vector<f32, N> {
    if comptime!(f == Activation::Gelu) {
        Vector::new(0.5f32) * x * (Vector::new(1.0f32) + Vector::erf(x * Vector::new(std::f32::consts::FRAC_1_SQRT_2)))
    } else if comptime!(f == Activation::GeluTanh) {
        // 1 + tanh(u) = 2 σ(2 u)
        x * sigmoid::<N>(Vector::new(TWICE) * x * (Vector::new(1.0f32) + Vector::new(CUBIC) * x * x))
    } else if comptime!(f == Activation::Silu) {
        x * sigmoid::<N>(x)
    } else if comptime!(f == Activation::Sigmoid) {
        sigmoid::<N>(x)
    } else {
        x
    }
}

#[cube]
fn slope<N: Size>(x: Vector<f32, N>, #[comptime] f: Activation) -> Vector<f32, N> {
    let one = Vector::new(1.0f32);
    if comptime!(f == Activation::Gelu) {
        let below = Vector::new(0.5f32) * (one + Vector::erf(x * Vector::new(std::f32::consts::FRAC_1_SQRT_2)));
        // φ(x) = exp(−x²/2) / √(2π)
        below + x * Vector::new(0.398_942_3_f32) * (Vector::new(-0.5f32) * x * x).exp()
    } else if comptime!(f == Activation::GeluTanh) {
        let s = sigmoid::<N>(Vector::new(TWICE) * x * (one + Vector::new(CUBIC) * x * x));
        s + x * s * (one - s) * Vector::new(TWICE) * (one + Vector::new(comptime!(3.0 * CUBIC)) * x * x)
    } else if comptime!(f == Activation::Silu) {
        let s = sigmoid::<N>(x);
        s * (one + x * (one - s))
    } else if comptime!(f == Activation::Sigmoid) {
        let s = sigmoid::<N>(x);
        s * (one - s)
    } else {
        one
    }
}

#[cube(launch_unchecked, address_type = "dynamic")]
fn map_kernel<E: Float, N: Size>(
    x: &[Vector<E, N>],
    y: &mut [Vector<E, N>],
    count: usize,
    #[comptime] f: Activation,
    #[define(E)] _type: ElemType,
) {
    let at = ABSOLUTE_POS;
    if at < count {
        y[at] = Vector::cast_from(value::<N>(Vector::<f32, N>::cast_from(x[at]), f));
    }
}

#[cube(launch_unchecked, address_type = "dynamic")]
fn map_backward_kernel<E: Float, N: Size>(
    x: &[Vector<E, N>],
    dy: &[Vector<E, N>],
    dx: &mut [Vector<E, N>],
    count: usize,
    #[comptime] f: Activation,
    #[define(E)] _type: ElemType,
) {
    let at = ABSOLUTE_POS;
    if at < count {
        dx[at] = Vector::cast_from(slope::<N>(Vector::<f32, N>::cast_from(x[at]), f) * Vector::<f32, N>::cast_from(dy[at]));
    }
}

#[cube(launch_unchecked, address_type = "dynamic")]
fn gate_kernel<E: Float, N: Size>(
    a: &[Vector<E, N>],
    b: &[Vector<E, N>],
    y: &mut [Vector<E, N>],
    count: usize,
    #[comptime] f: Activation,
    #[define(E)] _type: ElemType,
) {
    let at = ABSOLUTE_POS;
    if at < count {
        y[at] = Vector::cast_from(value::<N>(Vector::<f32, N>::cast_from(a[at]), f) * Vector::<f32, N>::cast_from(b[at]));
    }
}

#[cube(launch_unchecked, address_type = "dynamic")]
fn gate_backward_kernel<E: Float, N: Size>(
    a: &[Vector<E, N>],
    b: &[Vector<E, N>],
    dy: &[Vector<E, N>],
    da: &mut [Vector<E, N>],
    db: &mut [Vector<E, N>],
    count: usize,
    #[comptime] f: Activation,
    #[define(E)] _type: ElemType,
) {
    let at = ABSOLUTE_POS;
    if at < count {
        let x = Vector::<f32, N>::cast_from(a[at]);
        let grad = Vector::<f32, N>::cast_from(dy[at]);
        da[at] = Vector::cast_from(grad * Vector::<f32, N>::cast_from(b[at]) * slope::<N>(x, f));
        db[at] = Vector::cast_from(grad * value::<N>(x, f));
    }
}

/// `f(x)` of a contiguous tensor.
pub(super) fn map(x: &Flat, f: Activation) -> CubeTensor {
    let (span, y) = (Span::of(x), super::like(x));
    // SAFETY: units past the end write nothing, and both have as many elements.
    unsafe {
        map_kernel::launch_unchecked(
            &x.client,
            span.cubes(),
            span.cube(),
            span.address,
            span.vector,
            buffer(x),
            buffer(&y),
            span.vectors,
            f,
            element(x),
        );
    }
    y
}

/// `f'(x) dy`, of contiguous tensors.
pub(super) fn map_backward(x: &Flat, dy: &Flat, f: Activation) -> CubeTensor {
    let (span, dx) = (Span::of(x), super::like(x));
    // SAFETY: as in `map`.
    unsafe {
        map_backward_kernel::launch_unchecked(
            &x.client,
            span.cubes(),
            span.cube(),
            span.address,
            span.vector,
            buffer(x),
            buffer(dy),
            buffer(&dx),
            span.vectors,
            f,
            element(x),
        );
    }
    dx
}

/// `f(a) b`, of contiguous tensors.
pub(super) fn gate(a: &Flat, b: &Flat, f: Activation) -> CubeTensor {
    let (span, y) = (Span::of(a), super::like(a));
    // SAFETY: as in `map`.
    unsafe {
        gate_kernel::launch_unchecked(
            &a.client,
            span.cubes(),
            span.cube(),
            span.address,
            span.vector,
            buffer(a),
            buffer(b),
            buffer(&y),
            span.vectors,
            f,
            element(a),
        );
    }
    y
}

/// `f'(a) b dy` and `f(a) dy`, of contiguous tensors.
pub(super) fn gate_backward([a, b]: [&Flat; 2], dy: &Flat, f: Activation) -> [CubeTensor; 2] {
    let (span, da, db) = (Span::of(a), super::like(a), super::like(a));
    // SAFETY: as in `map`.
    unsafe {
        gate_backward_kernel::launch_unchecked(
            &a.client,
            span.cubes(),
            span.cube(),
            span.address,
            span.vector,
            buffer(a),
            buffer(b),
            buffer(dy),
            buffer(&da),
            buffer(&db),
            span.vectors,
            f,
            element(a),
        );
    }
    [da, db]
}
