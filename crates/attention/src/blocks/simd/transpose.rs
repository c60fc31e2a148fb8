/// `dst[c, i] = factor · src[i, c]`, zeros in the columns from `rows` to `width`.
///
/// # Safety
/// `src` must point to `rows` rows of `columns` numbers, `stride` apart, and `dst` must hold `columns` rows of `width` ≥ `rows` numbers.
#[inline(always)]
pub(crate) unsafe fn transpose(src: *const f32, stride: usize, rows: usize, columns: usize, factor: f32, dst: &mut [f32], width: usize) {
    // SAFETY: the caller's promise.
    unsafe { turn(src, stride, [rows, columns], factor, dst.as_mut_ptr(), width) };
    if width > rows {
        for dst in dst.chunks_exact_mut(width).take(columns) {
            dst[rows..].fill(0.0);
        }
    }
}

/// As [`transpose`], leaving what is not of the transpose as it is.
///
/// # Safety
/// As for [`transpose`]; of the last row `rows` numbers suffice.
#[inline(always)]
pub(crate) unsafe fn turn(src: *const f32, stride: usize, [rows, columns]: [usize; 2], factor: f32, dst: *mut f32, width: usize) {
    let (whole_rows, whole_columns) = (rows / 4 * 4, columns / 4 * 4);
    // SAFETY: whole tiles and single numbers of what the caller promises.
    unsafe {
        let wide = transpose_wide(src, stride, [rows, columns], factor, dst, width);
        for i in (0..whole_rows).step_by(4) {
            for c in (if i < wide[0] { wide[1] } else { 0 }..whole_columns).step_by(4) {
                transpose4(src.add(i * stride + c), stride, factor, dst.add(c * width + i), width);
            }
        }
        for c in 0..columns {
            for i in if c < whole_columns { whole_rows } else { 0 }..rows {
                *dst.add(c * width + i) = *src.add(i * stride + c) * factor;
            }
        }
    }
}

/// Transposes the tiles of 16 × 16 numbers that fit, where the processor has registers for them: rows and columns done.
#[inline(always)]
unsafe fn transpose_wide(
    src: *const f32,
    stride: usize,
    [rows, columns]: [usize; 2],
    factor: f32,
    dst: *mut f32,
    width: usize,
) -> [usize; 2] {
    #[cfg(target_arch = "x86_64")]
    if rows >= 16 && columns >= 16 && is_x86_feature_detected!("avx512f") {
        let whole = [rows / 16 * 16, columns / 16 * 16];
        // SAFETY: the processor has the instructions; the memory is the caller's promise.
        unsafe { transpose16(src, stride, whole, factor, dst, width) };
        return whole;
    }
    let _ = (src, stride, rows, columns, factor, dst, width);
    [0; 2]
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
unsafe fn transpose16(src: *const f32, stride: usize, [rows, columns]: [usize; 2], factor: f32, dst: *mut f32, width: usize) {
    use std::arch::x86_64::{
        __m512, _mm512_castpd_ps, _mm512_castps_pd, _mm512_loadu_ps, _mm512_mul_ps, _mm512_set1_ps, _mm512_shuffle_f32x4, _mm512_storeu_ps,
        _mm512_unpackhi_pd, _mm512_unpackhi_ps, _mm512_unpacklo_pd, _mm512_unpacklo_ps,
    };
    let by = _mm512_set1_ps(factor);
    let mut tile = [by; 16];
    for i in (0..rows).step_by(16) {
        for c in (0..columns).step_by(16) {
            for (r, row) in tile.iter_mut().enumerate() {
                // SAFETY: the caller's promise.
                *row = _mm512_mul_ps(unsafe { _mm512_loadu_ps(src.add((i + r) * stride + c)) }, by);
            }
            // Quads of rows: 4 × 4 numbers in each quarter of a register.
            let mut quads = [by; 16];
            for q in 0..4 {
                let [a, b, c, d]: [__m512; 4] = std::array::from_fn(|r| tile[4 * q + r]);
                let (ab, cd) = (_mm512_unpacklo_ps(a, b), _mm512_unpacklo_ps(c, d));
                let (ab_high, cd_high) = (_mm512_unpackhi_ps(a, b), _mm512_unpackhi_ps(c, d));
                let pair = |x, y| (_mm512_castps_pd(x), _mm512_castps_pd(y));
                let ((low, low2), (high, high2)) = (pair(ab, cd), pair(ab_high, cd_high));
                quads[4 * q] = _mm512_castpd_ps(_mm512_unpacklo_pd(low, low2));
                quads[4 * q + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(low, low2));
                quads[4 * q + 2] = _mm512_castpd_ps(_mm512_unpacklo_pd(high, high2));
                quads[4 * q + 3] = _mm512_castpd_ps(_mm512_unpackhi_pd(high, high2));
            }
            // Quarters to their places: register r of quad q has the columns r, r + 4, r + 8, r + 12 of four rows.
            for r in 0..4 {
                let [a, b, c2, d]: [__m512; 4] = std::array::from_fn(|q| quads[4 * q + r]);
                let (ab, cd) = (_mm512_shuffle_f32x4::<0x88>(a, b), _mm512_shuffle_f32x4::<0x88>(c2, d));
                let (ab_odd, cd_odd) = (_mm512_shuffle_f32x4::<0xdd>(a, b), _mm512_shuffle_f32x4::<0xdd>(c2, d));
                let columns = [
                    _mm512_shuffle_f32x4::<0x88>(ab, cd),
                    _mm512_shuffle_f32x4::<0x88>(ab_odd, cd_odd),
                    _mm512_shuffle_f32x4::<0xdd>(ab, cd),
                    _mm512_shuffle_f32x4::<0xdd>(ab_odd, cd_odd),
                ];
                for (k, column) in columns.into_iter().enumerate() {
                    // SAFETY: the caller's promise.
                    unsafe { _mm512_storeu_ps(dst.add((c + r + 4 * k) * width + i), column) };
                }
            }
        }
    }
}

/// [`transpose`] of 4 × 4 numbers. The compiler does not find these shuffles by itself; without them a transpose takes four times as long.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
unsafe fn transpose4(src: *const f32, stride: usize, factor: f32, dst: *mut f32, width: usize) {
    use std::arch::x86_64::{_MM_TRANSPOSE4_PS, _mm_loadu_ps, _mm_mul_ps, _mm_set1_ps, _mm_storeu_ps};
    // SAFETY: SSE is part of the architecture; the memory is the caller's promise.
    unsafe {
        let factor = _mm_set1_ps(factor);
        let [mut a, mut b, mut c, mut d]: [_; 4] = std::array::from_fn(|i| _mm_mul_ps(_mm_loadu_ps(src.add(i * stride)), factor));
        _MM_TRANSPOSE4_PS(&mut a, &mut b, &mut c, &mut d);
        for (i, row) in [a, b, c, d].into_iter().enumerate() {
            _mm_storeu_ps(dst.add(i * width), row);
        }
    }
}

/// [`transpose`] of 4 × 4 numbers.
#[cfg(not(target_arch = "x86_64"))]
#[inline(always)]
unsafe fn transpose4(src: *const f32, stride: usize, factor: f32, dst: *mut f32, width: usize) {
    for (i, c) in (0..4).flat_map(|i| (0..4).map(move |c| (i, c))) {
        // SAFETY: the caller's promise.
        unsafe { *dst.add(c * width + i) = *src.add(i * stride + c) * factor };
    }
}

#[cfg(test)]
mod tests {
    use pulp::{Arch, Simd, WithSimd};
    use regard_testkit::sweep;

    use super::{super::scratch, *};

    struct Transpose<'a>(&'a [f32], [usize; 3], &'a mut [f32]);

    impl WithSimd for Transpose<'_> {
        type Output = ();
        #[inline(always)]
        fn with_simd<S: Simd>(self, _: S) {
            let Self(src, [rows, columns, width], dst) = self;
            // SAFETY: the test's buffers have these sizes.
            unsafe { transpose(src.as_ptr(), columns, rows, columns, 2.0, dst, width) };
        }
    }

    #[test]
    fn transposes_of_any_size_are_those_of_a_loop() {
        sweep("transpose", 200, |s| {
            let (rows, columns) = (s.size(0, 70), s.size(1, 70));
            let width = (rows + s.size(0, 5)).max(1);
            let src: Vec<f32> = (0..rows * columns).map(|_| s.uniform(-1.0, 1.0) as f32).collect();
            let mut dst = scratch(columns * width);
            Arch::new().dispatch(Transpose(&src, [rows, columns, width], &mut dst));
            for (c, i) in (0..columns).flat_map(|c| (0..width).map(move |i| (c, i))) {
                let want = if i < rows { 2.0 * src[i * columns + c] } else { 0.0 };
                assert_eq!(dst[c * width + i], want, "({c}, {i}) of {rows}×{columns}");
            }
        });
    }
}
