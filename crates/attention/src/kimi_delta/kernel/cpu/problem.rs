use crate::blocks::simd::{View, prefetch, scratch};

/// Tokens per block of a chunk: between blocks decays are factored, and inside one where that keeps them in range.
pub(super) const BLOCK: usize = 16;

/// Numbers that are worked on together: the width of the widest register.
pub(super) type Wide = [f32; 16];

/// The first `width` numbers of a row of scratch memory, up to whole [`Wide`]s.
#[inline(always)]
pub(super) fn wide(row: &[f32], width: usize) -> &[Wide] {
    row[..width.next_multiple_of(16)].as_chunks().0
}

/// As [`wide`].
#[inline(always)]
pub(super) fn wide_mut(row: &mut [f32], width: usize) -> &mut [Wide] {
    row[..width.next_multiple_of(16)].as_chunks_mut().0
}

/// `x y` in each number.
#[inline(always)]
pub(super) fn times(x: Wide, y: Wide) -> Wide {
    let mut product = x;
    for i in 0..16 {
        product[i] *= y[i];
    }
    product
}

/// `row ⊙ factors` in place.
#[inline(always)]
pub(super) fn scale_row(row: &mut [f32], factors: &[f32], width: usize) {
    for (x, factor) in wide_mut(row, width).iter_mut().zip(wide(factors, width)) {
        *x = times(*x, *factor);
    }
}

/// Rows of scratch memory, `row_of(width)` apart, whose numbers behind `width` are `rest`.
pub(super) fn padded(rows: usize, width: usize, rest: f32) -> Vec<f32> {
    let mut data = scratch(rows * row_of(width));
    data.chunks_exact_mut(row_of(width)).for_each(|row| row[width..].fill(rest));
    data
}

/// Sizes, by the letters of the operation.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sizes {
    pub(crate) h: usize,
    pub(crate) w: usize,
    pub(crate) k: usize,
    pub(crate) v: usize,
    /// Tokens per chunk.
    pub(crate) chunk: usize,
}

/// Tokens that start from a state of their own.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sequence {
    /// Where its tokens lie: row of the batch, first token, number.
    pub(crate) batch: usize,
    pub(crate) start: usize,
    pub(crate) len: usize,
    /// Number of chunks of the sequences before it.
    pub(crate) chunks_before: usize,
}

impl Sequence {
    /// The n-th chunk of a head.
    pub(super) fn place(&self, head: usize, n: usize, chunk: usize) -> Place {
        let first = n * chunk;
        Place { batch: self.batch, head, start: self.start + first, n: chunk.min(self.len - first) }
    }

    /// The chunk behind one, or that before it, if there is one.
    pub(super) fn neighbour(&self, place: &Place, chunk: usize, behind: bool) -> Option<Place> {
        let n = (place.start - self.start) / chunk;
        let n = if behind { n + 1 } else { n.checked_sub(1)? };
        (n * chunk < self.len).then(|| self.place(place.head, n, chunk))
    }
}

/// The sequences of a batch, or those packed into its only row.
pub(crate) fn sequences(batch: usize, tokens: usize, boundaries: Option<&[usize]>, chunk: usize) -> Vec<Sequence> {
    let places: Vec<(usize, usize, usize)> = match boundaries {
        None => (0..batch).map(|b| (b, 0, tokens)).collect(),
        Some(bounds) => bounds.windows(2).map(|ends| (0, ends[0], ends[1] - ends[0])).collect(),
    };
    let mut chunks_before = 0;
    let mut all = Vec::with_capacity(places.len());
    for (batch, start, len) in places {
        all.push(Sequence { batch, start, len, chunks_before });
        chunks_before += len.div_ceil(chunk);
    }
    all
}

/// What forward and backward read. Views are of `[B, heads, T, width]`.
pub(crate) struct Problem<'a> {
    pub(crate) sizes: Sizes,
    pub(crate) sequences: Vec<Sequence>,
    pub(crate) scale: f32,
    pub(crate) q: View<'a>,
    pub(crate) k: View<'a>,
    pub(crate) v: View<'a>,
    pub(crate) g: View<'a>,
    /// Numbers per token and head of `g`: K or 1.
    pub(crate) g_width: usize,
    /// One number per token and head.
    pub(crate) beta: View<'a>,
}

/// Some tokens of one value head.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) batch: usize,
    /// Value head.
    pub(super) head: usize,
    /// First token.
    pub(super) start: usize,
    /// Number of tokens, at least 1.
    pub(super) n: usize,
}

impl Problem<'_> {
    /// The query/key head that a value head reads.
    pub(super) fn group(&self, head: usize) -> usize {
        head / (self.sizes.w / self.sizes.h)
    }

    /// Whether a value head is the first of those that read a query/key head.
    pub(super) fn is_first(&self, head: usize) -> bool {
        head.is_multiple_of(self.sizes.w / self.sizes.h)
    }

    /// The query of a token. `[K]`
    pub(super) fn query(&self, place: &Place, i: usize) -> &[f32] {
        Self::row(&self.q, place, self.group(place.head), i, self.sizes.k)
    }

    /// The key of a token. `[K]`
    pub(super) fn key(&self, place: &Place, i: usize) -> &[f32] {
        Self::row(&self.k, place, self.group(place.head), i, self.sizes.k)
    }

    /// The value of a token. `[V]`
    pub(super) fn value(&self, place: &Place, i: usize) -> &[f32] {
        Self::row(&self.v, place, place.head, i, self.sizes.v)
    }

    /// The log decay of a token. `[K]` or `[1]`
    pub(super) fn log_decay(&self, place: &Place, i: usize) -> &[f32] {
        Self::row(&self.g, place, place.head, i, self.g_width)
    }

    /// β of a token.
    pub(super) fn strength(&self, place: &Place, i: usize) -> f32 {
        Self::row(&self.beta, place, place.head, i, 1)[0]
    }

    /// Asks for what a token reads.
    #[inline(always)]
    pub(super) fn prefetch(&self, place: &Place, i: usize) {
        let (token, group) = (place.start + i, self.group(place.head));
        prefetch(self.q.row(place.batch, group, token), self.sizes.k);
        prefetch(self.k.row(place.batch, group, token), self.sizes.k);
        prefetch(self.g.row(place.batch, place.head, token), self.g_width);
        prefetch(self.v.row(place.batch, place.head, token), self.sizes.v);
        prefetch(self.beta.row(place.batch, place.head, token), 1);
    }

    #[inline(always)]
    pub(super) fn row<'a>(view: &View<'a>, place: &Place, head: usize, i: usize, width: usize) -> &'a [f32] {
        // SAFETY: the view has checked that all its rows of `width` numbers lie in the tensor, and places are tokens of it.
        unsafe { std::slice::from_raw_parts(view.row(place.batch, head, place.start + i), width) }
    }
}

/// Distance of rows of `width` numbers in scratch memory: an odd number of cache lines, so that a column of rows falls into all sets
/// of a cache.
pub(super) fn row_of(width: usize) -> usize {
    (width.div_ceil(16) | 1) * 16
}
