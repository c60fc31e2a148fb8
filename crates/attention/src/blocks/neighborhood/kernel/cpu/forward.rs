use std::f32::consts::LN_2;

use pulp::{Arch, Simd, WithSimd};

use super::{
    grid::GridMut,
    problem::{Problem, QUERIES},
    running::Running,
    segment::{Segment, segments},
    tile::Tile,
};
use crate::blocks::{
    neighborhood::plan::{Group, pieces_of_blocks},
    simd::{Band, Product, Strided, multiply, scratch},
};

/// Scores that exist at a time, unless one segment has more.
const SCORES: usize = 1 << 14;

/// The output `[B, *X, H, V]` and the log-sum-exp of the scores `[B, *X, H, 1]`. A task does some rows of queries of one head and dilation
/// group, tile by tile, each over the segments of keys that it sees, with a running softmax.
pub(super) fn forward(problem: &Problem, out: &GridMut, lse: &GridMut) {
    let [height, width] = problem.tile();
    let mut tasks = Vec::new();
    for groups in problem.plan.groups() {
        let rows = pieces_of_blocks(&(0..groups[1].seen.len()), height, problem.plan.axes[1].block);
        tasks.extend((0..groups[0].seen.len()).flat_map(|z| rows.clone().map(move |ys| (groups, z, ys))));
    }
    let arch = Arch::new();
    let (heads, count) = (problem.b * problem.h, tasks.len());
    problem.map_tasks(heads * count, |index| {
        let (groups, z, ys) = tasks[index % count].clone();
        let head = (index / count / problem.h, index / count % problem.h);
        for xs in pieces_of_blocks(&(0..groups[2].seen.len()), width, problem.plan.axes[2].block) {
            arch.dispatch(Task { problem, out, lse, head, groups, at: (z, ys.clone(), xs) });
        }
    });
}

struct Task<'a> {
    problem: &'a Problem<'a>,
    out: &'a GridMut<'a>,
    lse: &'a GridMut<'a>,
    head: (usize, usize),
    groups: [&'a Group; 3],
    at: (usize, std::ops::Range<usize>, std::ops::Range<usize>),
}

impl WithSimd for Task<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { problem, head: (b, h), .. } = self;
        let v = problem.v.width();
        let tile = Tile::new(simd, problem, (b, h), self.groups, self.at);
        let segments = segments(problem, &tile, S::F32_LANES);
        let mut running = Running::new(tile.width);
        let mut scores = scratch(segments.iter().map(Segment::len).sum::<usize>().min(SCORES + QUERIES * QUERIES));
        let mut sums = vec![0.0; tile.count * v]; // [queries, V]
        let (outside_k, outside_v) = (problem.extra.map(|([k, _], _)| k), problem.extra.map(|([_, v], _)| v));
        let g = problem.group(h);
        let mut copy = Vec::new();
        let mut rest = &segments[..];
        let mut first = true;
        while !rest.is_empty() {
            let chunk = chunk(&mut rest);
            let mut at = 0;
            for segment in chunk {
                let keys = segment.rows(&tile, (problem.k, outside_k), g, &mut copy);
                tile.scores(simd, problem, segment, keys, &mut scores[at..at + segment.len()]);
                at += segment.len();
            }
            running.absorb(simd, chunk, &mut scores[..at]);
            if !first {
                for (row, &factor) in sums.chunks_exact_mut(v.max(1)).zip(&running.factor) {
                    // Exactly 1 where the highest score stays.
                    if factor != 1.0 {
                        for x in row {
                            *x *= factor;
                        }
                    }
                }
            }
            first = false;
            let mut at = 0;
            for segment in chunk {
                let values = segment.rows(&tile, (problem.v, outside_v), g, &mut copy);
                add_values(simd, problem, &tile, segment, values, (&scores[at..at + segment.len()], &mut sums));
                at += segment.len();
            }
        }
        for (lane, x) in tile.tokens() {
            let (sum, highest) = (running.sum[lane], running.highest[lane]);
            // SAFETY: no other task has this query of this head.
            let (out, lse) = unsafe { (self.out.slice(b, x, h), self.lse.slice(b, x, h)) };
            for (x, y) in out.iter_mut().zip(&sums[lane * v..]) {
                *x = y / sum;
            }
            lse[0] = (highest + sum.log2()) * LN_2;
        }
    }
}

/// The next segments, as many as have room together, at least one.
fn chunk<'a>(rest: &mut &'a [Segment]) -> &'a [Segment] {
    let mut len = 0;
    let fits = rest.iter().take_while(|segment| {
        len += segment.len();
        len <= SCORES
    });
    let (chunk, others) = rest.split_at(fits.count().max(1));
    *rest = others;
    chunk
}

/// `sums += Pᵀ V` for the weights of a segment.
#[inline(always)]
fn add_values<S: Simd>(
    simd: S,
    problem: &Problem,
    tile: &Tile,
    segment: &Segment,
    (v, v_row): (*const f32, usize),
    (weights, sums): (&[f32], &mut [f32]),
) {
    let (lanes, width) = (&segment.lanes, problem.v.width());
    assert!(weights.len() == segment.len() && sums.len() == tile.count * width);
    let product = Product {
        m: lanes.end.min(tile.count) - lanes.start,
        n: width,
        inner: segment.keys,
        a: Strided::rows(weights.as_ptr(), lanes.len()).transposed(),
        b: v,
        b_row: v_row,
        c: sums.as_mut_ptr().wrapping_add(lanes.start * width),
        c_row: width,
        add: true,
        band: Band::Full,
    };
    // SAFETY: the values lie in their tensor, the other lengths are those just asserted.
    unsafe { multiply(simd, product) };
}
