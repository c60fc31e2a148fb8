//! What becomes of the sums of a product.

use pulp::{MemMask, Simd};

use super::{Band, Product};
use crate::blocks::simd::first_lanes;

/// What becomes of a sum, given what was there before.
pub(super) trait Finish: Copy {
    /// Whether the old value is used.
    fn reads(self) -> bool {
        false
    }

    /// More terms for the sums of a block, before they are finished.
    unsafe fn extend<S: Simd, const R: usize, const V: usize, const TAIL: bool>(self, simd: S, at: At, sums: &mut [[S::f32s; V]; R]) {
        let _ = (simd, at, sums);
    }

    /// For a vector that starts at a row and column of C.
    unsafe fn finish<S: Simd>(self, simd: S, at: At, sum: S::f32s, before: S::f32s) -> S::f32s;
}

/// A place in C: a row, a column and the number of columns from there.
#[derive(Clone, Copy)]
pub(super) struct At {
    pub(super) row: usize,
    pub(super) column: usize,
    pub(super) width: usize,
}

impl At {
    /// The lanes of a last vector.
    #[inline(always)]
    pub(super) fn mask<S: Simd>(self, simd: S) -> MemMask<S::m32s> {
        first_lanes(simd, self.width)
    }

    /// A vector, of which a tail has some lanes alone.
    #[inline(always)]
    pub(super) unsafe fn load<S: Simd, const TAIL: bool>(self, simd: S, p: *const f32) -> S::f32s {
        // SAFETY: the caller's.
        unsafe { if TAIL { simd.mask_load_ptr_f32s(self.mask(simd), p) } else { p.cast::<S::f32s>().read_unaligned() } }
    }
}

#[derive(Clone, Copy)]
pub(super) struct Plain {
    pub(super) add: bool,
}

impl Finish for Plain {
    #[inline(always)]
    fn reads(self) -> bool {
        self.add
    }

    #[inline(always)]
    unsafe fn finish<S: Simd>(self, simd: S, _: At, sum: S::f32s, before: S::f32s) -> S::f32s {
        simd.add_f32s(sum, before)
    }
}

#[derive(Clone, Copy)]
pub(super) struct Kept {
    pub(super) keep: f32,
}

impl Finish for Kept {
    #[inline(always)]
    fn reads(self) -> bool {
        self.keep != 0.0
    }

    #[inline(always)]
    unsafe fn finish<S: Simd>(self, simd: S, _: At, sum: S::f32s, before: S::f32s) -> S::f32s {
        simd.mul_add_e_f32s(simd.splat_f32s(self.keep), before, sum)
    }
}

#[derive(Clone, Copy)]
pub(super) struct Scaled {
    pub(super) rows: *const f32,
    pub(super) keep: f32,
}

impl Finish for Scaled {
    #[inline(always)]
    fn reads(self) -> bool {
        self.keep != 0.0
    }

    #[inline(always)]
    unsafe fn finish<S: Simd>(self, simd: S, at: At, sum: S::f32s, before: S::f32s) -> S::f32s {
        // SAFETY: `rows` has a factor for each row.
        let sum = simd.mul_f32s(simd.splat_f32s(unsafe { *self.rows.add(at.row) }), sum);
        simd.mul_add_e_f32s(simd.splat_f32s(self.keep), before, sum)
    }
}

#[derive(Clone, Copy)]
pub(super) struct Then {
    pub(super) rows: *const f32,
    pub(super) second: Product,
}

impl Finish for Then {
    #[inline(always)]
    unsafe fn extend<S: Simd, const R: usize, const V: usize, const TAIL: bool>(self, simd: S, at: At, sums: &mut [[S::f32s; V]; R]) {
        // SAFETY: `rows` has a factor for each row, and the second product is good for C, as the caller of `multiply_both` promises.
        unsafe {
            for (r, sums) in sums.iter_mut().enumerate() {
                let factor = simd.splat_f32s(*self.rows.add(at.row + r));
                for sum in sums {
                    *sum = simd.mul_f32s(factor, *sum);
                }
            }
            if let Some(terms) = self.second.band.terms(at.row..at.row + R, at.column..at.column + at.width, self.second.inner) {
                self.second.accumulate::<S, R, V, TAIL>(simd, at, terms, sums);
            }
        }
    }

    #[inline(always)]
    unsafe fn finish<S: Simd>(self, _: S, _: At, sum: S::f32s, _: S::f32s) -> S::f32s {
        sum
    }
}

#[derive(Clone, Copy)]
pub(super) struct Faded {
    pub(super) factors: *const f32,
    pub(super) band: Band,
}

impl Finish for Faded {
    #[inline(always)]
    unsafe fn finish<S: Simd>(self, simd: S, At { row, column, .. }: At, sum: S::f32s, _: S::f32s) -> S::f32s {
        let lanes = S::F32_LANES as isize;
        // Lanes that are seen: from a first one on, before a last one.
        let (first, last) = match self.band {
            Band::Scores(offset) => (0, row as isize + 1 + offset - column as isize),
            Band::Output(offset) => (row as isize - offset - column as isize, lanes),
            Band::Full | Band::Until(_) | Band::From(_) => (0, lanes),
        };
        if last <= 0 || first >= lanes {
            return simd.splat_f32s(0.0);
        }
        // SAFETY: the caller of `multiply_faded` vouches for the factors.
        let factors = unsafe { self.factors.offset(column as isize - row as isize).cast::<S::f32s>().read_unaligned() };
        let sum = simd.mul_f32s(factors, sum);
        if first <= 0 && last >= lanes {
            return sum;
        }
        simd.select_f32s(simd.mask_between_m32s(first.max(0) as u32, last.min(lanes) as u32).mask(), sum, simd.splat_f32s(0.0))
    }
}
