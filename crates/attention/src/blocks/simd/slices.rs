//! Loops over slices that the compiler turns into vector code for the processor at hand: [`vectorised!`] compiles a function for the widest
//! instruction set found at run time, and the functions here are inlined into it.

use std::sync::OnceLock;

/// Defines a function over slices that is compiled for the processor at hand, whatever its size: `vectorised! { fn name<'a>(x: &'a [f32],
/// …) -> … { … } }`. Bounds of type parameters stand in brackets before the name.
///
/// A closure or a function that is handed over as a value stays a function of its own, compiled for the oldest processor, once it is of
/// any size; the body of a method that is `inline(always)` does not.
macro_rules! vectorised {
    ($(#[$doc:meta])* $vis:vis fn $([$($generic:ident: $bound:path),*])? $name:ident $(<$($life:lifetime),*>)?
     ($($arg:ident: $type:ty),* $(,)?) -> $output:ty $body:block) => {
        $(#[$doc])*
        $vis fn $name<$($($life,)*)? $($($generic: $bound),*)?>($($arg: $type),*) -> $output {
            struct Call<$($($life,)*)? $($($generic),*)?>($($type),*);
            impl<$($($life,)*)? $($($generic: $bound),*)?> pulp::NullaryFnOnce for Call<$($($life,)*)? $($($generic),*)?> {
                type Output = $output;

                #[inline(always)]
                fn call(self) -> $output {
                    let Self($($arg),*) = self;
                    $body
                }
            }
            $crate::blocks::simd::arch().dispatch(Call($($arg),*))
        }
    };
}
pub(crate) use vectorised;

/// The instruction set of the processor at hand.
pub(crate) fn arch() -> pulp::Arch {
    static ARCH: OnceLock<pulp::Arch> = OnceLock::new();
    *ARCH.get_or_init(pulp::Arch::new)
}

/// `e^x` to about 1.5e-7 relative, 0 below −87 (no subnormal results), about 1.6e38 and no more above 88.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    // x = n ln 2 + r with |r| ≤ ln 2 / 2; adding 1.5·2²³ rounds to the nearest n and leaves it in the low bits.
    const ROUND: f32 = 12_582_912.0;
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    let clamped = x.clamp(-87.0, 88.0);
    let shifted = clamped.mul_add(std::f32::consts::LOG2_E, ROUND);
    let n = shifted - ROUND;
    let r = n.mul_add(-LN2_LOW, n.mul_add(-LN2_HIGH, clamped));
    let mut p = 1.987_569_2e-4_f32;
    for c in [1.398_2e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5] {
        p = p.mul_add(r, c);
    }
    let y = (p * r).mul_add(r, r) + 1.0;
    let scaled = y * f32::from_bits((shifted.to_bits() << 23).wrapping_add(0x3f80_0000));
    if x < -87.0 { 0.0 } else { scaled }
}

/// `ln(1 + x)` to about 2e-7 relative, for 0 ≤ x ≤ 1e30.
#[inline(always)]
pub(crate) fn log1p(x: f32) -> f32 {
    // 1 + x = 2^e m with m in [√½, √2); what the sum 1 + x lost is added back.
    let sum = 1.0 + x;
    let lost = (x - (sum - 1.0)) / sum;
    let bits = sum.to_bits().wrapping_sub(0x3f35_04f3); // √½
    let e = (bits as i32 >> 23) as f32;
    let f = f32::from_bits((bits & 0x007f_ffff).wrapping_add(0x3f35_04f3)) - 1.0;
    let mut p = 7.037_683_6e-2_f32;
    for c in [-0.115_146_1, 0.116_769_99, -0.124_201_41, 0.142_493_23, -0.166_680_58, 0.200_007_15, -0.249_999_94, 0.333_333_3] {
        p = p.mul_add(f, c);
    }
    let log = e.mul_add(std::f32::consts::LN_2, f * f * f.mul_add(p, -0.5) + f);
    if x < 1e-4 { x * (1.0 - 0.5 * x) } else { log + lost }
}

/// `1 / (1 + e^-x)`
#[inline(always)]
pub(crate) fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// The distribution function Φ(x) and the density φ(x) of the standard normal distribution, to about 1e-7 absolute
/// (Abramowitz and Stegun, formula 7.1.26).
#[inline(always)]
pub(crate) fn normal(x: f32) -> (f32, f32) {
    let z = x.abs() * std::f32::consts::FRAC_1_SQRT_2;
    let e = exp(-z * z);
    let t = 1.0 / 0.327_591_1_f32.mul_add(z, 1.0);
    let mut p = 1.061_405_4_f32;
    for c in [-1.453_152, 1.421_413_7, -0.284_496_74, 0.254_829_6] {
        p = p.mul_add(t, c);
    }
    let tail = 0.5 * p * t * e; // 1 − Φ(|x|)
    (if x < 0.0 { tail } else { 1.0 - tail }, e * 0.398_942_3)
}

/// Asks for `len` numbers from `start` on, which will be used soon, if the processor can be asked. The address need not be valid.
#[inline(always)]
pub(crate) fn prefetch(start: *const f32, len: usize) {
    #[cfg(target_arch = "x86_64")]
    for line in (0..len).step_by(16) {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: SSE is part of the architecture, and a prefetch never faults.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(start.wrapping_add(line).cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (start, len);
}

/// Lanes of a sum: enough for two AVX-512 registers.
const LANES: usize = 32;

/// `Σ f(x_i, y_i)`, in a fixed order.
#[inline(always)]
pub(crate) fn sum2(x: &[f32], y: &[f32], f: impl Fn(f32, f32) -> f32) -> f32 {
    let mut lanes = [0.0_f32; LANES];
    let (xs, x_rest) = x.as_chunks::<LANES>();
    let (ys, y_rest) = y.as_chunks::<LANES>();
    for (x, y) in xs.iter().zip(ys) {
        for i in 0..LANES {
            lanes[i] += f(x[i], y[i]);
        }
    }
    let rest: f32 = x_rest.iter().zip(y_rest).map(|(&x, &y)| f(x, y)).sum();
    lanes.iter().sum::<f32>() + rest
}

/// `Σ f(x_i)`, in a fixed order.
#[inline(always)]
pub(crate) fn sum(x: &[f32], f: impl Fn(f32) -> f32) -> f32 {
    sum2(x, x, |x, _| f(x))
}

/// The largest element; −∞ of none.
#[inline(always)]
pub(crate) fn max(x: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let (xs, rest) = x.as_chunks::<LANES>();
    for x in xs {
        for i in 0..LANES {
            lanes[i] = if x[i] > lanes[i] { x[i] } else { lanes[i] };
        }
    }
    lanes.iter().chain(rest).fold(f32::NEG_INFINITY, |m, &x| if x > m { x } else { m })
}

#[cfg(test)]
mod tests {
    use super::*;

    vectorised! {
        fn vectorised_exp(x: f32) -> f32 {
            exp(x)
        }
    }

    #[test]
    fn exp_is_good_to_two_units_of_the_last_place() {
        let worst = (-8_700..8_800).map(|i| f32::from(i as i16) / 100.0).map(|x| {
            let want = f64::from(x).exp();
            ((f64::from(vectorised_exp(x)) - want) / want).abs()
        });
        let worst = worst.fold(0.0, f64::max);
        assert!(worst < 2.5e-7, "relative error {worst}");
        assert_eq!([exp(f32::NEG_INFINITY), exp(-1e30), exp(0.0)], [0.0, 0.0, 1.0]);
        assert!(exp(f32::NAN).is_nan());
    }

    #[test]
    fn log1p_is_good_to_two_units_of_the_last_place() {
        let worst = (-4000..3000).map(|i| 10.0_f32.powf(i as f32 / 150.0)).map(|x| {
            let want = f64::from(x).ln_1p();
            ((f64::from(log1p(x)) - want) / want).abs()
        });
        let worst = worst.fold(0.0, f64::max);
        assert!(worst < 3e-7, "relative error {worst}");
        assert_eq!(log1p(0.0), 0.0);
    }

    #[test]
    fn the_normal_distribution_is_good_to_a_few_parts_in_ten_million() {
        // Φ by Simpson's rule over the density, from −8.
        let density = |x: f64| (-0.5 * x * x).exp() / (2.0 * std::f64::consts::PI).sqrt();
        let mut phi = 0.0;
        for i in 0..1600 {
            let (a, h) = (-8.0 + f64::from(i) * 0.01, 0.01);
            phi += h / 6.0 * (density(a) + 4.0 * density(a + h / 2.0) + density(a + h));
            let (got, got_density) = normal((a + h) as f32);
            assert!((f64::from(got) - phi).abs() < 4e-7, "Φ({}) = {got}, want {phi}", a + h);
            assert!((f64::from(got_density) - density(a + h)).abs() < 4e-7);
        }
    }
}
