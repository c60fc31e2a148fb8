use std::{f32::consts::LOG2_E, ops::Range};

use pulp::{Arch, Simd, WithSimd};

use super::{
    grid::{Grid, GridMut},
    problem::Problem,
    relative::Shifted,
    segment::{Segment, segments},
    tile::Tile,
};
use crate::blocks::{
    neighborhood::plan::{Group, PlanAxis, pieces_of_blocks},
    simd::{Band, Product, Strided, dot, exp2, multiply, scratch, transpose},
};

/// Into how many tasks at least the queries are divided, however few the heads are. A constant, so that sums are in the same order on
/// machines with more or fewer cores.
const TASKS: usize = 16;

/// What the backward pass reads besides the inputs of the forward pass.
#[derive(Clone, Copy)]
pub(super) struct Cotangents<'a> {
    /// The output of the forward pass.
    pub(super) o: Grid<'a>,
    /// The log-sum-exp of the forward pass.
    pub(super) lse: Grid<'a>,
    /// `None` = zeros.
    pub(super) d_o: Option<Grid<'a>>,
    /// `None` = zeros.
    pub(super) d_lse: Option<Grid<'a>>,
}

/// Gradients on the grid, those that are wanted; of keys and values filled with zeros.
pub(super) struct Targets<'a> {
    pub(super) q: Option<GridMut<'a>>,
    pub(super) k: Option<GridMut<'a>>,
    pub(super) v: Option<GridMut<'a>>,
}

/// What a task adds up that other tasks add to as well.
pub(super) struct Sums {
    /// The biases' gradient for each query head of the group, as [`Table`](super::problem::Table) lays it out; empty if there is none.
    pub(super) tables: Vec<Vec<f32>>,
    /// `[M, K]`
    pub(super) extra_k: Vec<f32>,
    /// `[M, V]`
    pub(super) extra_v: Vec<f32>,
    /// Of the vectors by relative place along the second and the third axis, `[offsets, K]` each; empty if there are none.
    pub(super) relative: [Vec<f32>; 2],
}

/// Writes the gradients on the grid. Returns those of biases and extra keys and values for each batch, key/value head and part of the grid,
/// in that order, to be added up.
///
/// With `P = exp(scores − lse)` and `δ = Σ_v dO·O − dlse`: `dV = Pᵀ dO`, `dS = P ⊙ (dO Vᵀ − δ)`, `dQ = scale · dS K`, `dK = scale · dSᵀ Q`.
/// Each task goes over the queries of a part of the grid for one key/value head. Where two parts see the same keys, one is even and one
/// odd, and first all even ones run, then all odd ones: each sum is in a fixed order, in place.
pub(super) fn backward(problem: &Problem, cotangents: &Cotangents, targets: &Targets, with_table: bool) -> Vec<Sums> {
    let parts = Parts::new(problem);
    let heads = problem.b * problem.g;
    let arch = Arch::new();
    let phases = [0, 1].map(|odd| {
        let here = (parts.count + 1 - odd) / 2;
        problem.map_tasks(heads * here, |index| {
            let (head, part) = (index / here, index % here * 2 + odd);
            let head = (head / problem.g, head % problem.g);
            arch.dispatch(Task { problem, cotangents, targets, parts: &parts, head, part, with_table })
        })
    });
    let [mut even, mut odd] = phases.map(Vec::into_iter);
    let order = (0..heads).flat_map(|_| 0..parts.count);
    order.filter_map(|part| if part % 2 == 0 { even.next() } else { odd.next() }).collect()
}

/// The grid in parts along one axis, of which neither two even ones nor two odd ones see a key in common.
struct Parts {
    axis: usize,
    count: usize,
    /// Positions at which parts may begin.
    unit: usize,
}

impl Parts {
    fn new(problem: &Problem) -> Self {
        let [height, width] = problem.tile();
        let units = [1, height, width];
        let axis = (0..3).find(|&axis| problem.plan.axes[axis].length > 1).unwrap_or(2);
        let wanted = match problem.b * problem.g {
            // Any region may see any other.
            _ if problem.plan.routes.is_some() => 1,
            heads if heads >= TASKS => 1,
            heads => 2 * TASKS.div_ceil(heads.max(1)),
        };
        let of = |count| Self { axis, count, unit: units[axis] };
        (2..=wanted).rev().map(of).find(|parts| parts.are_apart(&problem.plan.axes[axis])).unwrap_or(of(1))
    }

    /// The positions of a part in a group of so many.
    fn range(&self, part: usize, positions: usize) -> Range<usize> {
        let units = positions.div_ceil(self.unit);
        let at = |part: usize| (part * units / self.count * self.unit).min(positions);
        at(part)..at(part + 1)
    }

    fn are_apart(&self, axis: &PlanAxis) -> bool {
        axis.groups.iter().all(|group| {
            let ranges: Vec<_> = (0..self.count).map(|part| self.range(part, group.seen.len())).collect();
            let apart = |parts: &[Range<usize>]| group.seen_by(&parts[0]).end <= group.seen_by(&parts[2]).start;
            ranges.iter().all(|range| !range.is_empty()) && ranges.windows(3).all(apart)
        })
    }
}

struct Task<'a> {
    problem: &'a Problem<'a>,
    cotangents: &'a Cotangents<'a>,
    targets: &'a Targets<'a>,
    parts: &'a Parts,
    head: (usize, usize),
    part: usize,
    with_table: bool,
}

impl WithSimd for Task<'_> {
    type Output = Sums;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> Sums {
        let Self { problem, parts, head: (b, g), .. } = self;
        let heads = problem.h / problem.g;
        let extra = problem.extra.map_or(0, |(_, m)| m);
        let mut sums = Sums {
            tables: problem.table.filter(|_| self.with_table).map_or(Vec::new(), |table| vec![table.zeros(); heads]),
            extra_k: vec![0.0; extra * problem.k.width()],
            extra_v: vec![0.0; extra * problem.v.width()],
            relative: problem.relative.map_or_else(Default::default, |relative| relative.vectors.map(|x| vec![0.0; x.len()])),
        };
        let [height, width] = problem.tile();
        for groups in problem.plan.groups() {
            let ranges = [0, 1, 2].map(|axis| {
                let positions = groups[axis].seen.len();
                if axis == parts.axis { parts.range(self.part, positions) } else { 0..positions }
            });
            let [zs, ys, xs] = ranges;
            for h in 0..heads {
                let [_, along_y, along_x] = &problem.plan.axes;
                for (z, ys) in zs.clone().flat_map(|z| pieces_of_blocks(&ys, height, along_y.block).map(move |ys| (z, ys))) {
                    for xs in pieces_of_blocks(&xs, width, along_x.block) {
                        self.tile(simd, (b, g * heads + h), groups, (z, ys.clone(), xs), &mut sums);
                    }
                }
            }
        }
        sums
    }
}

impl Task<'_> {
    /// Adds the share of one tile of queries to all gradients.
    #[inline(always)]
    fn tile<S: Simd>(
        &self,
        simd: S,
        (b, h): (usize, usize),
        groups: [&Group; 3],
        at: (usize, Range<usize>, Range<usize>),
        sums: &mut Sums,
    ) {
        let Self { problem, cotangents, targets, .. } = *self;
        let k = problem.k.width();
        let queries = Differentiated::new(simd, problem, cotangents, Tile::new(simd, problem, (b, h), groups, at));
        let tile = &queries.tile;
        let segments = segments(problem, tile, S::F32_LANES);
        let room = segments.iter().map(Segment::len).max().unwrap_or(0);
        let (mut weights, mut d_scores) = (scratch(room), scratch(room));
        let mut d_q = vec![0.0; tile.count * k];
        let mut d_relative = problem.relative.map(|_| [0, 1].map(|axis| Shifted::zeros(tile, axis)));
        let mut copies = Copies::default();
        let (outside_k, outside_v) = (problem.extra.map(|([k, _], _)| k), problem.extra.map(|([_, v], _)| v));
        let g = problem.group(h);
        for segment in &segments {
            let keys = segment.rows(tile, (problem.k, outside_k), g, &mut copies.k);
            let values = segment.rows(tile, (problem.v, outside_v), g, &mut copies.v);
            let (weights, d_scores) = (&mut weights[..segment.len()], &mut d_scores[..segment.len()]);
            queries.segment(simd, problem, segment, [keys, values], weights, d_scores);
            self.accumulate(simd, &queries, segment, (keys, weights, d_scores), (&mut d_q, sums, &mut copies.sums));
            if let Some(d_relative) = &mut d_relative {
                Tile::add_to_relative(segment, d_scores, d_relative);
            }
        }
        if let (Some([rows, columns]), Some(relative)) = (d_relative, problem.relative) {
            let [d_rows, d_columns] = &mut sums.relative;
            rows.spread(simd, problem, tile, relative, 0, (&mut d_q, d_rows));
            columns.spread(simd, problem, tile, relative, 1, (&mut d_q, d_columns));
        }
        if let Some(target) = &targets.q {
            for (lane, x) in tile.tokens() {
                // SAFETY: no other task has this query of this head.
                let row = unsafe { target.slice(b, x, h) };
                for (x, y) in row.iter_mut().zip(&d_q[lane * k..]) {
                    *x = y * problem.plan.scale as f32;
                }
            }
        }
    }

    #[inline(always)]
    fn accumulate<S: Simd>(
        &self,
        simd: S,
        queries: &Differentiated,
        segment: &Segment,
        (keys, weights, d_scores): ((*const f32, usize), &[f32], &[f32]),
        (d_q, sums, copy): (&mut [f32], &mut Sums, &mut Vec<f32>),
    ) {
        let Self { problem, targets, .. } = *self;
        let tile = &queries.tile;
        let (k, v) = (problem.k.width(), problem.v.width());
        let (lanes, g) = (&segment.lanes, problem.group(tile.h));
        let rows = lanes.end.min(tile.count) - lanes.start;
        assert!(weights.len() == segment.len() && d_scores.len() == segment.len());
        let to_keys = |scores: &[f32], rows_of: &[f32], width: usize, (c, c_row): (*mut f32, usize)| Product {
            m: segment.keys,
            n: width,
            inner: rows,
            a: Strided::rows(scores.as_ptr(), lanes.len()),
            b: rows_of[lanes.start * width..(lanes.start + rows) * width].as_ptr(),
            b_row: width,
            c,
            c_row,
            add: true,
            band: Band::Full,
        };
        // SAFETY: the segment's keys lie in their tensors, and of tasks that run together none has keys of this one's; scores and rows have
        // the lengths asserted and sliced.
        unsafe {
            if let (Some(target), false) = (&targets.v, queries.d_o.is_empty()) {
                let to = segment.rows_mut(tile, target, &mut sums.extra_v, (g, v), copy);
                multiply(simd, to_keys(weights, &queries.d_o, v, to));
                segment.add_copy(tile, target, (g, v), copy);
            }
            if let Some(target) = &targets.k {
                let to = segment.rows_mut(tile, target, &mut sums.extra_k, (g, k), copy);
                multiply(simd, to_keys(d_scores, &tile.rows, k, to));
                segment.add_copy(tile, target, (g, k), copy);
            }
            if targets.q.is_some() {
                let (b, b_row) = keys;
                let product = Product {
                    m: rows,
                    n: k,
                    inner: segment.keys,
                    a: Strided::rows(d_scores.as_ptr(), lanes.len()).transposed(),
                    b,
                    b_row,
                    c: d_q[lanes.start * k..(lanes.start + rows) * k].as_mut_ptr(),
                    c_row: k,
                    add: true,
                    band: Band::Full,
                };
                multiply(simd, product);
            }
        }
        let heads = problem.h / problem.g;
        if let Some(table) = sums.tables.get_mut(tile.h % heads) {
            tile.add_to_table(problem, segment, d_scores, table);
        }
    }
}

/// Rows of keys and values side by side, and of gradients of either.
#[derive(Default)]
struct Copies {
    k: Vec<f32>,
    v: Vec<f32>,
    sums: Vec<f32>,
}

/// A tile of queries with what their gradients need.
struct Differentiated<'a> {
    tile: Tile<'a>,
    /// Cotangents of the output, `[count, V]`; empty if they are zeros.
    d_o: Vec<f32>,
    /// The same, `[V, width]`.
    packed: Vec<f32>,
    /// Log-sum-exp to base 2; +∞ in lanes without a query, which makes all their weights 0.
    lse: Vec<f32>,
    /// δ
    delta: Vec<f32>,
}

impl<'a> Differentiated<'a> {
    #[inline(always)]
    fn new<S: Simd>(simd: S, problem: &Problem, cotangents: &Cotangents, tile: Tile<'a>) -> Self {
        let v = problem.v.width();
        let (mut lse, mut delta) = (vec![f32::INFINITY; tile.width], vec![0.0; tile.width]);
        let d_o = cotangents.d_o.map_or(Vec::new(), |d_o| tile.gather(d_o, 1.0));
        let mut packed = scratch(if d_o.is_empty() { 0 } else { v * tile.width });
        if !d_o.is_empty() {
            // SAFETY: the rows are `count` of V numbers.
            unsafe { transpose(d_o.as_ptr(), v, tile.count, v, 1.0, &mut packed, tile.width) };
        }
        for (lane, x) in tile.tokens() {
            // SAFETY: the tokens are those of the grid.
            unsafe {
                lse[lane] = cotangents.lse.slice(tile.b, x, tile.h)[0] * LOG2_E;
                if !d_o.is_empty() {
                    delta[lane] = dot(simd, &d_o[lane * v..(lane + 1) * v], cotangents.o.slice(tile.b, x, tile.h));
                }
                delta[lane] -= cotangents.d_lse.map_or(0.0, |d_lse| d_lse.slice(tile.b, x, tile.h)[0]);
            }
        }
        Self { tile, d_o, packed, lse, delta }
    }

    /// Weights and gradients of the scores of a segment, `[keys, lanes]`.
    #[inline(always)]
    fn segment<S: Simd>(
        &self,
        simd: S,
        problem: &Problem,
        segment: &Segment,
        [keys, (v, v_row)]: [(*const f32, usize); 2],
        weights: &mut [f32],
        d_scores: &mut [f32],
    ) {
        let tile = &self.tile;
        tile.scores(simd, problem, segment, keys, weights);
        if self.d_o.is_empty() {
            d_scores.fill(0.0);
        } else {
            tile.product(simd, segment, (v, v_row, problem.v.width()), &self.packed, d_scores, false);
        }
        let vectors = segment.lanes.start / S::F32_LANES..segment.lanes.end / S::F32_LANES;
        let (lse, delta) = (&S::as_simd_f32s(&self.lse).0[vectors.clone()], &S::as_simd_f32s(&self.delta).0[vectors.clone()]);
        let ((weights, _), (d_scores, _)) = (S::as_mut_simd_f32s(weights), S::as_mut_simd_f32s(d_scores));
        for (weights, d_scores) in weights.chunks_exact_mut(vectors.len()).zip(d_scores.chunks_exact_mut(vectors.len())) {
            for ((p, ds), (lse, delta)) in weights.iter_mut().zip(d_scores).zip(lse.iter().zip(delta)) {
                *p = exp2(simd, simd.sub_f32s(*p, *lse));
                *ds = simd.mul_f32s(*p, simd.sub_f32s(*ds, *delta));
            }
        }
    }
}
