//! Neighbourhoods in tensor operations, for devices and float types without a fused kernel: tile of queries by tile, whose keys lie in one
//! box of the grid. The scores of one tile exist at a time, in training too: the backward pass computes them again.

use std::ops::Range;

use burn::tensor::{Bool, IndexingUpdateOp, Int, Slice, Tensor, TensorData};

use super::{Gradients, Inputs, WANTED};
use crate::blocks::neighborhood::plan::{Group, Plan, pieces};

/// Queries per tile; few in tests, where grids of several tiles are to be quick.
const QUERIES: usize = if cfg!(test) { 9 } else { 256 };

pub(super) fn forward<const N: usize>(inputs: &Inputs<N>, plan: &Plan) -> [Tensor<N>; 2] {
    let work = Work::new(inputs, plan);
    let [b, h, y, x, z, _] = work.q.dims();
    let of_width = |width| Tensor::<6>::zeros([b, h, y, x, z, width], (&work.q.device(), work.q.dtype()));
    let (mut o, mut lse) = (of_width(work.v.dims()[5]), of_width(1));
    if !work.is_empty() {
        for tile in work.tiles() {
            let scores = tile.scores();
            let highest = scores.clone().max_dim(3);
            let powers = (scores - highest.clone()).exp();
            let sum = powers.clone().sum_dim(3); // [B, H, T, 1]
            let out = tile.times(powers / sum.clone(), tile.keys(&work.v, work.extra.as_ref().map(|x| &x[1])));
            o = tile.assign(o, out);
            lse = tile.assign(lse, sum.log() + highest);
        }
    }
    [o, lse].map(from_heads)
}

pub(super) fn backward<const N: usize>(
    inputs: &Inputs<N>,
    plan: &Plan,
    outputs: &[Tensor<N>; 2],
    cotangents: [Option<Tensor<N>>; 2],
    wanted: [bool; WANTED],
) -> Gradients<N> {
    let work = Work::new(inputs, plan);
    let [o, lse] = outputs.clone().map(to_heads);
    let [d_o, d_lse] = cotangents.map(|x| x.map(to_heads));
    let d_o = d_o.unwrap_or_else(|| o.zeros_like());
    let mut delta = (d_o.clone() * o).sum_dim(5);
    if let Some(d_lse) = d_lse {
        delta = delta - d_lse;
    }
    let (mut d_q, mut d_k, mut d_v) = (work.q.zeros_like(), work.k.zeros_like(), work.v.zeros_like());
    let mut d_extra = work.extra.as_ref().map(|x| x.each_ref().map(Tensor::zeros_like));
    let mut d_bias = work.bias.as_ref().map(Tensor::zeros_like);
    if !work.is_empty() {
        for tile in work.tiles() {
            let [d_o, lse, delta, q] = [&d_o, &lse, &delta, &work.q].map(|x| tile.queries(x));
            let weights = (tile.scores() - lse).exp();
            let values = tile.keys(&work.v, work.extra.as_ref().map(|x| &x[1]));
            let d_scores = weights.clone() * (tile.times(d_o.clone(), values.swap_dims(2, 3)) - delta);
            if let (true, Some(sum)) = (wanted[3], d_bias.take()) {
                d_bias = Some(tile.add_to_table(sum, d_scores.clone()));
            }
            let scaled = d_scores * plan.scale;
            let [of_keys, of_values] = [tile.keys_times(scaled.clone(), q), tile.keys_times(weights, d_o)];
            let keys = tile.keys(&work.k, work.extra.as_ref().map(|x| &x[0]));
            d_q = tile.assign(d_q, tile.times(scaled, keys));
            d_k = tile.add_to_keys(d_k, &of_keys);
            d_v = tile.add_to_keys(d_v, &of_values);
            if let Some([k, v]) = d_extra.take() {
                d_extra = Some([k + tile.extra_of(of_keys), v + tile.extra_of(of_values)]);
            }
        }
    }
    let [extra_k, extra_v] = d_extra.map_or([None, None], |x| x.map(|x| Some(x.swap_dims(1, 2))));
    Gradients {
        grids: [d_q, d_k, d_v].map(|x| Some(from_heads(x))),
        bias: d_bias.filter(|_| wanted[3]),
        extra: [extra_k, extra_v],
        relative: [None, None],
    }
}

/// `[B, X1…Xr, H, K]` with three axes and the heads before them: `[B, H, X1, X2, X3, K]`
fn to_heads<const N: usize>(x: Tensor<N>) -> Tensor<6> {
    let dims = x.dims();
    let mut shape = [1; 6];
    shape[0] = dims[0];
    shape[7 - N..].copy_from_slice(&dims[1..]);
    x.reshape(shape).permute([0, 4, 1, 2, 3, 5])
}

/// The reverse of [`to_heads`].
fn from_heads<const N: usize>(x: Tensor<6>) -> Tensor<N> {
    let x = x.permute([0, 2, 3, 4, 1, 5]);
    let dims = x.dims();
    let mut shape = [dims[0]; N];
    shape[1..].copy_from_slice(&dims[7 - N..]);
    x.reshape(shape)
}

/// The inputs with their heads before the grid.
struct Work<'a> {
    plan: &'a Plan,
    /// `[B, H, X1, X2, X3, K]`
    q: Tensor<6>,
    k: Tensor<6>,
    v: Tensor<6>,
    /// `[H, offsets]`
    bias: Option<Tensor<2>>,
    /// `[B, G, M, width]`
    extra: Option<[Tensor<4>; 2]>,
}

impl<'a> Work<'a> {
    fn new<const N: usize>(inputs: &Inputs<N>, plan: &'a Plan) -> Self {
        let [q, k, v] = inputs.grids.clone().map(to_heads);
        let extra = inputs.extra.clone().map(|x| x.map(|x| x.swap_dims(1, 2)));
        Self { plan, q, k, v, bias: inputs.bias.clone(), extra }
    }

    fn is_empty(&self) -> bool {
        self.q.dims().contains(&0) || self.v.dims().contains(&0)
    }

    fn tiles(&self) -> impl Iterator<Item = Tile<'_>> {
        self.plan.groups().flat_map(move |groups| {
            let lengths = groups.map(|group| group.seen.len());
            let mut sizes = [1; 3];
            while let Some(axis) = (0..3).filter(|&i| sizes[i] < lengths[i]).min_by_key(|&i| sizes[i])
                && 2 * sizes.iter().product::<usize>() <= QUERIES
            {
                sizes[axis] *= 2;
            }
            let [a, b, c] = [0, 1, 2].map(|i| pieces(lengths[i], sizes[i]));
            let pairs = a.flat_map(move |x| b.clone().map(move |y| (x.clone(), y)));
            pairs.flat_map(move |(x, y)| c.clone().map(move |z| [x.clone(), y.clone(), z])).map(move |queries| Tile {
                work: self,
                groups,
                boxed: [0, 1, 2].map(|i| groups[i].seen_by(&queries[i])),
                queries,
            })
        })
    }
}

/// Some queries of a dilation group, T in all, and the box of keys S that they see, the extra ones behind.
struct Tile<'a> {
    work: &'a Work<'a>,
    groups: [&'a Group; 3],
    queries: [Range<usize>; 3],
    boxed: [Range<usize>; 3],
}

impl Tile<'_> {
    fn slices(&self, ranges: &[Range<usize>; 3]) -> [Slice; 6] {
        let whole = Slice::from(..);
        let along = |i: usize| {
            let Group { first, step, .. } = self.groups[i];
            let (start, last) = (first + ranges[i].start * step, first + (ranges[i].end - 1) * step);
            Slice::new(start as isize, Some(last as isize + 1), *step as isize)
        };
        [whole, whole, along(0), along(1), along(2), whole]
    }

    fn cut(&self, x: &Tensor<6>, ranges: &[Range<usize>; 3]) -> Tensor<4> {
        let [b, h, _, _, _, width] = x.dims();
        x.clone().slice(self.slices(ranges)).reshape([b, h, ranges.iter().map(Range::len).product(), width])
    }

    /// `[B, H, T, width]`
    fn queries(&self, x: &Tensor<6>) -> Tensor<4> {
        self.cut(x, &self.queries)
    }

    /// `[B, G, S, width]`
    fn keys(&self, x: &Tensor<6>, extra: Option<&Tensor<4>>) -> Tensor<4> {
        let inside = self.cut(x, &self.boxed);
        extra.map_or(inside.clone(), |extra| Tensor::cat(vec![inside, extra.clone()], 2))
    }

    /// `x` with the rows of these queries replaced.
    fn assign(&self, x: Tensor<6>, rows: Tensor<4>) -> Tensor<6> {
        let ([b, h, _, width], [y, x_, z]) = (rows.dims(), self.queries.each_ref().map(Range::len));
        x.slice_assign(self.slices(&self.queries), rows.reshape([b, h, y, x_, z, width]))
    }

    /// `sum` plus the rows of the box, which come before the extra ones.
    fn add_to_keys(&self, sum: Tensor<6>, rows: &Tensor<4>) -> Tensor<6> {
        let ([b, g, _, width], [y, x, z]) = (rows.dims(), self.boxed.each_ref().map(Range::len));
        let rows = rows.clone().narrow(2, 0, y * x * z).reshape([b, g, y, x, z, width]);
        let slices = self.slices(&self.boxed);
        let old = sum.clone().slice(slices);
        sum.slice_assign(slices, old + rows)
    }

    fn extra_of(&self, rows: Tensor<4>) -> Tensor<4> {
        let inside = self.boxed.iter().map(Range::len).product();
        let all = rows.dims()[2];
        rows.narrow(2, inside, all - inside)
    }

    /// `[B, H, T, S]`, −∞ where hidden.
    fn scores(&self) -> Tensor<4> {
        let Work { plan, q, k, bias, extra, .. } = self.work;
        let keys = self.keys(k, extra.as_ref().map(|x| &x[0]));
        let mut scores = self.times(self.queries(q) * plan.scale, keys.swap_dims(2, 3));
        let [_, h, t, s] = scores.dims();
        let device = scores.device();
        let inside = self.boxed.iter().map(Range::len).product::<usize>();
        if let Some(bias) = bias {
            let index = Tensor::<1, Int>::from_data(TensorData::new(self.offsets(), [t * inside]), &device);
            let biases = bias.clone().select(1, index).reshape([1, h, t, inside]);
            let none = Tensor::zeros([1, h, t, s - inside], (&device, biases.dtype()));
            scores = scores + if s > inside { Tensor::cat(vec![biases, none], 3) } else { biases };
        }
        let hidden = self.hidden(s - inside);
        if hidden.contains(&true) {
            let hidden = Tensor::<4, Bool>::from_data(TensorData::new(hidden, [1, 1, t, s]), &device);
            let shape = scores.dims();
            scores = scores.mask_fill(hidden.expand(shape), f64::NEG_INFINITY);
        }
        scores
    }

    /// Calls `f` for each query and key of the box.
    fn pairs<T>(&self, f: impl Fn([usize; 3], [usize; 3]) -> T + Copy) -> impl Iterator<Item = Vec<T>> {
        let keys = positions(&self.boxed);
        positions(&self.queries).into_iter().map(move |query| keys.iter().map(|key| f(query, *key)).collect())
    }

    fn hidden(&self, extra: usize) -> Vec<bool> {
        let groups = self.groups;
        let hidden = move |query: [usize; 3], key: [usize; 3]| (0..3).any(|i| !groups[i].seen[query[i]].contains(&key[i]));
        self.pairs(hidden).flat_map(|row| row.into_iter().chain(std::iter::repeat_n(false, extra))).collect()
    }

    /// Where in the table of biases the number of each query and key of the box stands. Hidden ones may lie outside: any will do.
    fn offsets(&self) -> Vec<i64> {
        let offsets = self.work.plan.axes.each_ref().map(|axis| axis.offsets);
        let place = move |query: [usize; 3], key: [usize; 3]| {
            (0..3).fold(0, |place, i| {
                let offset = (key[i] + offsets[i] / 2).saturating_sub(query[i]).min(offsets[i] - 1);
                place * offsets[i] as i64 + offset as i64
            })
        };
        self.pairs(place).flatten().collect()
    }

    /// Adds the gradient of the scores to that of the table.
    fn add_to_table(&self, sum: Tensor<2>, d_scores: Tensor<4>) -> Tensor<2> {
        let [_, h, t, _] = d_scores.dims();
        let inside = self.boxed.iter().map(Range::len).product::<usize>();
        let part = d_scores.narrow(3, 0, inside).sum_dim(0).reshape([h, t * inside]);
        let index = Tensor::<1, Int>::from_data(TensorData::new(self.offsets(), [t * inside]), &sum.device());
        sum.select_assign(1, index, part, IndexingUpdateOp::Add)
    }

    /// `[B, H, T, X]` as `[B, G, H/G · T, X]`: heads that share keys as more queries of them.
    fn grouped(&self, x: Tensor<4>) -> Tensor<4> {
        let ([b, h, t, width], g) = (x.dims(), self.work.k.dims()[1]);
        x.reshape([b, g, h / g * t, width])
    }

    /// `[B, H, T, X]` times `[B, G, X, Y]`.
    fn times(&self, x: Tensor<4>, y: Tensor<4>) -> Tensor<4> {
        let ([b, h, t, _], width) = (x.dims(), y.dims()[3]);
        self.grouped(x).matmul(y).reshape([b, h, t, width])
    }

    /// Weights `[B, H, T, S]`, transposed, times `[B, H, T, X]`, summed over the heads of a group: `[B, G, S, X]`
    fn keys_times(&self, weights: Tensor<4>, y: Tensor<4>) -> Tensor<4> {
        self.grouped(weights).swap_dims(2, 3).matmul(self.grouped(y))
    }
}

/// All positions of a box, row-major.
fn positions(ranges: &[Range<usize>; 3]) -> Vec<[usize; 3]> {
    let [a, b, c] = ranges.clone();
    a.flat_map(|x| b.clone().map(move |y| (x, y))).flat_map(|(x, y)| c.clone().map(move |z| [x, y, z])).collect()
}
