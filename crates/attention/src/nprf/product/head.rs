use std::ops::Range;

use super::real::Real;

/// Where tokens lie: on a line (one row) or row-major on a grid.
///
/// A grid is a line with gaps: token (y, x) stands at `y (2X − 1) + x`. The difference of two places then is one number for each pair
/// of differences in rows and columns, and a table `[2Y − 1, 2X − 1]` of coefficients, read row by row, is the table of the line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::nprf) struct Grid {
    pub(in crate::nprf) rows: usize,
    pub(in crate::nprf) columns: usize,
}

impl Grid {
    /// `tokens` on a line.
    pub(in crate::nprf) fn line(tokens: usize) -> Self {
        Self { rows: 1, columns: tokens }
    }

    /// Number of tokens.
    pub(in crate::nprf) fn tokens(self) -> usize {
        self.rows * self.columns
    }

    /// Length of the line from the first token to the last.
    pub(super) fn length(self) -> usize {
        if self.tokens() == 0 { 0 } else { (self.rows - 1) * self.stride() + self.columns }
    }

    /// Number of coefficients: one for each difference of places.
    pub(in crate::nprf) fn taps(self) -> usize {
        (2 * self.length()).saturating_sub(1)
    }

    /// Places from a row to the next.
    pub(super) fn stride(self) -> usize {
        2 * self.columns - 1
    }

    /// Place of a token.
    pub(super) fn place(self, token: usize) -> usize {
        token / self.columns * self.stride() + token % self.columns
    }

    /// Cuts the keys `keys` into runs that lie side by side: for each, its position among them, the coefficient of its first key for
    /// the query `i`, and its length.
    #[inline(always)]
    pub(super) fn runs(self, i: usize, keys: Range<usize>, mut f: impl FnMut(usize, usize, usize)) {
        let zero = self.length() - 1 - self.place(i);
        let mut j = keys.start;
        while j < keys.end {
            let end = (j / self.columns + 1) * self.columns;
            let length = end.min(keys.end) - j;
            f(j - keys.start, zero + self.place(j), length);
            j += length;
        }
    }
}

/// What one head of one sequence computes: `y_i = Σ_j c[j − i] (q_i · k_j) x_j`.
#[derive(Clone, Copy)]
pub(super) struct Head<'a, T> {
    /// `[N, M]`
    pub(super) q: &'a [T],
    /// `[N, M]`
    pub(super) k: &'a [T],
    /// `[N, F]`; the last column are the weights of the denominator, 0 or 1
    pub(super) x: &'a [T],
    /// `[taps]`
    pub(super) c: &'a [T],
    pub(super) sizes: Sizes,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Sizes {
    pub(super) grid: Grid,
    /// Tokens N.
    pub(super) n: usize,
    /// Features M.
    pub(super) m: usize,
    /// Columns F.
    pub(super) f: usize,
    /// Whether the coefficients of later keys are 0.
    pub(super) causal: bool,
}

/// The gradients of a [`Head`].
pub(super) struct HeadGradients<T> {
    pub(super) q: Vec<T>,
    pub(super) k: Vec<T>,
    pub(super) x: Vec<T>,
    pub(super) c: Vec<T>,
}

impl<T: Real> HeadGradients<T> {
    pub(super) fn zeros(Sizes { n, m, f, grid, .. }: Sizes) -> Self {
        let zeros = |len| vec![T::default(); len];
        Self { q: zeros(n * m), k: zeros(n * m), x: zeros(n * f), c: zeros(grid.taps()) }
    }

    pub(super) fn add(mut self, other: &Self) -> Self {
        for (a, b) in [(&mut self.q, &other.q), (&mut self.k, &other.k), (&mut self.x, &other.x), (&mut self.c, &other.c)] {
            for (a, &b) in a.iter_mut().zip(b) {
                *a += b;
            }
        }
        self
    }
}
