use std::{f32::consts::LOG2_E, ops::Range};

use pulp::{Arch, Simd, WithSimd};

use super::{
    problem::{KEYS, Problem, QUERIES, Sizes},
    tile::{Queries, hide_future},
};
use crate::blocks::simd::{Band, Product, Strided, Target, View, dot, exp2, multiply, scratch, transpose};

/// Keys whose gradients one task sums in its near caches while it goes over the queries.
const CHUNK: usize = 256;
/// Into how many tasks at least the keys are divided, however few the heads are. A constant, so that sums are in the same order on
/// machines with more or fewer cores.
const TASKS: usize = 16;

/// What the backward pass reads besides the inputs of the forward pass.
#[derive(Clone, Copy)]
pub(crate) struct Cotangents<'a> {
    /// The output of the forward pass. `[B, H, T, V]`
    pub(crate) o: View<'a>,
    /// The log-sum-exp of the forward pass. `[B, H, T, 1]`
    pub(crate) lse: View<'a>,
    /// `[B, H, T, V]`; `None` = zeros.
    pub(crate) d_o: Option<View<'a>>,
    /// `[B, H, T, 1]`; `None` = zeros.
    pub(crate) d_lse: Option<View<'a>>,
}

/// Into how many parts the keys are divided; each has its own sum of the queries' gradients.
pub(crate) fn parts(sizes: Sizes) -> usize {
    TASKS.div_ceil((sizes.b * sizes.g).max(1)).min(sizes.s.div_ceil(CHUNK)).max(1)
}

/// Gradients of queries (one per part, to be added up in order), keys and values, those that are given.
///
/// With `P = exp(scores − lse)` and `δ = Σ_v dO·O − dlse`: `dV = Pᵀ dO`, `dS = P ⊙ (dO Vᵀ − δ)`, `dQ = scale · dS K`, `dK = scale · dSᵀ Q`.
/// Each task owns some keys of one key/value head and goes over all queries that see them, tile by tile.
pub(crate) fn backward(problem: &Problem, cotangents: &Cotangents, d_q: &[Target], d_k: Option<&Target>, d_v: Option<&Target>) {
    let Sizes { b, g, s, .. } = problem.sizes;
    let parts = parts(problem.sizes);
    let chunks = s.div_ceil(CHUNK);
    let arch = Arch::new();
    problem.for_each_task(b * g * parts, |task| {
        let (head, part) = (task / parts, task % parts);
        let chunks = part * chunks / parts..(part + 1) * chunks / parts;
        arch.dispatch(Task { problem, cotangents, d_q: d_q.get(part), d_k, d_v, head: (head / g, head % g), chunks });
    });
}

struct Task<'a> {
    problem: &'a Problem<'a>,
    cotangents: &'a Cotangents<'a>,
    d_q: Option<&'a Target<'a>>,
    d_k: Option<&'a Target<'a>>,
    d_v: Option<&'a Target<'a>>,
    head: (usize, usize),
    chunks: Range<usize>,
}

impl WithSimd for Task<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { problem, cotangents, head: (b, g), .. } = self;
        let Sizes { h, t, s, k, v, .. } = problem.sizes;
        let heads = h / problem.sizes.g;
        let mut tiles = Tiles::new(simd, t);
        let mut d_q = scratch(QUERIES * k);
        for chunk in self.chunks.clone() {
            let keys = chunk * CHUNK..((chunk + 1) * CHUNK).min(s);
            let mut d_k = vec![0.0; if self.d_k.is_some() { keys.len() * k } else { 0 }]; // [keys, K]
            let mut d_v = vec![0.0; if self.d_v.is_some() { keys.len() * v } else { 0 }]; // [keys, V]
            for (h, start) in (g * heads..(g + 1) * heads).flat_map(|h| (0..t).step_by(QUERIES).map(move |start| (h, start))) {
                let end = (start + QUERIES).min(t);
                let seen = keys.start..keys.end.min(problem.visible(end).end);
                let d_q = &mut d_q[..(end - start) * k];
                d_q.fill(0.0);
                if !seen.is_empty() {
                    let queries = Differentiated::new(simd, problem, cotangents, (b, h), start..end);
                    for first in seen.clone().step_by(KEYS) {
                        let tile = first..(first + KEYS).min(seen.end);
                        queries.tile(simd, problem, tile.clone(), &mut tiles);
                        let sums = (&mut *d_q, d_k.get_mut((first - keys.start) * k..), d_v.get_mut((first - keys.start) * v..));
                        self.accumulate(simd, &queries, tile, &tiles, sums);
                    }
                }
                if let Some(target) = self.d_q {
                    for (i, sums) in d_q.chunks_exact(k.max(1)).enumerate() {
                        // SAFETY: of this part, no other task has this head's group.
                        let row = unsafe { target.row(b, h, start + i) };
                        for (x, y) in row.iter_mut().zip(sums) {
                            *x = if chunk == self.chunks.start { 0.0 } else { *x } + y * problem.scale;
                        }
                    }
                }
            }
            for (target, sums, width, factor) in [(self.d_k, &d_k, k, problem.scale), (self.d_v, &d_v, v, 1.0)] {
                let Some(target) = target else { continue };
                for (j, sums) in keys.clone().zip(sums.chunks_exact(width.max(1))) {
                    // SAFETY: no other task has these keys of this head.
                    let row = unsafe { target.row(b, g, j) };
                    for (x, y) in row.iter_mut().zip(sums) {
                        *x = y * factor;
                    }
                }
            }
        }
    }
}

impl Task<'_> {
    /// Adds one tile's share to the gradients that are wanted.
    #[inline(always)]
    fn accumulate<S: Simd>(
        &self,
        simd: S,
        queries: &Differentiated,
        keys: Range<usize>,
        tiles: &Tiles,
        (d_q, d_k, d_v): (&mut [f32], Option<&mut [f32]>, Option<&mut [f32]>),
    ) {
        let problem = self.problem;
        let Sizes { k, v, .. } = problem.sizes;
        let Queries { b, h, start, rows, width, .. } = queries.queries;
        let offset = problem.offset(start, keys.start);
        let whole = offset >= keys.len() as isize;
        let from_queries = |p: &[f32], rows_of: View, c: &mut [f32], n: usize| Product {
            m: keys.len(),
            n,
            inner: rows,
            a: Strided::rows(p.as_ptr(), width),
            b: rows_of.row(b, h, start),
            b_row: rows_of.stride(),
            c: c.as_mut_ptr(),
            c_row: n,
            add: true,
            band: if whole { Band::Full } else { Band::From(offset) },
        };
        // SAFETY: the tiles hold keys × width numbers, rows of views lie in their tensors, and the sums, which belong to this task, hold
        // what is left of the chunk.
        unsafe {
            if let (Some(_), Some(d_o), Some(d_v)) = (self.d_v, self.cotangents.d_o, d_v) {
                multiply(simd, from_queries(&tiles.p, d_o, d_v, v));
            }
            if let (Some(_), Some(d_k)) = (self.d_k, d_k) {
                multiply(simd, from_queries(&tiles.ds, problem.q, d_k, k));
            }
            if self.d_q.is_some() {
                let product = Product {
                    m: rows,
                    n: k,
                    inner: keys.len(),
                    a: Strided::rows(tiles.ds.as_ptr(), width).transposed(),
                    b: problem.k.row(b, problem.group(h), keys.start),
                    b_row: problem.k.stride(),
                    c: d_q.as_mut_ptr(),
                    c_row: k,
                    add: true,
                    band: if whole { Band::Full } else { Band::Until(offset) },
                };
                multiply(simd, product);
            }
        }
    }
}

/// Weights P and the gradient of the scores, of one tile. `[keys, width]`
pub(super) struct Tiles {
    pub(super) p: Vec<f32>,
    pub(super) ds: Vec<f32>,
}

impl Tiles {
    /// Room for up to `queries` queries, at most [`QUERIES`].
    pub(super) fn new<S: Simd>(_: S, queries: usize) -> Self {
        let len = KEYS * queries.min(QUERIES).next_multiple_of(S::F32_LANES);
        Self { p: scratch(len), ds: scratch(len) }
    }
}

/// Some queries of one head with what their gradients need.
pub(super) struct Differentiated {
    pub(super) queries: Queries,
    /// Cotangents of the output. `[V, width]`, empty if they are zeros.
    d_o: Vec<f32>,
    /// Log-sum-exp to base 2; +∞ in a row that sees nothing, which makes all its weights 0.
    lse: Vec<f32>,
    /// δ.
    delta: Vec<f32>,
}

impl Differentiated {
    #[inline(always)]
    pub(super) fn new<S: Simd>(simd: S, problem: &Problem, cotangents: &Cotangents, (b, h): (usize, usize), range: Range<usize>) -> Self {
        let v = problem.sizes.v;
        let queries = Queries::new(simd, problem, (b, h), range.clone());
        let mut lse = vec![f32::INFINITY; queries.width];
        let mut delta = vec![0.0; queries.width];
        let mut d_o = scratch(if cotangents.d_o.is_some() { v * queries.width } else { 0 });
        // SAFETY: the rows of `range` belong to the views.
        unsafe {
            if let Some(view) = cotangents.d_o {
                transpose(view.row(b, h, range.start), view.stride(), queries.rows, v, 1.0, &mut d_o, queries.width);
            }
            for (i, t) in range.enumerate() {
                let x = *cotangents.lse.row(b, h, t);
                lse[i] = if x == f32::NEG_INFINITY { f32::INFINITY } else { x * LOG2_E };
                if let Some(d_o) = cotangents.d_o {
                    let row = |x: View| std::slice::from_raw_parts(x.row(b, h, t), v);
                    delta[i] = dot(simd, row(d_o), row(cotangents.o));
                }
                delta[i] -= cotangents.d_lse.map_or(0.0, |g| *g.row(b, h, t));
            }
        }
        Self { queries, d_o, lse, delta }
    }

    /// Weights and gradients of the scores for some keys.
    #[inline(always)]
    pub(super) fn tile<S: Simd>(&self, simd: S, problem: &Problem, keys: Range<usize>, tiles: &mut Tiles) {
        let Queries { b, h, start, width, .. } = self.queries;
        let len = keys.len() * width;
        let (p, ds) = (&mut tiles.p[..len], &mut tiles.ds[..len]);
        self.queries.scores(simd, problem, keys.clone(), p);
        let offset = problem.offset(start, keys.start);
        if self.d_o.is_empty() {
            ds.fill(0.0);
        } else {
            let product = Product {
                m: keys.len(),
                n: width,
                inner: problem.sizes.v,
                a: Strided::rows(problem.v.row(b, problem.group(h), keys.start), problem.v.stride()),
                b: self.d_o.as_ptr(),
                b_row: width,
                c: ds.as_mut_ptr(),
                c_row: width,
                add: false,
                band: if offset < keys.len() as isize { Band::Output(offset) } else { Band::Full },
            };
            // SAFETY: the values lie in the view, `d_o` holds V × width numbers and `ds` keys × width.
            unsafe { multiply(simd, product) };
        }
        {
            let (lse, _) = S::as_simd_f32s(&self.lse);
            let (delta, _) = S::as_simd_f32s(&self.delta);
            let ((p, _), (ds, _)) = (S::as_mut_simd_f32s(p), S::as_mut_simd_f32s(ds));
            for (p, ds) in p.chunks_exact_mut(lse.len()).zip(ds.chunks_exact_mut(lse.len())) {
                for ((p, ds), (lse, delta)) in p.iter_mut().zip(ds).zip(lse.iter().zip(delta)) {
                    *p = exp2(simd, simd.sub_f32s(*p, *lse));
                    *ds = simd.mul_f32s(*p, simd.sub_f32s(*ds, *delta));
                }
            }
        }
        hide_future(ds, width, offset, 0.0); // blocks of it were never written
    }
}
