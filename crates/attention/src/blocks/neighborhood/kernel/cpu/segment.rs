use std::ops::Range;

use super::{
    grid::{Grid, GridMut},
    problem::Problem,
    tile::Tile,
};

/// Keys of a segment, at most.
const KEYS: usize = 32;

/// Keys side by side along the last axis, or outside of the grid, and the lanes of a tile of queries that may see one of them.
#[derive(Clone, Debug)]
pub(super) struct Segment {
    pub(super) place: Place,
    pub(super) keys: usize,
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

    /// The first key or value, of a tensor on the grid and one outside of it, and the distance of neighbours.
    pub(super) fn rows(&self, tile: &Tile, (inside, outside): (Grid, Option<Grid>), g: usize) -> (*const f32, usize) {
        match (self.place, outside) {
            (Place::Grid(x), _) => (inside.row(tile.b, tile.token(x), g), inside.along() * tile.groups[2].step),
            (Place::Extra(first), Some(outside)) => (outside.row(tile.b, [0, 0, first], g), outside.along()),
            (Place::Extra(_), None) => unreachable!("segments outside of the grid are made where there are such keys"),
        }
    }

    /// As [`rows`](Self::rows), to write: of a tensor on the grid, or of the rows outside of it.
    pub(super) fn rows_mut(&self, tile: &Tile, inside: &GridMut, outside: &mut [f32], g: usize, width: usize) -> (*mut f32, usize) {
        match self.place {
            Place::Grid(x) => (inside.row(tile.b, tile.token(x), g), inside.along() * tile.groups[2].step),
            Place::Extra(first) => (outside[first * width..].as_mut_ptr(), width),
        }
    }
}

/// The segments of all keys that a tile of queries sees, in a fixed order. `lanes` is the number of lanes of a vector.
pub(super) fn segments(problem: &Problem, tile: &Tile, lanes: usize) -> Vec<Segment> {
    let mut segments = Vec::new();
    if let Some(routes) = &problem.plan.routes {
        let grid = [1, 2].map(|axis| problem.plan.axes[axis].length);
        for [ys, xs] in routes.seen(tile.b, tile.first(), grid) {
            for (y, keys) in ys.flat_map(|y| evenly(&xs).map(move |keys| (y, keys))) {
                segments.push(Segment { place: Place::Grid([0, y, keys.start]), keys: keys.len(), lanes: 0..tile.width, whole: true });
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
                segments.push(Segment { place: Place::Grid([z, y, keys.start]), keys: keys.len(), lanes, whole });
            }
        }
    }
    let extra = problem.extra.map_or(0, |(_, m)| m);
    for keys in evenly(&(0..extra)) {
        segments.push(Segment { place: Place::Extra(keys.start), keys: keys.len(), lanes: 0..tile.width, whole: true });
    }
    segments
}

/// Pieces of at most [`KEYS`], of about one size.
fn evenly(range: &Range<usize>) -> impl Iterator<Item = Range<usize>> + use<> {
    let (start, len) = (range.start, range.len());
    let count = len.div_ceil(KEYS);
    (0..count).map(move |i| start + i * len / count..start + (i + 1) * len / count)
}
