use std::ops::Range;

use pulp::{Simd, WithSimd};

use crate::blocks::simd::first_lanes;

/// `X ← M⁻¹ (X − A B)` in place, M unit lower triangular, of which the part below the diagonal is read.
#[derive(Clone, Copy)]
pub(super) struct Solve {
    /// Rows of X.
    pub(super) n: usize,
    /// Columns of X and of B to solve for.
    pub(super) columns: usize,
    /// A `[n, inner]`, rows like those of M, `inner` may be 0.
    pub(super) a: *const f32,
    pub(super) inner: usize,
    /// M: element (i, j) is at `m + i·m_row + j·m_column`; A: at `a + i·m_row + j`.
    pub(super) m: *const f32,
    pub(super) m_row: isize,
    pub(super) m_column: isize,
    /// B `[inner, columns]`.
    pub(super) b: *const f32,
    pub(super) b_row: usize,
    /// X: rows `x_row` apart.
    pub(super) x: *mut f32,
    pub(super) x_row: isize,
}

/// Rows that one block of registers holds, as in products.
const ROWS: usize = 6;

/// Solves the system.
///
/// # Safety
/// All elements must lie in live memory and be initialised, and nobody else may use X.
#[inline(always)]
pub(super) unsafe fn solve<S: Simd>(simd: S, system: Solve) {
    struct Op(Solve);
    impl WithSimd for Op {
        type Output = ();
        #[inline(always)]
        fn with_simd<S: Simd>(self, simd: S) {
            // SAFETY: the caller of `solve` vouches for the memory.
            unsafe { self.0.run(simd) }
        }
    }
    simd.vectorize(Op(system));
}

impl Solve {
    #[inline(always)]
    unsafe fn run<S: Simd>(self, simd: S) {
        let lanes = S::F32_LANES;
        let mut column = 0;
        // SAFETY: column + width ≤ columns in each call; the tail reads and writes its lanes under a mask.
        unsafe {
            while column + 2 * lanes <= self.columns {
                self.panel::<S, 2, false>(simd, column..column + 2 * lanes);
                column += 2 * lanes;
            }
            while column + lanes <= self.columns {
                self.panel::<S, 1, false>(simd, column..column + lanes);
                column += lanes;
            }
            if column < self.columns {
                self.panel::<S, 1, true>(simd, column..self.columns);
            }
        }
    }

    #[inline(always)]
    unsafe fn panel<S: Simd, const V: usize, const TAIL: bool>(&self, simd: S, columns: Range<usize>) {
        let mut row = 0;
        // SAFETY: rows row..row + R ≤ n in each call.
        unsafe {
            while row < self.n {
                match self.n - row {
                    1 => self.block::<S, 1, V, TAIL>(simd, row, columns.clone()),
                    2 => self.block::<S, 2, V, TAIL>(simd, row, columns.clone()),
                    3 => self.block::<S, 3, V, TAIL>(simd, row, columns.clone()),
                    4 => self.block::<S, 4, V, TAIL>(simd, row, columns.clone()),
                    5 => self.block::<S, 5, V, TAIL>(simd, row, columns.clone()),
                    _ => self.block::<S, ROWS, V, TAIL>(simd, row, columns.clone()),
                }
                row += ROWS;
            }
        }
    }

    /// R rows × V vectors of X, held in registers: what earlier rows contribute, then the small triangle among themselves.
    #[inline(always)]
    unsafe fn block<S: Simd, const R: usize, const V: usize, const TAIL: bool>(&self, simd: S, row: usize, columns: Range<usize>) {
        let mask = first_lanes(simd, columns.len());
        // SAFETY: forwarded from `solve`; `TAIL` blocks have one vector, of which the mask covers the columns.
        unsafe {
            let load = |p: *const f32| if TAIL { simd.mask_load_ptr_f32s(mask, p) } else { p.cast::<S::f32s>().read_unaligned() };
            let x = |i: usize| self.x.offset(i as isize * self.x_row).add(columns.start);
            let mut sums = [[simd.splat_f32s(0.0); V]; R];
            for (r, sums) in sums.iter_mut().enumerate() {
                for (v, sum) in sums.iter_mut().enumerate() {
                    *sum = load(x(row + r).add(v * S::F32_LANES));
                }
            }
            let mut a = self.a.wrapping_offset(row as isize * self.m_row);
            let mut b = self.b.wrapping_add(columns.start);
            for _ in 0..self.inner {
                subtract::<S, R, V>(simd, &mut sums, a, self.m_row, std::array::from_fn(|v| load(b.add(v * S::F32_LANES))));
                a = a.wrapping_add(1);
                b = b.wrapping_add(self.b_row);
            }
            let mut m = self.m.wrapping_offset(row as isize * self.m_row);
            let mut earlier = self.x.cast_const().wrapping_add(columns.start);
            for _ in 0..row {
                subtract::<S, R, V>(simd, &mut sums, m, self.m_row, std::array::from_fn(|v| load(earlier.add(v * S::F32_LANES))));
                m = m.wrapping_offset(self.m_column);
                earlier = earlier.wrapping_offset(self.x_row);
            }
            for j in 0..R {
                let done = sums[j];
                for (i, sums) in sums.iter_mut().enumerate().skip(j + 1) {
                    let factor = simd.splat_f32s(-*m.offset(i as isize * self.m_row));
                    for (sum, done) in sums.iter_mut().zip(done) {
                        *sum = simd.mul_add_e_f32s(factor, done, *sum);
                    }
                }
                m = m.wrapping_offset(self.m_column);
            }
            for (r, sums) in sums.into_iter().enumerate() {
                for (v, sum) in sums.into_iter().enumerate() {
                    let x = x(row + r).add(v * S::F32_LANES);
                    if TAIL {
                        simd.mask_store_ptr_f32s(mask, x, sum);
                    } else {
                        x.cast::<S::f32s>().write_unaligned(sum);
                    }
                }
            }
        }
    }
}

/// `sums_r −= left_r · right`.
///
/// # Safety
/// `left + r·row` must be readable for r < R.
#[inline(always)]
unsafe fn subtract<S: Simd, const R: usize, const V: usize>(
    simd: S,
    sums: &mut [[S::f32s; V]; R],
    left: *const f32,
    row: isize,
    right: [S::f32s; V],
) {
    for (r, sums) in sums.iter_mut().enumerate() {
        // SAFETY: the caller's promise.
        let left = simd.splat_f32s(unsafe { *left.offset(r as isize * row) });
        for (sum, right) in sums.iter_mut().zip(right) {
            *sum = simd.negate_mul_add_e_f32s(left, right, *sum);
        }
    }
}
