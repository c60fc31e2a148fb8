//! Vector primitives for kernels on slices: `exp2`, products of small matrices, scratch memory.
//!
//! A kernel enters through [`pulp::Arch::dispatch`], which picks the widest instruction set of the machine at run time. Functions here
//! are inlined into that context; [`multiply`] is one function per instruction set, shared by its callers.

#![allow(clippy::inline_always, reason = "vector code must be inlined into the function of its instruction set")]
#![allow(clippy::cast_possible_wrap, reason = "sizes of tensors in memory")]

use std::ops::Range;

use pulp::{Simd, WithSimd};

/// Memory whose content the caller must not rely on: it is NaN in this crate's own tests, so that a kernel that reads what it has
/// not written fails them.
pub(crate) fn scratch(len: usize) -> Vec<f32> {
    vec![if cfg!(test) { f32::NAN } else { 0.0 }; len]
}

/// `2^x` in each lane, to 2e-7 relative; exactly 0 below −126.5 (−∞ included), NaN for NaN; for x ≤ 127.
#[inline(always)]
pub(crate) fn exp2<S: Simd>(simd: S, x: S::f32s) -> S::f32s {
    // x = n + f, |f| ≤ 1/2: a number of this size has no fraction bits left, and its low bits then hold n + 127.
    const SHIFT: f32 = 12_582_912.0 + 127.0;
    let lowest = simd.splat_f32s(-127.0); // n + 127 = 0 makes the factor 2^n the number 0
    let x = simd.select_f32s(simd.less_than_f32s(x, lowest), lowest, x);
    let shifted = simd.add_f32s(x, simd.splat_f32s(SHIFT));
    let f = simd.sub_f32s(x, simd.sub_f32s(shifted, simd.splat_f32s(SHIFT)));
    // Minimax in relative error, 2e-9.
    let mut p = simd.splat_f32s(1.535_336_2e-4);
    for c in [1.339_887_5e-3, 9.618_437e-3, 5.550_332_4e-2, 0.240_226_48, std::f32::consts::LN_2, 1.0] {
        p = simd.mul_add_e_f32s(p, f, simd.splat_f32s(c));
    }
    let power = simd.wrapping_dyn_shl_u32s(simd.transmute_u32s_f32s(shifted), simd.splat_u32s(23));
    simd.mul_f32s(p, simd.transmute_f32s_u32s(power))
}

/// `Σ a b`, in an order that depends on the number of lanes alone.
#[inline(always)]
pub(crate) fn dot<S: Simd>(simd: S, a: &[f32], b: &[f32]) -> f32 {
    let ((a, a_rest), (b, b_rest)) = (S::as_simd_f32s(a), S::as_simd_f32s(b));
    let mut sum = simd.splat_f32s(0.0);
    for (a, b) in a.iter().zip(b) {
        sum = simd.mul_add_e_f32s(*a, *b, sum);
    }
    simd.reduce_sum_f32s(sum) + a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum::<f32>()
}

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
    simd.vectorize(Op(product, Plain { add: product.add }));
}

/// `C = keep · C + diag(rows) A B`; whether the product adds is not asked. With `keep` = 0, C is not read.
///
/// # Safety
/// As [`multiply`], C initialised unless `keep` = 0, and `rows` of `m` factors or null for factors of 1.
#[inline(always)]
pub(crate) unsafe fn multiply_scaled<S: Simd>(simd: S, product: Product, rows: *const f32, keep: f32) {
    if rows.is_null() {
        simd.vectorize(Op(product, Kept { keep }));
    } else {
        simd.vectorize(Op(product, Scaled { rows, keep }));
    }
}

struct Op<F>(Product, F);

impl<F: Finish> WithSimd for Op<F> {
    type Output = ();
    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        // SAFETY: the callers of `multiply` and `multiply_scaled` vouch for the memory.
        unsafe { self.0.run(simd, self.1) };
    }
}

/// What becomes of a sum of a row, given what was there before.
trait Finish: Copy {
    /// Whether the old value is used.
    fn reads(self) -> bool;
    unsafe fn finish<S: Simd>(self, simd: S, row: usize, sum: S::f32s, before: S::f32s) -> S::f32s;
}

#[derive(Clone, Copy)]
struct Plain {
    add: bool,
}

impl Finish for Plain {
    #[inline(always)]
    fn reads(self) -> bool {
        self.add
    }

    #[inline(always)]
    unsafe fn finish<S: Simd>(self, simd: S, _: usize, sum: S::f32s, before: S::f32s) -> S::f32s {
        simd.add_f32s(sum, before)
    }
}

#[derive(Clone, Copy)]
struct Kept {
    keep: f32,
}

impl Finish for Kept {
    #[inline(always)]
    fn reads(self) -> bool {
        self.keep != 0.0
    }

    #[inline(always)]
    unsafe fn finish<S: Simd>(self, simd: S, _: usize, sum: S::f32s, before: S::f32s) -> S::f32s {
        simd.mul_add_e_f32s(simd.splat_f32s(self.keep), before, sum)
    }
}

#[derive(Clone, Copy)]
struct Scaled {
    rows: *const f32,
    keep: f32,
}

impl Finish for Scaled {
    #[inline(always)]
    fn reads(self) -> bool {
        self.keep != 0.0
    }

    #[inline(always)]
    unsafe fn finish<S: Simd>(self, simd: S, row: usize, sum: S::f32s, before: S::f32s) -> S::f32s {
        // SAFETY: `rows` has a factor for each row.
        let sum = simd.mul_f32s(simd.splat_f32s(unsafe { *self.rows.add(row) }), sum);
        simd.mul_add_e_f32s(simd.splat_f32s(self.keep), before, sum)
    }
}

/// Rows of C that one block of registers holds: 6 × 2 vectors of sums leave room for one of A and two of B in 16 registers.
const ROWS: usize = 6;

impl Product {
    #[inline(always)]
    unsafe fn run<S: Simd>(self, simd: S, finish: impl Finish) {
        let lanes = S::F32_LANES;
        let mut column = 0;
        // SAFETY: column + width ≤ n in each call; the tail reads and writes its lanes under a mask.
        unsafe {
            while column + 2 * lanes <= self.n {
                self.panel::<S, _, 2, false>(simd, finish, column, 2 * lanes);
                column += 2 * lanes;
            }
            while column + lanes <= self.n {
                self.panel::<S, _, 1, false>(simd, finish, column, lanes);
                column += lanes;
            }
            if column < self.n {
                self.panel::<S, _, 1, true>(simd, finish, column, self.n - column);
            }
        }
    }

    /// The columns `column..column + width` of C, all rows.
    #[inline(always)]
    unsafe fn panel<S: Simd, F: Finish, const V: usize, const TAIL: bool>(&self, simd: S, finish: F, column: usize, width: usize) {
        let mut row = 0;
        // SAFETY: rows row..row + R ≤ m in each call.
        unsafe {
            while row < self.m {
                match self.m - row {
                    1 => self.block::<S, F, 1, V, TAIL>(simd, finish, row, column, width),
                    2 => self.block::<S, F, 2, V, TAIL>(simd, finish, row, column, width),
                    3 => self.block::<S, F, 3, V, TAIL>(simd, finish, row, column, width),
                    4 => self.block::<S, F, 4, V, TAIL>(simd, finish, row, column, width),
                    5 => self.block::<S, F, 5, V, TAIL>(simd, finish, row, column, width),
                    _ => self.block::<S, F, ROWS, V, TAIL>(simd, finish, row, column, width),
                }
                row += ROWS;
            }
        }
    }

    /// R rows × V vectors of C, held in registers over the whole sum.
    #[inline(always)]
    unsafe fn block<S: Simd, F: Finish, const R: usize, const V: usize, const TAIL: bool>(
        &self,
        simd: S,
        finish: F,
        row: usize,
        column: usize,
        width: usize,
    ) {
        let Some(terms) = self.band.terms(row..row + R, column..column + width, self.inner) else { return };
        let mask = simd.mask_between_m32s(0, width.min(S::F32_LANES) as u32);
        // SAFETY: forwarded from `multiply`; `TAIL` blocks have one vector, of which the mask covers `width` lanes.
        unsafe {
            let load = |p: *const f32| if TAIL { simd.mask_load_ptr_f32s(mask, p) } else { p.cast::<S::f32s>().read_unaligned() };
            let mut sums = [[simd.splat_f32s(0.0); V]; R];
            let mut a = self.a.ptr.add(row * self.a.row + terms.start * self.a.column);
            let mut b = self.b.add(terms.start * self.b_row + column);
            for _ in terms {
                let mut right = [simd.splat_f32s(0.0); V];
                for (v, right) in right.iter_mut().enumerate() {
                    *right = load(b.add(v * S::F32_LANES));
                }
                for (r, sums) in sums.iter_mut().enumerate() {
                    let left = simd.splat_f32s(*a.add(r * self.a.row));
                    for (sum, right) in sums.iter_mut().zip(right) {
                        *sum = simd.mul_add_e_f32s(left, right, *sum);
                    }
                }
                a = a.wrapping_add(self.a.column);
                b = b.wrapping_add(self.b_row);
            }
            for (r, sums) in sums.into_iter().enumerate() {
                for (v, sum) in sums.into_iter().enumerate() {
                    let c = self.c.add((row + r) * self.c_row + column + v * S::F32_LANES);
                    let before = if finish.reads() { load(c) } else { simd.splat_f32s(0.0) };
                    let sum = finish.finish(simd, row + r, sum, before);
                    if TAIL {
                        simd.mask_store_ptr_f32s(mask, c, sum);
                    } else {
                        c.cast::<S::f32s>().write_unaligned(sum);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use pulp::Arch;
    use regard_testkit::sweep;

    use super::*;

    struct Powers<'a>(&'a mut [f32]);

    impl WithSimd for Powers<'_> {
        type Output = ();
        #[inline(always)]
        fn with_simd<S: Simd>(self, simd: S) {
            for x in S::as_mut_simd_f32s(self.0).0 {
                *x = exp2(simd, *x);
            }
        }
    }

    #[test]
    fn exp2_is_good_to_2e_7_and_exactly_zero_far_below() {
        let x: Vec<f32> = (0..1 << 20).map(|i| -126.0 + i as f32 * (253.0 / (1 << 20) as f32)).collect();
        let mut y = x.clone();
        Arch::new().dispatch(Powers(&mut y));
        for (x, y) in x.iter().zip(&y) {
            let want = f64::from(*x).exp2();
            assert!((f64::from(*y) - want).abs() <= 2e-7 * want, "2^{x} = {want}, got {y}");
        }
        let mut far = [f32::NEG_INFINITY, -1e30, -127.5, -126.6, f32::NAN, 0.0, 1.0, 127.0].repeat(4);
        Arch::new().dispatch(Powers(&mut far));
        assert_eq!(far[..4], [0.0; 4]);
        assert!(far[4].is_nan());
        assert_eq!(far[5..8], [1.0, 2.0, 127.0_f32.exp2()]);
    }

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
            let (m, n, inner) = (s.size(0, 20), s.size(0, 40), s.size(0, 20));
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
}
