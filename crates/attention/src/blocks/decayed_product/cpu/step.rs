use pulp::{Arch, Simd, WithSimd};

use crate::blocks::simd::first_lanes;

/// One token: `S ← λ S + kᵀ v`, then `o = scale · q S`, in one pass over the state.
pub(crate) struct Step<'a> {
    pub(crate) q: &'a [f32],
    pub(crate) k: &'a [f32],
    pub(crate) v: &'a [f32],
    /// λ
    pub(crate) decay: f32,
    pub(crate) scale: f32,
    /// `[K, V]`
    pub(crate) state: &'a mut [f32],
    /// Where the V numbers of the output go.
    pub(crate) out: *mut f32,
}

impl Step<'_> {
    /// # Safety
    /// Nobody else may use the memory of the output, which need not be initialised.
    pub(crate) unsafe fn run(self, arch: Arch) {
        assert_eq!(self.q.len(), self.k.len(), "a token has one key width");
        assert_eq!(self.state.len(), self.k.len() * self.v.len(), "the state is K × V");
        arch.dispatch(self);
    }
}

impl WithSimd for Step<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        let (lanes, width) = (S::F32_LANES, self.v.len());
        let mut column = 0;
        // SAFETY: column + width ≤ V in each call; the tail reads and writes its lanes under a mask.
        unsafe {
            while column + 4 * lanes <= width {
                self.columns::<S, 4, false>(simd, column, 4 * lanes);
                column += 4 * lanes;
            }
            while column + lanes <= width {
                self.columns::<S, 1, false>(simd, column, lanes);
                column += lanes;
            }
            if column < width {
                self.columns::<S, 1, true>(simd, column, width - column);
            }
        }
    }
}

impl Step<'_> {
    /// N vectors of columns over all rows of the state; with `TAIL`, one vector of `width` columns.
    #[inline(always)]
    unsafe fn columns<S: Simd, const N: usize, const TAIL: bool>(&mut self, simd: S, column: usize, width: usize) {
        let mask = first_lanes(simd, width);
        // SAFETY: `run` has checked the lengths, and the caller keeps the columns in range.
        unsafe {
            let load = |p: *const f32| if TAIL { simd.mask_load_ptr_f32s(mask, p) } else { p.cast::<S::f32s>().read_unaligned() };
            let store = |p: *mut f32, x: S::f32s| {
                if TAIL { simd.mask_store_ptr_f32s(mask, p, x) } else { p.cast::<S::f32s>().write_unaligned(x) }
            };
            let decay = simd.splat_f32s(self.decay);
            let mut sums = [simd.splat_f32s(0.0); N];
            let mut values = sums;
            for (n, value) in values.iter_mut().enumerate() {
                *value = load(self.v.as_ptr().add(column + n * S::F32_LANES));
            }
            for (row, (&q, &k)) in self.q.iter().zip(self.k).enumerate() {
                let (q, k) = (simd.splat_f32s(q * self.scale), simd.splat_f32s(k));
                for (n, (sum, value)) in sums.iter_mut().zip(values).enumerate() {
                    let at = self.state.as_mut_ptr().add(row * self.v.len() + column + n * S::F32_LANES);
                    let state = simd.mul_add_e_f32s(k, value, simd.mul_f32s(decay, load(at)));
                    store(at, state);
                    *sum = simd.mul_add_e_f32s(q, state, *sum);
                }
            }
            for (n, sum) in sums.into_iter().enumerate() {
                store(self.out.add(column + n * S::F32_LANES), sum);
            }
        }
    }
}
