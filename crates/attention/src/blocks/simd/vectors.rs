//! Vector primitives for kernels on slices: scratch memory, `exp2`, `dot`.
//!
//! A kernel enters through [`pulp::Arch::dispatch`], which picks the widest instruction set of the machine at run time. Functions here
//! are inlined into that context.

use pulp::{MemMask, Simd};

/// The first `count` lanes of a vector, for loads and stores. Built from the mask alone: what `mask_between_m32s` returns calls a function
/// through a pointer for every access, several times slower than the instructions for it.
#[inline(always)]
pub(crate) fn first_lanes<S: Simd>(simd: S, count: usize) -> MemMask<S::m32s> {
    MemMask::new(simd.mask_between_m32s(0, count.min(S::F32_LANES) as u32).mask())
}

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

#[cfg(test)]
mod tests {
    use pulp::{Arch, WithSimd};

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
}
