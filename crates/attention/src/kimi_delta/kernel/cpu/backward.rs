use std::ops::Range;

use pulp::Simd;

use super::{
    forward::Memory,
    pairs,
    prepare::Prepared,
    problem::{Place, Problem, Sizes, row_of},
    solve::{Solve, solve},
};
use crate::blocks::simd::{Band, Product, Strided, Target, View, multiply, prefetch, scratch, sum, sum2, transpose};

/// Where the gradients of a pass go. Views are of `[B, heads, T, width]`.
pub(crate) struct Targets<'a> {
    pub(crate) q: Target<'a>,
    pub(crate) k: Target<'a>,
    pub(crate) v: Target<'a>,
    pub(crate) g: Target<'a>,
    pub(crate) beta: Target<'a>,
}

/// The state before a chunk with its writes, and the gradient of the state behind it.
#[derive(Clone, Copy)]
pub(super) struct Around {
    pub(super) memory: Memory,
    pub(super) d_state: Memory,
}

/// What the backward pass of a chunk computes on the way. Rows of two kinds alternate as in [`Prepared`].
pub(super) struct Differentiated {
    v_row: usize,
    /// Gradients of the outputs, and minus those of what M divides. `[2C, V]`
    upstream: Vec<f32>,
    /// Of the products of queries with keys and of keys with earlier keys, `[2C, C]`.
    products: Vec<f32>,
    /// Of `rows` of [`Prepared`], then of undecayed queries and keys times β. `[2C, K]`
    rows: Vec<f32>,
    /// Of keys decayed to the end of a block that moves from the last to the first; then of keys. `[C, K]`
    columns: Vec<f32>,
    /// Keys decayed to the end of a block that moves from the first to the last. `[C, K]`
    ends: Vec<f32>,
    /// What reaches the log decays of all tokens of the chunk. `[K]`
    whole: Vec<f32>,
    /// Transposes: of the state and of its gradient, `[V, K]`; of the writes, `[V, C]`.
    turned: Vec<f32>,
}

impl Differentiated {
    pub(super) fn new(Sizes { k, v, chunk: c, .. }: Sizes) -> Self {
        let (k_row, c_row, v_row) = (row_of(k), row_of(c), row_of(v));
        Self {
            v_row,
            upstream: scratch(2 * c * v_row),
            products: scratch(2 * c * c_row),
            rows: scratch(2 * c * k_row),
            columns: scratch(c * k_row),
            ends: scratch(c * k_row),
            whole: scratch(k),
            turned: scratch(v * k_row.max(c_row)),
        }
    }

    /// The gradient of the outputs of the chunk into the workspace; meanwhile asks for that of the chunk `ahead`.
    #[inline(always)]
    pub(super) fn load(&mut self, problem: &Problem, place: &Place, ahead: Option<Place>, d_o: &View) {
        let v = problem.sizes.v;
        for i in 0..place.n {
            if let Some(ahead) = &ahead {
                prefetch(d_o.row(ahead.batch, ahead.head, ahead.start + i), v);
            }
            self.upstream[2 * i * self.v_row..][..v].copy_from_slice(Problem::row(d_o, place, place.head, i, v));
        }
    }

    /// Some columns of the gradients of what the chunk writes, through M: minus `M⁻ᵀ (A_qkᵀ dO + K_end dS)`, where `d_state` is the
    /// gradient dS of the state behind the chunk. Then that of the state before it into `d_before`.
    ///
    /// # Safety
    /// Nobody else may use these columns of the workspace's `upstream` or of the memories.
    #[inline(always)]
    pub(super) unsafe fn carry<S: Simd>(
        upstream: *mut f32,
        simd: S,
        chunk: &Prepared,
        d_state: Memory,
        d_before: Memory,
        columns: Range<usize>,
    ) {
        let (k, n) = (chunk.k, chunk.n);
        let row = d_state.row;
        let (d_o, d_write) = (upstream.wrapping_add(columns.start), upstream.wrapping_add(row + columns.start));
        let (of_queries, of_keys) = (chunk.left(false), chunk.left(true));
        let products = |left: Strided| Strided { ptr: left.ptr.wrapping_add(k), ..left };
        let base = Product {
            m: n,
            n: columns.len(),
            inner: n,
            a: products(of_queries).transposed(),
            b: d_o,
            b_row: 2 * row,
            c: d_write,
            c_row: 2 * row,
            add: false,
            band: Band::From(0),
        };
        let ends = Strided::rows(chunk.ends.as_ptr(), chunk.c_row).transposed();
        let d_state_of = d_state.ptr.wrapping_add(columns.start);
        // SAFETY: the caller owns these columns; the operands have these sizes.
        unsafe {
            multiply(simd, base);
            multiply(simd, Product { inner: k, a: ends, b: d_state_of, b_row: row, add: true, band: Band::Full, ..base });
        }
        // Mᵀ from its last row and column on is lower triangular.
        let last = n - 1;
        let system = Solve {
            n,
            columns: columns.len(),
            a: std::ptr::null(),
            inner: 0,
            m: products(of_keys).ptr.wrapping_add(last * (of_keys.row + 1)),
            m_row: -1,
            m_column: -(of_keys.row as isize),
            b: std::ptr::null(),
            b_row: 0,
            x: d_write.wrapping_add(2 * last * row),
            x_row: -2 * row as isize,
        };
        // SAFETY: as above.
        unsafe {
            solve(simd, system);
            for i in 0..n {
                for x in std::slice::from_raw_parts_mut(d_write.add(2 * i * row), columns.len()) {
                    *x = -*x;
                }
            }
        }
        for (d, &total) in chunk.total().iter().enumerate() {
            // SAFETY: the caller's promise.
            let (before, behind) = unsafe { (d_before.part(d, &columns), d_state.part(d, &columns)) };
            for (x, y) in before.iter_mut().zip(behind) {
                *x = *y * total;
            }
        }
        let add = Product {
            m: k,
            n: columns.len(),
            inner: n,
            a: of_queries.transposed(),
            b: d_o,
            b_row: 2 * row,
            c: d_before.ptr.wrapping_add(columns.start),
            c_row: d_before.row,
            add: true,
            band: Band::Full,
        };
        // SAFETY: as above.
        unsafe {
            multiply(simd, add);
            multiply(simd, Product { a: of_keys.transposed(), b: d_write, ..add });
        }
    }

    pub(super) fn upstream(&mut self) -> *mut f32 {
        self.upstream.as_mut_ptr()
    }

    /// The gradients of the chunk's inputs, once `carry` has run for all columns. The first of the value heads that read a query/key
    /// head sets the gradients of queries and keys, to which the others add.
    ///
    /// # Safety
    /// Nobody else may use the rows of the targets.
    #[inline(always)]
    pub(super) unsafe fn inputs<S: Simd>(
        &mut self,
        simd: S,
        problem: &Problem,
        place: &Place,
        chunk: &Prepared,
        around: Around,
        targets: &Targets,
    ) {
        let Around { memory, d_state } = around;
        // SAFETY: the workspace and the memories hold a chunk's rows.
        unsafe { self.over_values(simd, problem, chunk, memory, d_state) };
        self.through_rows(simd, chunk);
        self.through_end(problem, chunk, memory, d_state);
        self.through_columns(simd, chunk);
        for (_, tokens) in chunk.blocks() {
            self.undecay(chunk, tokens.clone());
            let (k_row, c_row, start) = (chunk.k_row, chunk.c_row, tokens.start);
            let (rows, columns) = (&mut self.rows[2 * start * k_row..], &mut self.columns[start * k_row..]);
            pairs::backward(chunk, problem.scale, tokens, &self.products[2 * start * c_row..], rows, columns);
        }
        // SAFETY: the caller owns the rows.
        unsafe { self.finish(problem, place, chunk, targets) };
    }

    /// All products over V: the gradients of the chunk's decayed products, of its rows through the state, and of its keys through the
    /// state behind it.
    ///
    /// # Safety
    /// As for [`inputs`](Self::inputs).
    #[inline(always)]
    unsafe fn over_values<S: Simd>(&mut self, simd: S, problem: &Problem, chunk: &Prepared, memory: Memory, d_state: Memory) {
        let (k, n, v) = (chunk.k, chunk.n, problem.sizes.v);
        let writes = memory.writes(k);
        let over_v = |m: usize, n: usize, a: Strided, b: *const f32, b_row: usize, c: *mut f32, c_row: usize| Product {
            m,
            n,
            inner: v,
            a,
            b,
            b_row,
            c,
            c_row,
            add: false,
            band: Band::Full,
        };
        let upstream = Strided::rows(self.upstream.as_ptr(), self.v_row);
        let turned = self.turned.as_ptr();
        // SAFETY: all are n tokens, K channels or V columns of their buffers.
        unsafe {
            transpose(writes, memory.row, n, v, 1.0, &mut self.turned[..v * chunk.c_row], chunk.c_row);
            for (_, tokens) in chunk.blocks() {
                let a = Strided { ptr: upstream.ptr.add(2 * tokens.start * self.v_row), ..upstream };
                let c = self.products.as_mut_ptr().add(2 * tokens.start * chunk.c_row);
                multiply(simd, over_v(2 * tokens.len(), tokens.end, a, turned, chunk.c_row, c, chunk.c_row));
            }
            transpose(memory.ptr, memory.row, k, v, 1.0, &mut self.turned[..v * chunk.k_row], chunk.k_row);
            multiply(simd, over_v(2 * n, k, upstream, turned, chunk.k_row, self.rows.as_mut_ptr(), chunk.k_row));
            transpose(d_state.ptr, d_state.row, k, v, 1.0, &mut self.turned[..v * chunk.k_row], chunk.k_row);
            let writes = Strided::rows(writes, memory.row);
            multiply(simd, over_v(n, k, writes, turned, chunk.k_row, self.columns.as_mut_ptr(), chunk.k_row));
        }
    }

    /// Through the products between blocks to the rows, block by block. Leaves `ends` at the end of the chunk.
    #[inline(always)]
    fn through_rows<S: Simd>(&mut self, simd: S, chunk: &Prepared) {
        let (k, k_row, c_row) = (chunk.k, chunk.k_row, chunk.c_row);
        for (r, tokens) in chunk.blocks() {
            let before = &chunk.decays.before[r * k_row..][..k];
            for i in 2 * tokens.start..2 * tokens.end {
                for (x, before) in self.rows[i * k_row..][..k].iter_mut().zip(before) {
                    *x *= before;
                }
            }
            if r > 0 {
                let product = Product {
                    m: 2 * tokens.len(),
                    n: k,
                    inner: tokens.start,
                    a: Strided::rows(self.products[2 * tokens.start * c_row..].as_ptr(), c_row),
                    b: self.ends.as_ptr(),
                    b_row: k_row,
                    c: self.rows[2 * tokens.start * k_row..].as_mut_ptr(),
                    c_row: k_row,
                    add: true,
                    band: Band::Full,
                };
                // SAFETY: the rows of the block, the columns of the tokens before it.
                unsafe { multiply(simd, product) };
            }
            let over = &chunk.decays.over[r * k_row..][..k];
            for i in 0..tokens.start {
                for (x, over) in self.ends[i * k_row..][..k].iter_mut().zip(over) {
                    *x *= over;
                }
            }
            for i in tokens {
                let (key, until) = (chunk.key(i), &chunk.decays.until[i * k_row..][..k]);
                for ((x, key), until) in self.ends[i * k_row..][..k].iter_mut().zip(key).zip(until) {
                    *x = key * until;
                }
            }
        }
    }

    /// What reaches the last sum of log decays of the chunk: through the keys at its end and through the state.
    #[inline(always)]
    fn through_end(&mut self, problem: &Problem, chunk: &Prepared, memory: Memory, d_state: Memory) {
        let (k, k_row, all) = (chunk.k, chunk.k_row, 0..problem.sizes.v);
        for (d, (x, total)) in self.whole.iter_mut().zip(chunk.total()).enumerate() {
            // SAFETY: nobody changes the memories now.
            *x = *total * unsafe { sum2(memory.part(d, &all), d_state.part(d, &all), |x, y| x * y) };
        }
        for i in 0..chunk.n {
            let (column, end) = (&self.columns[i * k_row..][..k], &self.ends[i * k_row..][..k]);
            for d in 0..k {
                self.whole[d] += column[d] * end[d];
            }
        }
    }

    /// Through the products between blocks to the columns, against the order of the blocks.
    #[inline(always)]
    fn through_columns<S: Simd>(&mut self, simd: S, chunk: &Prepared) {
        let (k, k_row, c_row) = (chunk.k, chunk.k_row, chunk.c_row);
        for (r, tokens) in chunk.blocks().rev().filter(|(r, _)| *r > 0) {
            let over = &chunk.decays.over[r * k_row..][..k];
            for i in 0..tokens.start {
                for (x, over) in self.columns[i * k_row..][..k].iter_mut().zip(over) {
                    *x *= over;
                }
            }
            let product = Product {
                m: tokens.start,
                n: k,
                inner: 2 * tokens.len(),
                a: Strided::rows(self.products[2 * tokens.start * c_row..].as_ptr(), c_row).transposed(),
                b: chunk.rows[2 * tokens.start * k_row..].as_ptr(),
                b_row: k_row,
                c: self.columns.as_mut_ptr(),
                c_row: k_row,
                add: true,
                band: Band::Full,
            };
            // SAFETY: the rows of the block, the columns of the tokens before it.
            unsafe { multiply(simd, product) };
        }
    }

    /// The gradients of rows and columns before their decay inside the block.
    #[inline(always)]
    fn undecay(&mut self, chunk: &Prepared, tokens: Range<usize>) {
        let (k, k_row) = (chunk.k, chunk.k_row);
        for i in tokens {
            let (since, until) = (&chunk.decays.since[i * k_row..][..k], &chunk.decays.until[i * k_row..][..k]);
            let (query, key) = self.rows[2 * i * k_row..][..k_row + k].split_at_mut(k_row);
            let (query, column) = (&mut query[..k], &mut self.columns[i * k_row..][..k]);
            for d in 0..k {
                query[d] *= since[d];
                key[d] *= since[d];
                column[d] *= until[d];
            }
        }
    }

    /// # Safety
    /// As for [`inputs`](Self::inputs).
    #[inline(always)]
    unsafe fn finish(&mut self, problem: &Problem, place: &Place, chunk: &Prepared, targets: &Targets) {
        let first = problem.is_first(place.head);
        let (k, k_row, v) = (chunk.k, chunk.k_row, problem.sizes.v);
        let (batch, head, group) = (place.batch, place.head, problem.group(place.head));
        let whole = &mut self.whole[..k];
        for i in (0..chunk.n).rev() {
            let token = place.start + i;
            let (scale, beta) = (problem.scale, chunk.beta[i]);
            let (query, key, value) = (chunk.query(i), chunk.key(i), problem.value(place, i));
            let (row_q, row_k) = self.rows[2 * i * k_row..][..k_row + k].split_at(k_row);
            let (row_q, column) = (&row_q[..k], &self.columns[i * k_row..][..k]);
            let own = self.products[2 * i * chunk.c_row + i];
            let d_write = &self.upstream[(2 * i + 1) * self.v_row..][..v];
            // SAFETY: the caller owns the rows.
            let (d_q, d_k, d_v, d_g, d_beta) = unsafe {
                (
                    targets.q.row(batch, group, token),
                    targets.k.row(batch, group, token),
                    targets.v.row(batch, head, token),
                    targets.g.row(batch, head, token),
                    targets.beta.row(batch, head, token),
                )
            };
            let (d_q, d_k) = (&mut d_q[..k], &mut d_k[..k]);
            for d in 0..k {
                let (q, beta_k) = (query[d] * scale, key[d] * beta);
                whole[d] += q * row_q[d] + beta_k * row_k[d] - key[d] * column[d];
            }
            if first {
                for d in 0..k {
                    d_q[d] = scale * own.mul_add(key[d], row_q[d]);
                    d_k[d] = own.mul_add(query[d] * scale, beta.mul_add(row_k[d], column[d]));
                }
            } else {
                for d in 0..k {
                    d_q[d] += scale * own.mul_add(key[d], row_q[d]);
                    d_k[d] += own.mul_add(query[d] * scale, beta.mul_add(row_k[d], column[d]));
                }
            }
            for (x, d_write) in d_v.iter_mut().zip(d_write) {
                *x = -beta * d_write;
            }
            if problem.g_width == k {
                d_g.copy_from_slice(whole);
            } else {
                d_g[0] = sum(whole, |x| x);
            }
            d_beta[0] = sum2(key, row_k, |x, y| x * y) - sum2(value, d_write, |x, y| x * y);
        }
    }
}
