//! Cross entropy of rows of logits, whose softmax is never stored.

use burn::tensor::DType;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::{Flat, vector_of};
use crate::blocks::cube::{address_type, element, empty, tensors::buffer, tile_product::PLANE};

/// Planes of a cube, which has a row.
const PLANES: usize = 8;

/// The log-sum-exp of each row and that less the logit of its target; a row whose target is `ignore` has loss 0.
#[cube(launch_unchecked, address_type = "dynamic")]
fn forward_kernel<E: Float, N: Size>(
    logits: &[Vector<E, N>],
    targets: &[i32],
    losses: &mut [f32],
    log_sums: &mut [f32],
    width: usize,
    ignore: i32,
    #[define(E)] _type: ElemType,
) {
    let size = N::value().comptime();
    let mut tops = Shared::<[f32]>::new_slice(PLANES);
    let mut sums = Shared::<[f32]>::new_slice(PLANES);
    let row = CUBE_POS;
    // Each unit keeps the largest of its logits and the sum of exponentials relative to it.
    let mut top = f32::new(f32::MIN);
    let mut sum = 0.0f32;
    let mut column = UNIT_POS as usize;
    while column < width {
        let values = Vector::<f32, N>::cast_from(logits[row * width + column]);
        let mut highest = top;
        #[unroll]
        for i in 0..size {
            highest = f32::max(highest, values.extract(i));
        }
        sum *= (top - highest).exp();
        let powers = (values - Vector::new(highest)).exp();
        #[unroll]
        for i in 0..size {
            sum += powers.extract(i);
        }
        top = highest;
        column += comptime!(PLANES * PLANE);
    }
    let highest = plane_max(top);
    let sum = plane_sum(sum * (top - highest).exp());
    if UNIT_POS_PLANE == 0 {
        tops[UNIT_POS as usize / PLANE] = highest;
        sums[UNIT_POS as usize / PLANE] = sum;
    }
    sync_cube();
    if UNIT_POS == 0 {
        let mut top = tops[0];
        #[unroll]
        for plane in 1..PLANES {
            top = f32::max(top, tops[plane]);
        }
        let mut sum = 0.0f32;
        #[unroll]
        for plane in 0..PLANES {
            sum += sums[plane] * (tops[plane] - top).exp();
        }
        let rest = sum.ln();
        log_sums[row] = top + rest;
        let target = targets[row];
        let mut loss = 0.0f32;
        if target != ignore {
            let at = target as usize;
            let values = Vector::<f32, N>::cast_from(logits[row * width + at / size]);
            #[unroll]
            for i in 0..size {
                if at % size == i {
                    // The largest logit first: it may be far larger than the loss.
                    loss = rest - (values.extract(i) - top);
                }
            }
        }
        losses[row] = loss;
    }
}

/// `(softmax(x) − 1[target]) g` of each row.
#[cube(launch_unchecked, address_type = "dynamic")]
fn backward_kernel<E: Float, N: Size>(
    logits: &[Vector<E, N>],
    targets: &[i32],
    log_sums: &[f32],
    grad: &[f32],
    out: &mut [Vector<E, N>],
    width: usize,
    ignore: i32,
    #[define(E)] _type: ElemType,
) {
    let size = N::value().comptime();
    let row = CUBE_POS;
    let target = targets[row];
    let mut factor = 0.0f32;
    let mut at = width * size;
    if target != ignore {
        factor = grad[row];
        at = target as usize;
    }
    let log_sum = log_sums[row];
    let mut column = UNIT_POS as usize;
    while column < width {
        let values = Vector::<f32, N>::cast_from(logits[row * width + column]);
        let mut shares = (values - Vector::new(log_sum)).exp();
        if at / size == column {
            #[unroll]
            for i in 0..size {
                if at % size == i {
                    let share = shares.extract(i);
                    shares.insert(i, share - 1.0f32);
                }
            }
        }
        out[row * width + column] = Vector::cast_from(shares * Vector::new(factor));
        column += comptime!(PLANES * PLANE);
    }
}

fn shape(logits: &Flat) -> (usize, usize, usize) {
    let width = logits.meta.shape()[1];
    (logits.meta.shape()[0], width, vector_of(logits.dtype, width))
}

/// Losses and log-sum-exps of the rows; all contiguous, targets of 32 bits.
pub(super) fn forward(logits: &Flat, targets: &Flat, ignore: i32) -> [CubeTensor; 2] {
    let (rows, width, vector) = shape(logits);
    let (losses, log_sums) = (empty(logits, [rows], DType::F32), empty(logits, [rows], DType::F32));
    // SAFETY: there is a cube for each row; a target is a class or `ignore`, by the caller's promise.
    unsafe {
        forward_kernel::launch_unchecked(
            &logits.client,
            CubeCount::Static(rows as u32, 1, 1),
            CubeDim::new_1d((PLANES * PLANE) as u32),
            address_type(&[logits]),
            vector,
            buffer(logits),
            buffer(targets),
            buffer(&losses),
            buffer(&log_sums),
            width / vector,
            ignore,
            element(logits),
        );
    }
    [losses, log_sums]
}

/// The gradient of the logits for that of the losses; all contiguous.
pub(super) fn backward(logits: &Flat, targets: &Flat, [log_sums, grad]: [&Flat; 2], ignore: i32) -> CubeTensor {
    let (rows, width, vector) = shape(logits);
    let out = super::like(logits);
    // SAFETY: as in `forward`.
    unsafe {
        backward_kernel::launch_unchecked(
            &logits.client,
            CubeCount::Static(rows as u32, 1, 1),
            CubeDim::new_1d((PLANES * PLANE) as u32),
            address_type(&[logits, &out]),
            vector,
            buffer(logits),
            buffer(targets),
            buffer(log_sums),
            buffer(grad),
            buffer(&out),
            width / vector,
            ignore,
            element(logits),
        );
    }
    out
}
