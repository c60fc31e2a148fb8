use std::{f32::consts::LOG2_E, ops::Range};

use pulp::Simd;

use super::{
    grid::Grid,
    problem::{Problem, token},
    relative::Shifted,
    segment::{Place, Segment},
};
use crate::blocks::{
    neighborhood::plan::Group,
    simd::{Band, Product, Strided, multiply, scratch, transpose},
};

/// Some queries of one head and dilation group, rows of them after one another, along the lanes of vectors.
pub(super) struct Tile<'a> {
    pub(super) b: usize,
    pub(super) h: usize,
    pub(super) groups: [&'a Group; 3],
    /// The position along the first axis.
    z: usize,
    ys: Range<usize>,
    xs: Range<usize>,
    /// Number of queries.
    pub(super) count: usize,
    /// The same, rounded up to whole vectors.
    pub(super) width: usize,
    /// First and last position that the query of each lane sees along the third axis.
    seen: [Vec<f32>; 2],
    /// Queries times scale, row by row. `[count, K]`
    pub(super) rows: Vec<f32>,
    /// The same times log₂e. `[K, width]`
    packed: Vec<f32>,
    /// What is added to the scores by the key's place along the second and the third axis.
    relative: Option<[Shifted; 2]>,
}

impl<'a> Tile<'a> {
    #[inline(always)]
    pub(super) fn new<S: Simd>(
        simd: S,
        problem: &Problem,
        (b, h): (usize, usize),
        groups: [&'a Group; 3],
        (z, ys, xs): (usize, Range<usize>, Range<usize>),
    ) -> Self {
        let count = ys.len() * xs.len();
        let width = count.next_multiple_of(S::F32_LANES);
        let columns = || ys.clone().flat_map(|_| groups[2].seen[xs.clone()].iter());
        let seen = [columns().map(|seen| seen.start as f32).collect(), columns().map(|seen| seen.end as f32 - 1.0).collect()];
        let mut tile = Self { b, h, groups, z, ys, xs, count, width, seen, rows: Vec::new(), packed: Vec::new(), relative: None };
        let k = problem.k.width();
        tile.rows = tile.gather(problem.q, problem.plan.scale as f32);
        tile.packed = scratch(k * width);
        // SAFETY: the rows are `count` of K numbers.
        unsafe { transpose(tile.rows.as_ptr(), k, count, k, LOG2_E, &mut tile.packed, width) };
        if let Some(relative) = problem.relative {
            let [y, x] = [0, 1];
            tile.relative = Some([Shifted::new(simd, problem, &tile, relative, y), Shifted::new(simd, problem, &tile, relative, x)]);
        }
        tile
    }

    /// Queries times scale times log₂e. `[K, width]`
    pub(super) fn packed(&self) -> &[f32] {
        &self.packed
    }

    /// The positions of each query along the last two axes.
    pub(super) fn positions(&self) -> impl Iterator<Item = [usize; 2]> {
        self.ys.clone().flat_map(move |y| self.xs.clone().map(move |x| [y, x]))
    }

    /// The position of the first query along the last two axes.
    pub(super) fn first(&self) -> [usize; 2] {
        [self.ys.start, self.xs.start]
    }

    /// The token of a position.
    pub(super) fn token(&self, x: [usize; 3]) -> [usize; 3] {
        token(self.groups, x)
    }

    /// Lane and token of each query.
    pub(super) fn tokens(&self) -> impl Iterator<Item = (usize, [usize; 3])> {
        let positions = self.ys.clone().flat_map(move |y| self.xs.clone().map(move |x| [self.z, y, x]));
        positions.map(|x| self.token(x)).enumerate()
    }

    /// Rows of a tensor `[B, *X, H, width]` at the queries, times a factor. `[count, width]`
    #[inline(always)]
    pub(super) fn gather(&self, from: Grid, factor: f32) -> Vec<f32> {
        let width = from.width();
        let mut rows = scratch(self.count * width);
        for (lane, x) in self.tokens() {
            // SAFETY: the tokens are those of the grid.
            let row = unsafe { from.slice(self.b, x, self.h) };
            for (to, from) in rows[lane * width..][..width].iter_mut().zip(row) {
                *to = from * factor;
            }
        }
        rows
    }

    /// The positions along each axis that some query sees.
    pub(super) fn seen_by(&self) -> [Range<usize>; 3] {
        [self.groups[0].seen[self.z].clone(), self.groups[1].seen_by(&self.ys), self.groups[2].seen_by(&self.xs)]
    }

    /// The lanes from the first to behind the last that sees one of these keys, if there is one, and whether all of them see all.
    pub(super) fn who_sees(&self, y: usize, keys: &Range<usize>) -> Option<(Range<usize>, bool)> {
        let columns = self.xs.len();
        let row_sees = |row: &usize| self.groups[1].seen[self.ys.start + row].contains(&y);
        let rows = 0..self.ys.len();
        let (first, last) = (rows.clone().find(row_sees)?, rows.clone().rfind(row_sees)?);
        let of = |column: usize| &self.groups[2].seen[self.xs.start + column];
        let sees_one = |column: &usize| of(*column).start < keys.end && of(*column).end > keys.start;
        let (left, right) = ((0..columns).find(sees_one)?, (0..columns).rfind(sees_one)?);
        // Between rows lie all columns.
        let between = if first == last { left..right + 1 } else { 0..columns };
        let whole = between.into_iter().all(|column| of(column).start <= keys.start && of(column).end >= keys.end);
        Some((first * columns + left..last * columns + right + 1, whole))
    }

    /// Scores to base 2 of a segment, `[keys, lanes]`, −∞ where hidden. Lanes without a query hold numbers that mean nothing.
    #[inline(always)]
    pub(super) fn scores<S: Simd>(
        &self,
        simd: S,
        problem: &Problem,
        segment: &Segment,
        (k, k_row): (*const f32, usize),
        scores: &mut [f32],
    ) {
        let add = self.begin(problem, segment, scores);
        self.product(simd, segment, (k, k_row, problem.k.width()), &self.packed, scores, add);
    }

    /// `scores = K B` or `scores += K B` for the rows K of a segment and a matrix B `[inner, width]` with the queries along the lanes.
    #[inline(always)]
    pub(super) fn product<S: Simd>(
        &self,
        simd: S,
        segment: &Segment,
        (rows, row, inner): (*const f32, usize, usize),
        packed: &[f32],
        scores: &mut [f32],
        add: bool,
    ) {
        assert!(scores.len() == segment.len() && packed.len() == inner * self.width && segment.lanes.end <= self.width);
        let product = Product {
            m: segment.keys,
            n: segment.lanes.len(),
            inner,
            a: Strided::rows(rows, row),
            b: packed.as_ptr().wrapping_add(segment.lanes.start),
            b_row: self.width,
            c: scores.as_mut_ptr(),
            c_row: segment.lanes.len(),
            add,
            band: Band::Full,
        };
        // SAFETY: the keys lie in their tensor, the other lengths are those just asserted.
        unsafe { multiply(simd, product) };
    }

    /// What the products are added to: biases, −∞ where a key is hidden from a query. `false` if that would be nothing.
    #[inline(always)]
    fn begin(&self, problem: &Problem, segment: &Segment, scores: &mut [f32]) -> bool {
        let Place::Grid([z, y, x]) = segment.place else { return false };
        if segment.whole && problem.table.is_none() && self.relative.is_none() {
            return false;
        }
        let width = segment.lanes.len();
        if let (true, Some([rows, columns])) = (segment.whole, &self.relative) {
            for (i, scores) in scores.chunks_exact_mut(width * segment.row).enumerate() {
                let row = rows.row(y + i, &segment.lanes);
                for (j, scores) in scores.chunks_exact_mut(width).enumerate() {
                    for ((score, row), column) in scores.iter_mut().zip(row).zip(columns.row(x + j, &segment.lanes)) {
                        *score = row + column;
                    }
                }
            }
            return true;
        }
        scores.fill(f32::NEG_INFINITY);
        let table = problem.table.map(|table| (table, table.head(self.h)));
        let [first, last] = &self.seen;
        for (row_y, column, lanes) in self.rows_that_see(y, segment) {
            let (first, last) = (&first[lanes.clone()], &last[lanes.clone()]);
            let at = lanes.start - segment.lanes.start;
            let place = table.map(|(table, _)| table.place([self.z, row_y, column], [z, y, x]));
            for (j, scores) in scores.chunks_exact_mut(width).enumerate() {
                let (scores, key) = (&mut scores[at..at + lanes.len()], (x + j) as f32);
                if let (Some(place), Some((_, biases))) = (place, table) {
                    let biases = &biases[place - j..][..lanes.len()];
                    for ((score, bias), (first, last)) in scores.iter_mut().zip(biases).zip(first.iter().zip(last)) {
                        *score = if key >= *first && key <= *last { *bias } else { f32::NEG_INFINITY };
                    }
                } else if let Some([rows, columns]) = &self.relative {
                    let biases = rows.row(y, &lanes).iter().zip(columns.row(x + j, &lanes));
                    for ((score, (row, column)), (first, last)) in scores.iter_mut().zip(biases).zip(first.iter().zip(last)) {
                        *score = if key >= *first && key <= *last { row + column } else { f32::NEG_INFINITY };
                    }
                } else {
                    for (score, (first, last)) in scores.iter_mut().zip(first.iter().zip(last)) {
                        *score = if key >= *first && key <= *last { 0.0 } else { f32::NEG_INFINITY };
                    }
                }
            }
        }
        true
    }

    /// The rows of queries that see the keys' row, as far as they lie within the segment's lanes: each with its position along the second
    /// axis, the first position along the third, and the lanes.
    #[inline(always)]
    fn rows_that_see(&self, y: usize, segment: &Segment) -> impl Iterator<Item = (usize, usize, Range<usize>)> {
        let (columns, within) = (self.xs.len(), segment.lanes.clone());
        let rows = self.ys.clone().enumerate().filter(move |(_, row_y)| self.groups[1].seen[*row_y].contains(&y));
        let rows = rows.map(move |(row, row_y)| {
            let lanes = (row * columns).max(within.start)..((row + 1) * columns).min(within.end);
            (row_y, (self.xs.start + lanes.start).wrapping_sub(row * columns), lanes)
        });
        rows.filter(|(_, _, lanes)| !lanes.is_empty())
    }

    /// Adds the gradient of a segment's scores, zeros where hidden, to that of the table.
    #[inline(always)]
    pub(super) fn add_to_table(&self, problem: &Problem, segment: &Segment, d_scores: &[f32], sums: &mut [f32]) {
        let (Place::Grid([z, y, x]), Some(table)) = (segment.place, problem.table) else { return };
        let width = segment.lanes.len();
        for (row_y, column, lanes) in self.rows_that_see(y, segment) {
            let at = lanes.start - segment.lanes.start;
            let place = table.place([self.z, row_y, column], [z, y, x]);
            for (j, d_scores) in d_scores.chunks_exact(width).enumerate() {
                for (sum, d) in sums[place - j..][..lanes.len()].iter_mut().zip(&d_scores[at..]) {
                    *sum += d;
                }
            }
        }
    }

    /// Adds the gradient of a segment's scores, zeros where hidden, to those of what was added by row and column.
    #[inline(always)]
    pub(super) fn add_to_relative(segment: &Segment, d_scores: &[f32], [rows, columns]: &mut [Shifted; 2]) {
        let Place::Grid([_, y, x]) = segment.place else { return };
        let width = segment.lanes.len();
        for (i, d_scores) in d_scores.chunks_exact(width * segment.row).enumerate() {
            let row = rows.row_mut(y + i, &segment.lanes);
            for (j, d_scores) in d_scores.chunks_exact(width).enumerate() {
                let column = columns.row_mut(x + j, &segment.lanes);
                for ((row, column), d) in row.iter_mut().zip(column).zip(d_scores) {
                    *row += d;
                    *column += d;
                }
            }
        }
    }
}
