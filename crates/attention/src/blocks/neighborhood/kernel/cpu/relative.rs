use std::ops::Range;

use pulp::Simd;

use super::{
    problem::{Problem, Vectors},
    tile::Tile,
};
use crate::blocks::{
    neighborhood::plan::RelativeAxis,
    simd::{Band, Product, Strided, multiply, scratch},
};

/// What is added to the scores of a tile of queries by the place of the key along one axis, or the gradient of that.
pub(super) struct Shifted {
    /// The keys that some query sees.
    keys: Range<usize>,
    /// `[keys, width]`, to base 2; 0 where the query does not see the key.
    values: Vec<f32>,
    width: usize,
}

impl Shifted {
    /// The products of the tile's queries with the vectors of one axis, moved to where their keys are.
    #[inline(always)]
    pub(super) fn new<S: Simd>(simd: S, problem: &Problem, tile: &Tile, relative: Vectors, axis: usize) -> Self {
        let (width, k) = (tile.width, problem.q.width());
        let vectors = relative.vectors[axis];
        let offsets = vectors.len() / k.max(1);
        let mut products = scratch(offsets * width);
        let product = Product {
            m: offsets,
            n: width,
            inner: k,
            a: Strided::rows(vectors.as_ptr(), k),
            b: tile.packed().as_ptr(),
            b_row: width,
            c: products.as_mut_ptr(),
            c_row: width,
            add: false,
            band: Band::Full,
        };
        assert!(tile.packed().len() == k * width);
        // SAFETY: the lengths are those just asserted and made.
        unsafe { multiply(simd, product) };
        let mut shifted = Self::zeros(tile, axis);
        // The packed queries have the factor of scores.
        let factor = relative.factor / problem.plan.scale as f32;
        shifted.each(problem, tile, axis, |value, at| *value = products[at] * factor);
        shifted
    }

    /// Zeros for the keys that some query of the tile sees.
    pub(super) fn zeros(tile: &Tile, axis: usize) -> Self {
        let keys = tile.seen_by()[axis + 1].clone();
        Self { values: vec![0.0; keys.len() * tile.width], keys, width: tile.width }
    }

    /// The numbers of a key, some lanes of them.
    #[inline(always)]
    pub(super) fn row(&self, key: usize, lanes: &Range<usize>) -> &[f32] {
        let start = (key - self.keys.start) * self.width;
        &self.values[start + lanes.start..start + lanes.end]
    }

    /// As [`row`](Self::row), to write.
    #[inline(always)]
    pub(super) fn row_mut(&mut self, key: usize, lanes: &Range<usize>) -> &mut [f32] {
        let start = (key - self.keys.start) * self.width;
        &mut self.values[start + lanes.start..start + lanes.end]
    }

    /// Calls `f` for each lane and key that it sees, with the place of their number in `[offsets, width]`.
    #[inline(always)]
    fn each(&mut self, problem: &Problem, tile: &Tile, axis: usize, mut f: impl FnMut(&mut f32, usize)) {
        let none = RelativeAxis::default();
        let RelativeAxis { places, origins } = problem.plan.axes[axis + 1].relative.as_ref().unwrap_or(&none);
        for (lane, position) in tile.positions().map(|x| x[axis]).enumerate() {
            let seen = &tile.groups[axis + 1].seen[position];
            for key in seen.clone() {
                let offset = places[key] as isize - origins[position];
                f(&mut self.values[(key - self.keys.start) * self.width + lane], offset as usize * self.width + lane);
            }
        }
    }

    /// Turns a gradient into those of the vectors, added to `d_vectors`, and of the queries over the scale, added to `d_q` `[count, K]`.
    #[inline(always)]
    pub(super) fn spread<S: Simd>(
        mut self,
        simd: S,
        problem: &Problem,
        tile: &Tile,
        relative: Vectors,
        axis: usize,
        (d_q, d_vectors): (&mut [f32], &mut [f32]),
    ) {
        let (width, k) = (self.width, problem.q.width());
        let vectors = relative.vectors[axis];
        let offsets = vectors.len() / k.max(1);
        let mut products = vec![0.0; offsets * width];
        let factor = relative.factor / problem.plan.scale as f32;
        self.each(problem, tile, axis, |value, at| products[at] = *value * factor);
        assert!(d_q.len() == tile.count * k && d_vectors.len() == vectors.len() && tile.rows.len() == tile.count * k);
        let base = Product {
            m: offsets,
            n: k,
            inner: tile.count,
            a: Strided::rows(products.as_ptr(), width),
            b: tile.rows.as_ptr(),
            b_row: k,
            c: d_vectors.as_mut_ptr(),
            c_row: k,
            add: true,
            band: Band::Full,
        };
        let of_queries =
            Product { m: tile.count, inner: offsets, a: base.a.transposed(), b: vectors.as_ptr(), c: d_q.as_mut_ptr(), ..base };
        // SAFETY: the lengths are those just asserted and made.
        unsafe {
            multiply(simd, base);
            multiply(simd, of_queries);
        }
    }
}
