//! Results that tasks write part by part.

use std::{ptr, slice};

use rayon::prelude::*;

/// Where a vector begins.
#[derive(Clone, Copy)]
struct Start(*mut f32);

// SAFETY: each task uses a part of its own.
unsafe impl Send for Start {}
// SAFETY: as above.
unsafe impl Sync for Start {}

/// `N` vectors of `len` numbers, written in parts of `part` numbers, one task each: `write` gets the number of its first element and its
/// part of each vector, zeros at first. Also what the tasks return, in order.
///
/// The zeros come from the tasks, just before they write: a whole vector of zeros would be one more pass over memory, by one thread.
pub(super) fn in_parts<const N: usize, R: Send>(
    len: usize,
    part: usize,
    write: impl Fn(usize, [&mut [f32]; N]) -> R + Sync,
) -> ([Vec<f32>; N], Vec<R>) {
    let mut vectors: [Vec<f32>; N] = std::array::from_fn(|_| Vec::with_capacity(len));
    let starts = vectors.each_mut().map(|vector| Start(vector.as_mut_ptr()));
    let part = part.max(1);
    let task = |i: usize| {
        let (first, count) = (i * part, part.min(len - i * part));
        let parts = starts.map(|Start(start)| {
            // SAFETY: the part lies in the vector's memory, no other task has it, and zeros are numbers.
            unsafe {
                let start = start.add(first);
                ptr::write_bytes(start, 0, count);
                slice::from_raw_parts_mut(start, count)
            }
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
