//! Results that tasks write part by part.

use std::{mem::MaybeUninit, ptr, slice};

use rayon::prelude::*;

/// A number of a result before it is written.
pub(super) type Blank = MaybeUninit<f32>;

/// Where a vector begins.
#[derive(Clone, Copy)]
struct Start(*mut f32);

// SAFETY: each task uses a part of its own.
unsafe impl Send for Start {}
// SAFETY: as above.
unsafe impl Sync for Start {}

/// `N` vectors of `len` numbers, written in parts of `part` numbers, one task each: `write` gets the number of its first element and its
/// part of each vector. Also what the tasks return, in order.
///
/// Nothing is written before: a vector of zeros would be one more pass over memory.
///
/// # Safety
/// `write` must write every number of its parts.
pub(super) unsafe fn in_blank_parts<const N: usize, R: Send>(
    len: usize,
    part: usize,
    write: impl Fn(usize, [&mut [Blank]; N]) -> R + Sync,
) -> ([Vec<f32>; N], Vec<R>) {
    let mut vectors: [Vec<f32>; N] = std::array::from_fn(|_| Vec::with_capacity(len));
    let starts = vectors.each_mut().map(|vector| Start(vector.as_mut_ptr()));
    let part = part.max(1);
    let task = |i: usize| {
        let (first, count) = (i * part, part.min(len - i * part));
        let parts = starts.map(|Start(start)| {
            // SAFETY: the part lies in the vector's memory, and no other task has it.
            let part = unsafe { slice::from_raw_parts_mut(start.add(first).cast::<Blank>(), count) };
            if cfg!(test) {
                part.fill(Blank::new(f32::NAN)); // as all scratch memory
            }
            part
        });
        write(first, parts)
    };
    let tasks = len.div_ceil(part);
    let results = if tasks <= 1 { (0..tasks).map(task).collect() } else { (0..tasks).into_par_iter().map(task).collect() };
    for vector in &mut vectors {
        // SAFETY: the tasks have written every element.
        unsafe { vector.set_len(len) };
    }
    (vectors, results)
}

/// As [`in_blank_parts`], for parts that are added to: zeros at first, from the tasks, just before they write.
pub(super) fn in_parts<const N: usize, R: Send>(
    len: usize,
    part: usize,
    write: impl Fn(usize, [&mut [f32]; N]) -> R + Sync,
) -> ([Vec<f32>; N], Vec<R>) {
    let filled = |first: usize, parts: [&mut [Blank]; N]| {
        let parts = parts.map(|part| {
            // SAFETY: zeros are numbers, and the part is written whole before it is looked at.
            unsafe {
                ptr::write_bytes(part.as_mut_ptr(), 0, part.len());
                part.assume_init_mut()
            }
        });
        write(first, parts)
    };
    // SAFETY: all parts are filled.
    unsafe { in_blank_parts(len, part, filled) }
}
