//! Products of small matrices in blocks of registers. [`multiply`] and its like are one function per instruction set, shared by their
//! callers.

#![allow(clippy::cast_possible_wrap, reason = "sizes of tensors in memory")]

mod finish;

use std::ops::Range;

use pulp::{Simd, WithSimd};

use self::finish::{At, Faded, Finish, Kept, Plain, Scaled, Then};
use super::Ahead;

/// A matrix in memory that somebody else keeps alive: element (i, j) is at `ptr + i·row + j·column`.
#[derive(Clone, Copy)]
pub(crate) struct Strided {
    pub(crate) ptr: *const f32,
    pub(crate) row: usize,
    pub(crate) column: usize,
}

impl Strided {
    /// Rows of `row` numbers each.
    pub(crate) fn rows(ptr: *const f32, row: usize) -> Self {
        Self { ptr, row, column: 1 }
    }

    /// The transpose, a view.
    pub(crate) fn transposed(self) -> Self {
        Self { ptr: self.ptr, row: self.column, column: self.row }
    }
}

/// Which elements of a product take part, for a query i that sees the keys j ≤ i + offset.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Band {
    /// All.
    Full,
    /// C is keys × queries: blocks of it that no query sees are left as they are.
    Output(isize),
    /// C is queries × keys: blocks of it that no query sees are left as they are.
    Scores(isize),
    /// A is queries × keys: the sum over keys ends behind the last that a row sees.
    Until(isize),
    /// A is keys × queries: the sum over queries starts at the first that sees a row.
    From(isize),
}

impl Band {
    /// The terms of the sums for a block of rows and columns of C; `None` if the block is not wanted.
    #[inline(always)]
    fn terms(self, rows: Range<usize>, columns: Range<usize>, inner: usize) -> Option<Range<usize>> {
        let clip = |x: isize| x.clamp(0, inner as isize) as usize;
        match self {
            Self::Full => Some(0..inner),
            Self::Output(offset) => (rows.start as isize <= columns.end as isize - 1 + offset).then_some(0..inner),
            Self::Scores(offset) => (columns.start as isize <= rows.end as isize - 1 + offset).then_some(0..inner),
            Self::Until(offset) => Some(0..clip(rows.end as isize + offset)),
            Self::From(offset) => Some(clip(rows.start as isize - offset)..inner),
        }
    }
}

/// `C = A B` or `C += A B`, A `[m, inner]` with any strides, B `[inner, n]` and C `[m, n]` of contiguous rows.
#[derive(Clone, Copy)]
pub(crate) struct Product {
    pub(crate) m: usize,
    pub(crate) n: usize,
    pub(crate) inner: usize,
    pub(crate) a: Strided,
    pub(crate) b: *const f32,
    pub(crate) b_row: usize,
    pub(crate) c: *mut f32,
    pub(crate) c_row: usize,
    pub(crate) add: bool,
    pub(crate) band: Band,
}

/// Computes the product. Sums run over the inner index in its order, in blocks of registers: no packing, for operands in near caches.
///
/// # Safety
/// All elements of A, B and C must lie in live memory, initialised for A and B (and for C with `add`), and nobody else may use C.
#[inline(always)]
pub(crate) unsafe fn multiply<S: Simd>(simd: S, product: Product) {
    simd.vectorize(Op { product, finish: Plain { add: product.add }, ahead: None });
}

/// `C = keep · C + diag(rows) A B`; whether the product adds is not asked. With `keep` = 0, C is not read.
///
/// # Safety
/// As [`multiply`], C initialised unless `keep` = 0, and `rows` of `m` factors or null for factors of 1.
#[inline(always)]
pub(crate) unsafe fn multiply_scaled<S: Simd>(simd: S, product: Product, rows: *const f32, keep: f32, ahead: Option<&Ahead>) {
    if rows.is_null() {
        simd.vectorize(Op { product, finish: Kept { keep }, ahead });
    } else {
        simd.vectorize(Op { product, finish: Scaled { rows, keep }, ahead });
    }
}

/// `C = diag(rows) A B + A' B'` without a store between: A, B and what else is asked for are those of `first`, A' and B' with the terms of
/// their sums those of `second`.
///
/// # Safety
/// As [`multiply`] for both products, and `rows` must hold `m` factors.
#[inline(always)]
pub(crate) unsafe fn multiply_both<S: Simd>(simd: S, first: Product, rows: *const f32, second: Product, ahead: &Ahead) {
    simd.vectorize(Op { product: first, finish: Then { rows, second }, ahead: Some(ahead) });
}

/// `C = (A B) ⊙ F` for C of queries × keys or the other way round, as its band says: an element that a query sees is multiplied by
/// `F[i, j] = factors[j − i]`, one that none sees becomes 0.
///
/// # Safety
/// As [`multiply`], and memory from `factors − m + 1` to `factors + n + 16` must be live.
#[inline(always)]
pub(crate) unsafe fn multiply_faded<S: Simd>(simd: S, product: Product, factors: *const f32, ahead: &Ahead) {
    simd.vectorize(Op { product, finish: Faded { factors, band: product.band }, ahead: Some(ahead) });
}

struct Op<'a, F> {
    product: Product,
    finish: F,
    ahead: Option<&'a Ahead>,
}

impl<F: Finish> WithSimd for Op<'_, F> {
    type Output = ();
    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        // SAFETY: the callers of `multiply` and its like vouch for the memory.
        unsafe { self.product.run(simd, self.finish, self.ahead) };
    }
}

/// Rows of C that one block of registers holds at most: 12 × 2 vectors of sums leave room for one of A and two of B in 32 registers, 6 × 2
/// in 16.
const fn most_rows<S: Simd>() -> usize {
    if S::REGISTER_COUNT >= 32 { 12 } else { 6 }
}

/// The same address, of which the compiler does not know where it comes from: it would derive such addresses from one another again.
#[inline(always)]
fn unrelated(address: *const f32) -> *const f32 {
    #[cfg(target_arch = "x86_64")]
    {
        let mut address = address;
        // SAFETY: no instruction at all.
        unsafe { std::arch::asm!("/* {0} */", inout(reg) address, options(pure, readonly, nostack, preserves_flags)) };
        address
    }
    #[cfg(not(target_arch = "x86_64"))]
    address
}

impl Product {
    #[inline(always)]
    unsafe fn run<S: Simd>(self, simd: S, finish: impl Finish, ahead: Option<&Ahead>) {
        let lanes = S::F32_LANES;
        let mut column = 0;
        // SAFETY: column + width ≤ n in each call; the tail reads and writes its lanes under a mask.
        unsafe {
            while column + 2 * lanes <= self.n {
                self.panel::<S, _, 2, false>(simd, (finish, ahead), column, 2 * lanes);
                column += 2 * lanes;
            }
            while column + lanes <= self.n {
                self.panel::<S, _, 1, false>(simd, (finish, ahead), column, lanes);
                column += lanes;
            }
            if column < self.n {
                self.panel::<S, _, 1, true>(simd, (finish, ahead), column, self.n - column);
            }
        }
    }

    /// The columns `column..column + width` of C, all rows.
    #[inline(always)]
    unsafe fn panel<S: Simd, F: Finish, const V: usize, const TAIL: bool>(
        &self,
        simd: S,
        finish: (F, Option<&Ahead>),
        column: usize,
        width: usize,
    ) {
        let mut row = 0;
        // SAFETY: rows row..row + R ≤ m in each call.
        unsafe {
            while row < self.m {
                row += match (self.m - row).min(most_rows::<S>()) {
                    12 => self.block::<S, F, 12, V, TAIL>(simd, finish, row, column, width),
                    8..12 => self.block::<S, F, 8, V, TAIL>(simd, finish, row, column, width),
                    6..8 => self.block::<S, F, 6, V, TAIL>(simd, finish, row, column, width),
                    4..6 => self.block::<S, F, 4, V, TAIL>(simd, finish, row, column, width),
                    3 => self.block::<S, F, 3, V, TAIL>(simd, finish, row, column, width),
                    2 => self.block::<S, F, 2, V, TAIL>(simd, finish, row, column, width),
                    _ => self.block::<S, F, 1, V, TAIL>(simd, finish, row, column, width),
                };
            }
        }
    }

    /// Adds terms to the sums of R rows × V vectors.
    #[inline(always)]
    unsafe fn accumulate<S: Simd, const R: usize, const V: usize, const TAIL: bool>(
        &self,
        simd: S,
        at: At,
        terms: Range<usize>,
        sums: &mut [[S::f32s; V]; R],
    ) {
        // SAFETY: as `block`.
        unsafe {
            // One pointer for three rows: their addresses are then one addition each, not a chain of additions as long as the products.
            let start = self.a.ptr.add(at.row * self.a.row + terms.start * self.a.column);
            let mut a: [*const f32; 4] = std::array::from_fn(|third| unrelated(start.wrapping_add(3 * third * self.a.row)));
            let mut b = self.b.add(terms.start * self.b_row + at.column);
            for _ in terms {
                let mut right = [simd.splat_f32s(0.0); V];
                for (v, right) in right.iter_mut().enumerate() {
                    *right = at.load::<S, TAIL>(simd, b.add(v * S::F32_LANES));
                }
                for (r, sums) in sums.iter_mut().enumerate() {
                    let left = simd.splat_f32s(*a[r / 3].wrapping_add(r % 3 * self.a.row));
                    for (sum, right) in sums.iter_mut().zip(right) {
                        *sum = simd.mul_add_e_f32s(left, right, *sum);
                    }
                }
                for a in &mut a {
                    *a = a.wrapping_add(self.a.column);
                }
                b = b.wrapping_add(self.b_row);
            }
        }
    }

    /// R rows × V vectors of C, held in registers over the whole sum. Returns R.
    #[inline(always)]
    unsafe fn block<S: Simd, F: Finish, const R: usize, const V: usize, const TAIL: bool>(
        &self,
        simd: S,
        (finish, ahead): (F, Option<&Ahead>),
        row: usize,
        column: usize,
        width: usize,
    ) -> usize {
        let Some(terms) = self.band.terms(row..row + R, column..column + width, self.inner) else { return R };
        // SAFETY: forwarded from `multiply`; `TAIL` blocks have one vector, of which the mask covers `width` lanes.
        unsafe {
            if let Some(ahead) = ahead {
                ahead.ask();
            }
            let at = At { row, column, width };
            let mut sums = [[simd.splat_f32s(0.0); V]; R];
            self.accumulate::<S, R, V, TAIL>(simd, at, terms, &mut sums);
            finish.extend::<S, R, V, TAIL>(simd, at, &mut sums);
            let mask = at.mask(simd);
            for (r, sums) in sums.into_iter().enumerate() {
                for (v, sum) in sums.into_iter().enumerate() {
                    let at = At { row: row + r, column: column + v * S::F32_LANES, width };
                    let c = self.c.add(at.row * self.c_row + at.column);
                    let before = if finish.reads() { at.load::<S, TAIL>(simd, c) } else { simd.splat_f32s(0.0) };
                    let sum = finish.finish(simd, at, sum, before);
                    if TAIL {
                        simd.mask_store_ptr_f32s(mask, c, sum);
                    } else {
                        c.cast::<S::f32s>().write_unaligned(sum);
                    }
                }
            }
        }
        R
    }
}

#[cfg(test)]
mod tests {
    use pulp::Arch;
    use regard_testkit::sweep;

    use super::*;
    use crate::blocks::simd::{RowsAhead, scratch};

    struct Multiply(Product);

    impl WithSimd for Multiply {
        type Output = ();
        #[inline(always)]
        fn with_simd<S: Simd>(self, simd: S) {
            // SAFETY: the test's buffers outlive the call.
            unsafe { multiply(simd, self.0) };
        }
    }

    #[test]
    fn products_match_plain_sums_over_random_shapes() {
        sweep("multiply", 300, |s| {
            let (m, n, inner) = (s.size(0, 30), s.size(0, 40), s.size(0, 20));
            let mut draw = |len: usize| -> Vec<f32> { (0..len).map(|_| s.uniform(-1.0, 1.0) as f32).collect() };
            let (a, b, before) = (draw(m * inner), draw(inner * n), draw(m * n));
            let (turned, add) = (s.flip(), s.flip());
            let offset = s.size(0, 30) as isize - 10;
            let band = s.pick(&[Band::Full, Band::Output(offset), Band::Scores(offset), Band::Until(offset), Band::From(offset)]);
            let a_of = Strided { ptr: a.as_ptr(), row: if turned { 1 } else { inner }, column: if turned { m } else { 1 } };
            let mut c = before.clone();
            let (b_row, c_row) = (n, n);
            Arch::new().dispatch(Multiply(Product { m, n, inner, a: a_of, b: b.as_ptr(), b_row, c: c.as_mut_ptr(), c_row, add, band }));
            for (i, j) in (0..m).flat_map(|i| (0..n).map(move |j| (i, j))) {
                // A block may take more terms than its first row needs, whose factors kernels keep at zero: compare what is certain.
                let sees = |query: usize, key: usize| key as isize <= query as isize + offset;
                let certain = match band {
                    Band::Full => true,
                    Band::Output(_) => sees(j, i),
                    Band::Scores(_) => sees(i, j),
                    Band::Until(_) => (0..inner).all(|key| sees(i, key)),
                    Band::From(_) => (0..inner).all(|query| sees(query, i)),
                };
                if certain {
                    let term = |l: usize| f64::from(a[i * a_of.row + l * a_of.column]) * f64::from(b[l * n + j]);
                    let start = if add { f64::from(before[i * n + j]) } else { 0.0 };
                    let want = start + (0..inner).map(term).sum::<f64>();
                    assert!((f64::from(c[i * n + j]) - want).abs() < 1e-5, "({i}, {j}) of {m}×{n}: {} for {want}", c[i * n + j]);
                }
            }
        });
    }

    struct Inside<'a> {
        scores: Product,
        factors: *const f32,
        across: Product,
        rows: *const f32,
        ahead: &'a Ahead,
    }

    impl WithSimd for Inside<'_> {
        type Output = ();
        #[inline(always)]
        fn with_simd<S: Simd>(self, simd: S) {
            let Self { scores, factors, across, rows, ahead } = self;
            let band = if matches!(scores.band, Band::Scores(_)) { Band::Until(0) } else { Band::From(0) };
            let a = Strided::rows(scores.c, scores.c_row);
            let inside = Product { inner: scores.n, a, b: scores.b, b_row: scores.b_row, band, ..across };
            // SAFETY: the test's buffers outlive the call.
            unsafe {
                multiply_faded(simd, scores, factors, ahead);
                multiply_both(simd, across, rows, inside, ahead);
            }
        }
    }

    /// `diag(f) X Y + ((X Y) ⊙ F) Y` for square X and Y.
    #[test]
    fn faded_scores_and_what_they_weigh_match_plain_sums() {
        sweep("faded", 200, |s| {
            let n = s.size(1, 40);
            let mut draw = |len: usize| -> Vec<f32> { (0..len).map(|_| s.uniform(-1.0, 1.0) as f32).collect() };
            let (x, y, rows, factors) = (draw(n * n), draw(n * n), draw(n), draw(2 * n + 16));
            let past = s.flip();
            let (mut scores, mut out) = (scratch(n * n), scratch(n * n));
            let a = Strided::rows(x.as_ptr(), n);
            let band = if past { Band::Scores(0) } else { Band::Output(0) };
            let product = |c: &mut Vec<f32>, band| Product {
                m: n,
                n,
                inner: n,
                a,
                b: y.as_ptr(),
                b_row: n,
                c: c.as_mut_ptr(),
                c_row: n,
                add: false,
                band,
            };
            let (weights, across) = (product(&mut scores, band), product(&mut out, Band::Full));
            let next = RowsAhead { start: x.as_ptr(), stride: n, width: n, count: n };
            let ahead = Ahead::new([Some(next), None, Some(next), None]);
            let middle = factors[n..].as_ptr();
            Arch::new().dispatch(Inside { scores: weights, factors: middle, across, rows: rows.as_ptr(), ahead: &ahead });
            let xy = |i: usize, j: usize| (0..n).map(|l| f64::from(x[i * n + l]) * f64::from(y[l * n + j])).sum::<f64>();
            for (i, j) in (0..n).flat_map(|i| (0..n).map(move |j| (i, j))) {
                let sees = |l: usize| if past { l <= i } else { l >= i };
                let weighed = (0..n).filter(|&l| sees(l)).map(|l| f64::from(factors[n + l - i]) * xy(i, l) * f64::from(y[l * n + j]));
                let want = f64::from(rows[i]) * xy(i, j) + weighed.sum::<f64>();
                assert!((f64::from(out[i * n + j]) - want).abs() < 1e-4, "({i}, {j}) of {n}: {} for {want}", out[i * n + j]);
            }
        });
    }
}
