use std::ops::Range;

use pulp::Simd;

use super::{
    super::{
        form::Form,
        forward::{Memory, decay},
        problem::{Place, Sequence, Sizes},
        solve::{Solve, solve},
    },
    General,
    prepare::Prepared,
};
use crate::blocks::simd::{Band, Product, Strided, Target, multiply, multiply_scaled};

/// The memory holds the state, the values of the chunk and minus what its `b` read, side by side as the right operand of the chunk's
/// products. `[K + 2C, V]`
impl Form for General<'_> {
    type Chunk = Prepared;

    fn sizes(&self) -> Sizes {
        self.sizes
    }

    fn sequences(&self) -> &[Sequence] {
        &self.sequences
    }

    fn memory_rows(&self) -> usize {
        self.sizes.k + 2 * self.sizes.chunk
    }

    fn workspace(&self) -> Prepared {
        Prepared::new(self.sizes)
    }

    #[inline(always)]
    fn fill<S: Simd>(&self, simd: S, chunk: &mut Prepared, place: &Place, ahead: Option<Place>) {
        chunk.fill(simd, self, place, ahead);
    }

    #[inline(always)]
    unsafe fn through<S: Simd>(
        &self,
        simd: S,
        chunk: &Prepared,
        place: &Place,
        [memory, next]: [Memory; 2],
        o: &Target,
        columns: Range<usize>,
    ) {
        // SAFETY: the caller's promise.
        unsafe {
            self.write(simd, chunk, place, memory, columns.clone());
            self.read(simd, chunk, place, memory, o, columns.clone());
            self.advance(simd, chunk, memory, next, columns);
        }
    }
}

impl General<'_> {
    /// The values, and `X = −M⁻¹ (B S + A_bk V)` below them.
    ///
    /// # Safety
    /// Nobody else may use these columns of the memory.
    #[inline(always)]
    unsafe fn write<S: Simd>(&self, simd: S, chunk: &Prepared, place: &Place, memory: Memory, columns: Range<usize>) {
        let Sizes { k, chunk: c, .. } = self.sizes;
        for i in 0..chunk.n {
            // SAFETY: the caller's promise.
            unsafe { memory.part(k + i, &columns) }.copy_from_slice(&self.value(place, i)[columns.clone()]);
        }
        let left = chunk.left(true);
        let read = memory.writes(k + c).wrapping_add(columns.start);
        let of_values = Product {
            m: chunk.n,
            n: columns.len(),
            inner: chunk.n,
            a: Strided { ptr: left.ptr.wrapping_add(k), ..left },
            b: memory.writes(k).wrapping_add(columns.start),
            b_row: memory.row,
            c: read,
            c_row: memory.row,
            add: false,
            band: Band::Until(-1),
        };
        let system = Solve {
            n: chunk.n,
            columns: columns.len(),
            a: left.ptr,
            inner: k,
            m: left.ptr.wrapping_add(k + c),
            m_row: left.row as isize,
            m_column: 1,
            b: memory.ptr.wrapping_add(columns.start),
            b_row: memory.row,
            x: read,
            x_row: memory.row as isize,
        };
        // SAFETY: the chunk holds n rows of K + 2C numbers, the memory K + 2C rows, and there are C factors of −1.
        unsafe {
            multiply_scaled(simd, of_values, chunk.minus.as_ptr(), 0.0, None);
            solve(simd, system);
        }
    }

    /// The outputs: `Q S + A_qk V + A_qa X`.
    ///
    /// # Safety
    /// Nobody else may use these columns of the outputs, nor change those of the memory.
    #[inline(always)]
    unsafe fn read<S: Simd>(&self, simd: S, chunk: &Prepared, place: &Place, memory: Memory, o: &Target, columns: Range<usize>) {
        let Sizes { k, chunk: c, .. } = self.sizes;
        let (out, c_row) = o.rows(place.batch, place.head, place.start);
        let left = chunk.left(false);
        let product = Product {
            m: chunk.n,
            n: columns.len(),
            inner: k + chunk.n,
            a: left,
            b: memory.ptr.wrapping_add(columns.start),
            b_row: memory.row,
            c: out.wrapping_add(columns.start),
            c_row,
            add: false,
            band: Band::Until(k as isize),
        };
        let a = Strided { ptr: left.ptr.wrapping_add(k + c), ..left };
        let b = memory.writes(k + c).wrapping_add(columns.start);
        // SAFETY: as above, and the outputs have these tokens.
        unsafe {
            multiply(simd, product);
            multiply(simd, Product { inner: chunk.n, a, b, add: true, band: Band::Until(0), ..product });
        }
    }

    /// The state behind the chunk: `Diag(total) S + K_endᵀ V + A_endᵀ X`.
    ///
    /// # Safety
    /// Nobody else may use these columns of either memory.
    #[inline(always)]
    unsafe fn advance<S: Simd>(&self, simd: S, chunk: &Prepared, memory: Memory, next: Memory, columns: Range<usize>) {
        let Sizes { k, chunk: c, .. } = self.sizes;
        // SAFETY: the caller's promise.
        unsafe { decay(chunk.decays.total(chunk.n), memory, next, &columns) };
        // Both kinds lie side by side, unless the chunk is short.
        let whole = chunk.n == c;
        let parts: &[(usize, usize)] = if whole { &[(0, 2)] } else { &[(0, 1), (c, 1)] };
        for &(first, kinds) in parts {
            let product = Product {
                m: k,
                n: columns.len(),
                inner: kinds * chunk.n,
                a: Strided::rows(chunk.ends[first..].as_ptr(), chunk.end_row),
                b: memory.writes(k + first).wrapping_add(columns.start),
                b_row: memory.row,
                c: next.ptr.wrapping_add(columns.start),
                c_row: next.row,
                add: true,
                band: Band::Full,
            };
            // SAFETY: as in `write`.
            unsafe { multiply(simd, product) };
        }
    }
}
