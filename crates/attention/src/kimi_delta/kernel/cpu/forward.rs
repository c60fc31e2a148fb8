use std::ops::Range;

use pulp::Simd;

use super::{
    prepare::Prepared,
    problem::{Place, Problem, row_of},
    solve::{Solve, solve},
};
use crate::blocks::simd::{Band, Product, Strided, Target, multiply};

/// The state of a head above what a chunk writes to it, side by side as the right operand of the chunk's products. `[K + C, V]`
#[derive(Clone, Copy)]
pub(super) struct Memory {
    pub(super) ptr: *mut f32,
    pub(super) row: usize,
}

impl Memory {
    /// Numbers of a memory of so many rows of V.
    pub(super) fn len(rows: usize, v: usize) -> usize {
        rows * row_of(v)
    }

    pub(super) fn new(memory: &mut [f32], v: usize) -> Self {
        Self { ptr: memory.as_mut_ptr(), row: row_of(v) }
    }

    /// Some columns of a row.
    ///
    /// # Safety
    /// The memory must live and have that row, and nobody else may hold the columns.
    #[inline(always)]
    pub(super) unsafe fn part<'a>(self, row: usize, columns: &Range<usize>) -> &'a mut [f32] {
        // SAFETY: the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.ptr.add(row * self.row + columns.start), columns.len()) }
    }

    /// From row K on.
    pub(super) fn writes(self, k: usize) -> *mut f32 {
        self.ptr.wrapping_add(k * self.row)
    }
}

// SAFETY: whoever uses the memory promises to own its columns.
unsafe impl Send for Memory {}
// SAFETY: as above.
unsafe impl Sync for Memory {}

/// What the chunk writes, `V' = M⁻¹ (β V − P S)`, below the state.
///
/// # Safety
/// Nobody else may use these columns of the memory.
#[inline(always)]
pub(super) unsafe fn write<S: Simd>(simd: S, problem: &Problem, place: &Place, chunk: &Prepared, memory: Memory, columns: Range<usize>) {
    let k = chunk.k;
    for i in 0..chunk.n {
        let beta = chunk.beta[i];
        // SAFETY: the caller's promise.
        let row = unsafe { memory.part(k + i, &columns) };
        for (x, v) in row.iter_mut().zip(&problem.value(place, i)[columns.clone()]) {
            *x = v * beta;
        }
    }
    let left = chunk.left(true);
    let system = Solve {
        n: chunk.n,
        columns: columns.len(),
        a: left.ptr,
        inner: k,
        m: left.ptr.wrapping_add(k),
        m_row: left.row as isize,
        m_column: 1,
        b: memory.ptr.wrapping_add(columns.start),
        b_row: memory.row,
        x: memory.writes(k).wrapping_add(columns.start),
        x_row: memory.row as isize,
    };
    // SAFETY: the chunk holds n rows of K + n numbers, the memory K + n rows.
    unsafe { solve(simd, system) };
}

/// The outputs of a chunk, from the state before it and its writes.
///
/// # Safety
/// Nobody else may use these columns of the outputs, nor change those of the memory.
#[inline(always)]
pub(super) unsafe fn read<S: Simd>(simd: S, place: &Place, chunk: &Prepared, memory: Memory, out: &Target, columns: Range<usize>) {
    let (c, c_row) = out.rows(place.batch, place.head, place.start);
    let product = Product {
        m: chunk.n,
        n: columns.len(),
        inner: chunk.k + chunk.n,
        a: chunk.left(false),
        b: memory.ptr.wrapping_add(columns.start),
        b_row: memory.row,
        c: c.wrapping_add(columns.start),
        c_row,
        add: false,
        band: Band::Until(chunk.k as isize),
    };
    // SAFETY: as above, and the outputs have these tokens.
    unsafe { multiply(simd, product) };
}

/// The state behind a chunk into the upper part of `next`, which may be the same memory.
///
/// # Safety
/// Nobody else may use these columns of either memory.
#[inline(always)]
pub(super) unsafe fn advance<S: Simd>(simd: S, chunk: &Prepared, memory: Memory, next: Memory, columns: Range<usize>) {
    let k = chunk.k;
    // SAFETY: the caller's promise.
    unsafe { decay(chunk.total(), memory, next, &columns) };
    let product = Product {
        m: k,
        n: columns.len(),
        inner: chunk.n,
        a: Strided::rows(chunk.ends.as_ptr(), chunk.c_row),
        b: memory.writes(k).wrapping_add(columns.start),
        b_row: memory.row,
        c: next.ptr.wrapping_add(columns.start),
        c_row: next.row,
        add: true,
        band: Band::Full,
    };
    // SAFETY: as in `write`.
    unsafe { multiply(simd, product) };
}

/// The state into the upper part of `next`, decayed.
///
/// # Safety
/// As for [`advance`].
#[inline(always)]
pub(super) unsafe fn decay(total: &[f32], memory: Memory, next: Memory, columns: &Range<usize>) {
    for (d, &total) in total.iter().enumerate() {
        // SAFETY: the caller's promise; if both memories are one, no second slice is made.
        let row = unsafe { next.part(d, columns) };
        if next.ptr != memory.ptr {
            // SAFETY: as above.
            row.copy_from_slice(unsafe { memory.part(d, columns) });
        }
        for x in row {
            *x *= total;
        }
    }
}
