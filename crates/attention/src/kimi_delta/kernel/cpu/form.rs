use std::ops::Range;

use pulp::Simd;

use super::{
    forward::{Memory, advance, read, write},
    prepare::Prepared,
    problem::{Place, Problem, Sequence, Sizes},
};
use crate::blocks::simd::Target;

/// A recurrence that goes over chunks, as the division over threads sees it.
pub(super) trait Form: Sync {
    /// What of a chunk does not depend on the state.
    type Chunk: Send + Sync;

    fn sizes(&self) -> Sizes;

    fn sequences(&self) -> &[Sequence];

    /// Rows of V numbers that the state and what a chunk writes to it take.
    fn memory_rows(&self) -> usize;

    fn workspace(&self) -> Self::Chunk;

    /// Computes a chunk, asking for what it reads before it needs it, the last time for the chunk `ahead`.
    fn fill<S: Simd>(&self, simd: S, chunk: &mut Self::Chunk, place: &Place, ahead: Option<Place>);

    /// Some columns through a chunk: what it writes, its outputs, and the state behind it into `next`, which may be the same memory.
    ///
    /// # Safety
    /// Nobody else may use these columns of the memories and of the chunk's outputs.
    unsafe fn through<S: Simd>(
        &self,
        simd: S,
        chunk: &Self::Chunk,
        place: &Place,
        memories: [Memory; 2],
        o: &Target,
        columns: Range<usize>,
    );
}

impl Form for Problem<'_> {
    type Chunk = Prepared;

    fn sizes(&self) -> Sizes {
        self.sizes
    }

    fn sequences(&self) -> &[Sequence] {
        &self.sequences
    }

    fn memory_rows(&self) -> usize {
        self.sizes.k + self.sizes.chunk
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
            write(simd, self, place, chunk, memory, columns.clone());
            read(simd, place, chunk, memory, o, columns.clone());
            advance(simd, chunk, memory, next, columns);
        }
    }
}
