use std::ops::Range;

use super::{
    grid::{Grid, GridMut},
    problem::Problem,
    tile::Tile,
};

/// Keys of a segment, at most.
const KEYS: usize = 32;
/// Keys of joined segments, at most.
const JOINED: usize = 64;

/// Keys side by side along the last axis, or outside of the grid, and the lanes of a tile of queries that may see one of them. Rows of keys
/// that the same lanes see whole are one segment: products with more keys at a time are worth copying these.
#[derive(Clone, Debug)]
pub(super) struct Segment {
    pub(super) place: Place,
    pub(super) keys: usize,
    /// Keys of a row.
    pub(super) row: usize,
    /// Whole vectors.
    pub(super) lanes: Range<usize>,
    /// Whether every query among the lanes sees every key.
    pub(super) whole: bool,
}

/// Where the keys of a [`Segment`] are.
#[derive(Clone, Copy, Debug)]
pub(super) enum Place {
    /// The position of the first in the tile's dilation group.
    Grid([usize; 3]),
    /// The number of the first outside of the grid.
    Extra(usize),
}

impl Segment {
    /// Numbers of a tile of scores `[keys, lanes]`.
    pub(super) fn len(&self) -> usize {
        self.keys * self.lanes.len()
    }

    /// The first key or value, of a tensor on the grid and one outside of it, and the distance of neighbours; in `copy` if there are several
    /// rows.
    #[inline(always)]
    pub(super) fn rows(&self, tile: &Tile, (inside, outside): (Grid, Option<Grid>), g: usize, copy: &mut Vec<f32>) -> (*const f32, usize) {
        match (self.place, outside) {
            (Place::Grid(_), _) if self.row < self.keys => {
                copy.clear();
                for x in self.positions() {
                    // SAFETY: the keys are those of the grid.
                    copy.extend_from_slice(unsafe { inside.slice(tile.b, tile.token(x), g) });
                }
                (copy.as_ptr(), inside.width())
            }
            (Place::Grid(x), _) => (inside.row(tile.b, tile.token(x), g), inside.along() * tile.groups[2].step),
            (Place::Extra(first), Some(outside)) => (outside.row(tile.b, [0, 0, first], g), outside.along()),
            (Place::Extra(_), None) => unreachable!("segments outside of the grid are made where there are such keys"),
        }
    }

    /// The positions of the keys on the grid.
    fn positions(&self) -> impl Iterator<Item = [usize; 3]> + use<> {
        let Self { place, keys, row, .. } = *self;
        let first = if let Place::Grid(x) = place { x } else { [0; 3] };
        (0..keys).map(move |key| [first[0], first[1] + key / row, first[2] + key % row])
    }

    /// As [`rows`](Self::rows), to add to: of a tensor on the grid, or of the rows outside of it; zeros in `copy` if there are several rows,
    /// for [`add_copy`](Self::add_copy).
    pub(super) fn rows_mut(
        &self,
        tile: &Tile,
        inside: &GridMut,
        outside: &mut [f32],
        (g, width): (usize, usize),
        copy: &mut Vec<f32>,
    ) -> (*mut f32, usize) {
        match self.place {
            Place::Grid(_) if self.row < self.keys => {
                copy.clear();
                copy.resize(self.keys * width, 0.0);
                (copy.as_mut_ptr(), width)
            }
            Place::Grid(x) => (inside.row(tile.b, tile.token(x), g), inside.along() * tile.groups[2].step),
            Place::Extra(first) => (outside[first * width..].as_mut_ptr(), width),
        }
    }
}

impl Segment {
    /// Adds what was added to the copy to the rows themselves, if there is one.
    ///
    /// # Safety
    /// Nobody else may hold these rows.
    #[inline(always)]
    pub(super) unsafe fn add_copy(&self, tile: &Tile, inside: &GridMut, (g, width): (usize, usize), copy: &[f32]) {
        if self.row == self.keys {
            return;
        }
        for (x, from) in self.positions().zip(copy.chunks_exact(width.max(1))) {
            // SAFETY: the keys are those of the grid, and the caller owns them.
            let to = unsafe { inside.slice(tile.b, tile.token(x), g) };
            for (to, from) in to.iter_mut().zip(from) {
                *to += from;
            }
        }
    }

    /// Takes the next segment in if its keys are the next row of this one's, and the same lanes see both whole.
    fn join(&mut self, next: &Self) -> bool {
        let (Place::Grid([z, y, x]), Place::Grid(next_x)) = (self.place, next.place) else { return false };
        let fits = self.whole && next.whole && self.lanes == next.lanes && self.row == next.row && self.keys + next.keys <= JOINED;
        let joins = fits && next_x == [z, y + self.keys / self.row, x];
        if joins {
            self.keys += next.keys;
        }
        joins
    }
}

/// The segments of all keys that a tile of queries sees, in a fixed order. `lanes` is the number of lanes of a vector.
pub(super) fn segments(problem: &Problem, tile: &Tile, lanes: usize) -> Vec<Segment> {
    let mut segments: Vec<Segment> = Vec::new();
    // Biases by offset are added row by row.
    let mut push = |segment: Segment| {
        let joined = problem.table.is_none() && segments.last_mut().is_some_and(|last| last.join(&segment));
        if !joined {
            segments.push(segment);
        }
    };
    if let Some(routes) = &problem.plan.routes {
        let grid = [1, 2].map(|axis| problem.plan.axes[axis].length);
        for [ys, xs] in routes.seen(tile.b, tile.first(), grid) {
            for (y, keys) in ys.flat_map(|y| evenly(&xs).map(move |keys| (y, keys))) {
                let (place, lanes) = (Place::Grid([0, y, keys.start]), 0..tile.width);
                push(Segment { place, keys: keys.len(), row: keys.len(), lanes, whole: true });
            }
        }
        return segments;
    }
    let [zs, ys, xs] = tile.seen_by();
    for (z, y) in zs.flat_map(|z| ys.clone().map(move |y| (z, y))) {
        for keys in evenly(&xs) {
            if let Some((seen, whole)) = tile.who_sees(y, &keys) {
                let lanes = seen.start / lanes * lanes..seen.end.next_multiple_of(lanes);
                let whole = whole && seen.start == lanes.start && seen.end == lanes.end.min(tile.count);
                push(Segment { place: Place::Grid([z, y, keys.start]), keys: keys.len(), row: keys.len(), lanes, whole });
            }
        }
    }
    let extra = problem.extra.map_or(0, |(_, m)| m);
    for keys in evenly(&(0..extra)) {
        push(Segment { place: Place::Extra(keys.start), keys: keys.len(), row: keys.len(), lanes: 0..tile.width, whole: true });
    }
    segments
}

/// Pieces of at most [`KEYS`], of about one size.
fn evenly(range: &Range<usize>) -> impl Iterator<Item = Range<usize>> + use<> {
    let (start, len) = (range.start, range.len());
    let count = len.div_ceil(KEYS);
    (0..count).map(move |i| start + i * len / count..start + (i + 1) * len / count)
}
