use std::cell::Cell;

use super::slices::prefetch;

/// Rows of memory that are read soon, asked for in small portions while products compute: all at once they would keep the loads of
/// these products waiting.
pub(crate) struct Ahead {
    matrices: [Option<Rows>; 4],
    /// What is next: matrix, row, column.
    next: Cell<(usize, usize, usize)>,
}

/// Rows of `width` numbers each, `stride` apart.
#[derive(Clone, Copy)]
pub(crate) struct Rows {
    pub(super) start: *const f32,
    pub(super) stride: usize,
    pub(super) width: usize,
    pub(super) count: usize,
}

/// Numbers of two lines of the caches: one is asked for, and the processor fetches its neighbour with it. Asking for both took more time
/// than it saved.
const PAIR: usize = 32;
/// Pairs asked for at a time, about as many lines as a processor fetches at a time.
const PAIRS: usize = 12;

impl Ahead {
    pub(crate) fn new(matrices: [Option<Rows>; 4]) -> Self {
        let whole = |rows: Rows| match rows {
            Rows { start, stride, width, count } if stride == width => Rows { start, stride, width: width * count, count: 1 },
            rows => rows,
        };
        let matrices = matrices.map(|rows| rows.map(whole));
        Self { matrices, next: Cell::new((0, 0, 0)) }
    }

    pub(crate) fn none() -> Self {
        Self::new([None; 4])
    }

    /// Asks for what is next.
    #[inline(always)]
    pub(super) fn ask(&self) {
        let (matrix, mut row, mut column) = self.next.get();
        let Some(&Some(rows)) = self.matrices.get(matrix) else { return };
        let mut place = rows.start.wrapping_add(row * rows.stride + column);
        let end = (column + PAIRS * PAIR).min(rows.width);
        let mut at = column;
        while at < end {
            prefetch(place, 1);
            place = place.wrapping_add(PAIR);
            at += PAIR;
        }
        column = end;
        if column == rows.width {
            (row, column) = (row + 1, 0);
        }
        self.next.set(if row >= rows.count { (matrix + 1, 0, 0) } else { (matrix, row, column) });
    }
}
