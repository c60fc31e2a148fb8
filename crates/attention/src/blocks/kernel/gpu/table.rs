//! The gradient of rows that were looked up in a table.

use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::{Flat, vector_of};
use crate::blocks::cube::{address_type, element, empty, tensors::buffer, tile_product::PLANE};

/// Planes of a cube, which has a row of the table: each looks through a part of the ids.
const PLANES: usize = 8;
/// Vectors of a row that a unit holds.
const TURNS: usize = 4;

/// Ids that a unit reads at once.
const AHEAD: usize = 8;

/// Row `r` of the table's gradient is the sum of the rows of `grad` whose id is `r`, in their order: no atomic operations, so the same
/// bits every time. The columns of a wide row are cut among cubes along y.
#[cube(launch_unchecked, address_type = "dynamic")]
fn kernel<E: Float, N: Size>(
    ids: &[i32],
    grad: &[Vector<E, N>],
    out: &mut [Vector<E, N>],
    count: usize,
    width: usize,
    #[define(E)] _type: ElemType,
) {
    let size = N::value().comptime();
    let mut found = Shared::<[u32]>::new_slice(PLANES);
    let mut sums = Shared::<[f32]>::new_slice(comptime!(TURNS * PLANE * size));
    let row = CUBE_POS_X as usize;
    let first = CUBE_POS_Y as usize * comptime!(TURNS * PLANE);
    let plane = UNIT_POS as usize / PLANE;
    let lane = UNIT_POS_PLANE as usize;
    let share = count.div_ceil(PLANES);
    let end = clamp_max((plane + 1) * share, count);
    let mut own = Array::<Vector<f32, N>>::new(TURNS);
    #[unroll]
    for turn in 0..TURNS {
        own[turn] = Vector::new(0.0f32);
    }
    let mut any = 0u32;
    let mut start = plane * share;
    while start < end {
        // Several loads before the first is needed.
        let mut read = Array::<i32>::new(AHEAD);
        #[unroll]
        for i in 0..AHEAD {
            let at = start + comptime!(i * PLANE) + lane;
            read[i] = -1i32;
            if at < end {
                read[i] = ids[at];
            }
        }
        #[unroll]
        for i in 0..AHEAD {
            let mut hits = plane_ballot(read[i] == row as i32).extract(0usize);
            any = any | hits;
            while hits != 0u32 {
                let bit = u32::find_first_set(hits) - 1u32;
                hits = hits & (hits - 1u32);
                let from = (start + comptime!(i * PLANE) + bit as usize) * width;
                #[unroll]
                for turn in 0..TURNS {
                    let column = first + lane + turn * PLANE;
                    if column < width {
                        own[turn] += Vector::<f32, N>::cast_from(grad[from + column]);
                    }
                }
            }
        }
        start += comptime!(AHEAD * PLANE);
    }
    if lane == 0 {
        found[plane] = any;
    }
    sync_cube();
    let mut planes = 0u32;
    #[unroll]
    for i in 0..PLANES {
        planes = planes | found[i];
    }
    if planes != 0u32 {
        // One plane after another: the sum has one order.
        #[unroll]
        for i in 0..PLANES {
            if plane == i {
                #[unroll]
                for turn in 0..TURNS {
                    #[unroll]
                    for j in 0..size {
                        let at = (lane + turn * PLANE) * size + j;
                        let before = if comptime!(i == 0) { 0.0f32.runtime() } else { sums[at] };
                        sums[at] = before + own[turn].extract(j);
                    }
                }
            }
            sync_cube();
        }
    }
    let mut at = UNIT_POS as usize;
    while at < comptime!(TURNS * PLANE) && first + at < width {
        let mut value = Vector::<f32, N>::new(0.0f32);
        if planes != 0u32 {
            #[unroll]
            for j in 0..size {
                value.insert(j, sums[at * size + j]);
            }
        }
        out[row * width + first + at] = Vector::cast_from(value);
        at += comptime!(PLANES * PLANE);
    }
}

/// The gradient of a table with `rows` rows for that of the rows `ids`; all contiguous, ids of 32 bits.
pub(super) fn backward(ids: &Flat, grad: &Flat, rows: usize) -> CubeTensor {
    let width = grad.meta.shape().last().copied().unwrap_or(1);
    let vector = vector_of(grad.dtype, width);
    let out = empty(grad, [rows, width], grad.dtype);
    let parts = (width / vector).div_ceil(TURNS * PLANE);
    // SAFETY: there is a cube for each row of the table, and units past its columns or the ids read and write nothing.
    unsafe {
        kernel::launch_unchecked(
            &grad.client,
            CubeCount::Static(rows as u32, parts as u32, 1),
            CubeDim::new_1d((PLANES * PLANE) as u32),
            address_type(&[grad, &out]),
            vector,
            buffer(ids),
            buffer(grad),
            buffer(&out),
            ids.meta.num_elements(),
            width / vector,
            element(grad),
        );
    }
    out
}
