use std::{f32::consts::LOG2_E, ops::Range};

use rayon::prelude::*;

use super::grid::Grid;
use crate::blocks::neighborhood::plan::{Group, Plan};

/// Queries of a tile, at most: with them along the lanes, a tile of scores, its queries and its keys lie in the first two caches together.
pub(super) const QUERIES: usize = 64;
/// Queries of a tile along the last axis, where there is another one. Few, because a key is multiplied with all of a tile's queries that lie
/// in a row with one that sees it.
const ALONG: usize = 8;

/// What forward and backward read.
#[derive(Clone, Copy)]
pub(super) struct Problem<'a> {
    pub(super) b: usize,
    pub(super) h: usize,
    pub(super) g: usize,
    pub(super) plan: &'a Plan,
    pub(super) q: Grid<'a>,
    pub(super) k: Grid<'a>,
    pub(super) v: Grid<'a>,
    pub(super) table: Option<&'a Table>,
    /// Keys and values outside of the grid, `[B, 1, 1, M, G, width]`, and how many.
    pub(super) extra: Option<([Grid<'a>; 2], usize)>,
    pub(super) relative: Option<Vectors<'a>>,
}

/// Vectors by relative place along the second and the third axis, `[offsets, K]`, and the factor on their products with queries.
#[derive(Clone, Copy)]
pub(super) struct Vectors<'a> {
    pub(super) vectors: [&'a [f32]; 2],
    pub(super) factor: f32,
}

impl Problem<'_> {
    /// The key/value head of query head `h`.
    pub(super) fn group(&self, h: usize) -> usize {
        h / (self.h / self.g)
    }

    /// Positions of a tile along the last two axes.
    pub(super) fn tile(&self) -> [usize; 2] {
        let [_, y, x] = &self.plan.axes;
        if self.plan.routes.is_some() {
            let along_x = x.block.min(QUERIES);
            return [(QUERIES / along_x).min(y.block), along_x];
        }
        // Whole blocks of queries that share their window waste nothing.
        let whole = |stride: usize, room: usize| if stride <= room { room / stride * stride } else { room };
        let room = if y.length == 1 { QUERIES } else { ALONG };
        let along_x = if x.stride > room { x.stride.min(QUERIES) } else { whole(x.stride, room) };
        let along_x = along_x.min(x.groups[0].seen.len());
        [whole(y.stride, QUERIES / along_x), along_x]
    }

    /// Multiply-adds of a forward pass.
    fn work(&self) -> usize {
        let seen = |group: &Group| group.seen.iter().map(Range::len).sum::<usize>();
        let [_, y, x] = &self.plan.axes;
        let pairs: usize = match &self.plan.routes {
            Some(routes) => y.length * x.length * routes.topk * y.block * x.block,
            None => self.plan.axes.iter().map(|axis| axis.groups.iter().map(seen).sum::<usize>()).product(),
        };
        self.b * self.h * pairs * (self.k.width() + self.v.width())
    }

    /// What the tasks return, in their order; on all threads if they are worth it.
    pub(super) fn map_tasks<T: Send>(&self, count: usize, task: impl Fn(usize) -> T + Sync + Send) -> Vec<T> {
        const WORTH_A_THREAD: usize = 1 << 17;
        if count > 1 && self.work() >= WORTH_A_THREAD {
            (0..count).into_par_iter().map(task).collect()
        } else {
            (0..count).map(task).collect()
        }
    }
}

/// The token of a position.
#[inline(always)]
pub(super) fn token(groups: [&Group; 3], x: [usize; 3]) -> [usize; 3] {
    std::array::from_fn(|i| groups[i].first + x[i] * groups[i].step)
}

/// The biases by offset, to base 2 and with each row of the last axis reversed, so that those of one key for queries side by side lie side by
/// side too; and with room at both ends for offsets that no window has.
pub(super) struct Table {
    data: Vec<f32>,
    offsets: [usize; 3],
    room: usize,
    /// Numbers per head.
    len: usize,
}

impl Table {
    pub(super) fn new(biases: &[f32], heads: usize, plan: &Plan) -> Self {
        let offsets = plan.axes.each_ref().map(|axis| axis.offsets);
        // A query is at most a tile's length from one that sees the key.
        let room = offsets[2] + QUERIES;
        let mut table = Self { data: Vec::new(), offsets, room, len: plan.table() + 2 * room };
        table.data = vec![0.0; heads * table.len];
        for (from, to) in biases.chunks_exact(plan.table()).zip(table.data.chunks_exact_mut(table.len)) {
            for (from, to) in from.chunks_exact(offsets[2]).zip(to[room..].chunks_exact_mut(offsets[2])) {
                to.iter_mut().zip(from.iter().rev()).for_each(|(to, from)| *to = from * LOG2_E);
            }
        }
        table
    }

    /// The numbers of a head.
    pub(super) fn head(&self, h: usize) -> &[f32] {
        &self.data[h * self.len..][..self.len]
    }

    /// Memory for the gradient of a head's numbers.
    pub(super) fn zeros(&self) -> Vec<f32> {
        vec![0.0; self.len]
    }

    /// Where in its head the number of a query and a key stands; those of later queries follow, those of later keys come before. Offsets
    /// but for the last must be in the table; the key must be one that a query of the same tile sees.
    #[inline(always)]
    pub(super) fn place(&self, query: [usize; 3], key: [usize; 3]) -> usize {
        let [n1, n2, n3] = self.offsets;
        let row = (key[0] + n1 / 2 - query[0]) * n2 + (key[1] + n2 / 2 - query[1]);
        self.room + row * n3 + n3 / 2 + query[2] - key[2]
    }

    /// A gradient as [`zeros`](Self::zeros) gives it, in the order of the biases.
    pub(super) fn unreversed<'a>(&self, gradient: &'a [f32]) -> impl Iterator<Item = f32> + 'a {
        let [n1, n2, n3] = self.offsets;
        gradient[self.room..][..n1 * n2 * n3].chunks_exact(n3).flat_map(|row| row.iter().rev().copied())
    }
}
