use std::ops::Range;

use pulp::Simd;

use super::{
    decays::hide_later,
    forward::Memory,
    pairs,
    prepare::Prepared,
    problem::{Place, Problem, Sizes, row_of, scale_row, times, wide, wide_mut},
    solve::{Solve, solve},
};
use crate::blocks::simd::{Band, Product, Strided, Target, View, multiply, prefetch, scratch, sum, sum2, turn};

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
    /// Of the products of queries with keys and of keys with earlier keys, without those of queries with their own keys. `[2C, C]`
    products: Vec<f32>,
    /// Those of queries with their own keys. `[C]`
    own: Vec<f32>,
    /// Of `rows` of [`Prepared`], then of undecayed queries and keys times β. `[2C, K]`
    rows: Vec<f32>,
    /// Of keys decayed to the end of a block that moves from the last to the first; then of keys. `[C, K]`
    columns: Vec<f32>,
    /// Keys decayed to the end of a block that moves from the first to the last. `[C, K]`
    ends: Vec<f32>,
    /// What reaches the log decays of all tokens of the chunk. `[K]`
    whole: Vec<f32>,
    /// Gradients of a token's query and key, `[2, K]`, and of its value. `[V]`
    token: Vec<f32>,
    value: Vec<f32>,
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
            own: scratch(c),
            rows: scratch(2 * c * k_row),
            columns: scratch(c * k_row),
            ends: scratch(c * k_row),
            whole: scratch(k_row),
            token: scratch(2 * k_row),
            value: scratch(v),
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
        self.own_products(chunk);
        self.through_rows(simd, chunk);
        self.through_end(problem, chunk, memory, d_state);
        self.through_columns(simd, chunk);
        for (r, tokens) in chunk.blocks() {
            self.undecay(chunk, tokens.clone());
            if !chunk.decays.gentle(r) {
                let (k_row, c_row, start) = (chunk.k_row, chunk.c_row, tokens.start);
                let (rows, columns) = (&mut self.rows[2 * start * k_row..], &mut self.columns[start * k_row..]);
                pairs::backward(chunk, problem.scale, tokens, &self.products[2 * start * c_row..], rows, columns);
            }
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
        let turned = self.turned.as_mut_ptr();
        // SAFETY: all are n tokens, K channels or V columns of their buffers.
        unsafe {
            turn(writes, memory.row, [n, v], 1.0, turned, chunk.c_row);
            for (_, tokens) in chunk.blocks() {
                let a = Strided { ptr: upstream.ptr.add(2 * tokens.start * self.v_row), ..upstream };
                let c = self.products.as_mut_ptr().add(2 * tokens.start * chunk.c_row);
                multiply(simd, over_v(2 * tokens.len(), tokens.end, a, turned, chunk.c_row, c, chunk.c_row));
            }
            turn(memory.ptr, memory.row, [k, v], 1.0, turned, chunk.k_row);
            multiply(simd, over_v(2 * n, k, upstream, turned, chunk.k_row, self.rows.as_mut_ptr(), chunk.k_row));
            turn(d_state.ptr, d_state.row, [k, v], 1.0, turned, chunk.k_row);
            let writes = Strided::rows(writes, memory.row);
            multiply(simd, over_v(n, k, writes, turned, chunk.k_row, self.columns.as_mut_ptr(), chunk.k_row));
        }
    }

    /// Sets the products apart that no decay is between, and leaves zeros for those of a block that are none.
    #[inline(always)]
    fn own_products(&mut self, chunk: &Prepared) {
        for (_, tokens) in chunk.blocks() {
            for i in tokens.clone() {
                self.own[i] = self.products[2 * i * chunk.c_row + i];
            }
            let start = 2 * tokens.start * chunk.c_row + tokens.start;
            hide_later(&mut self.products[start..], chunk.c_row, tokens.len(), [false, false], tokens.len());
        }
    }

    /// Through the products that are of factors to the rows, block by block. Leaves `ends` at the end of the chunk.
    #[inline(always)]
    fn through_rows<S: Simd>(&mut self, simd: S, chunk: &Prepared) {
        let (k, k_row, c_row) = (chunk.k, chunk.k_row, chunk.c_row);
        for (r, tokens) in chunk.blocks() {
            let before = &chunk.decays.before[r * k_row..];
            for row in self.rows[2 * tokens.start * k_row..2 * tokens.end * k_row].chunks_exact_mut(k_row) {
                scale_row(row, before, k);
            }
            let (gentle, met) = (chunk.decays.gentle(r), chunk.decays.met(r, &tokens));
            if gentle {
                self.place(chunk, tokens.clone());
            }
            if met > 0 {
                let product = Product {
                    m: 2 * tokens.len(),
                    n: k,
                    inner: met,
                    a: Strided::rows(self.products[2 * tokens.start * c_row..].as_ptr(), c_row),
                    b: self.ends.as_ptr(),
                    b_row: k_row,
                    c: self.rows[2 * tokens.start * k_row..].as_mut_ptr(),
                    c_row: k_row,
                    add: true,
                    band: Band::Full,
                };
                // SAFETY: the rows of the block, the columns of the tokens up to it.
                unsafe { multiply(simd, product) };
            }
            let over = &chunk.decays.over[r * k_row..];
            for row in self.ends[..met * k_row].chunks_exact_mut(k_row) {
                scale_row(row, over, k);
            }
            if !gentle {
                self.place(chunk, tokens);
            }
        }
    }

    /// The keys of a block where rows meet them.
    #[inline(always)]
    fn place(&mut self, chunk: &Prepared, tokens: Range<usize>) {
        let (k, k_row) = (chunk.k, chunk.k_row);
        for i in tokens {
            let keys = wide(chunk.key_row(i), k).iter().zip(wide(&chunk.decays.shift[i * k_row..], k));
            for (end, (key, shift)) in wide_mut(&mut self.ends[i * k_row..], k).iter_mut().zip(keys) {
                *end = times(*key, *shift);
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
        for (at, whole) in wide_mut(&mut self.whole, k).iter_mut().enumerate() {
            for i in 0..chunk.n {
                let (column, end) = (wide(&self.columns[i * k_row..], k)[at], wide(&self.ends[i * k_row..], k)[at]);
                for d in 0..16 {
                    whole[d] += column[d] * end[d];
                }
            }
        }
    }

    /// Through the products that are of factors to the columns, against the order of the blocks.
    #[inline(always)]
    fn through_columns<S: Simd>(&mut self, simd: S, chunk: &Prepared) {
        let (k, k_row, c_row) = (chunk.k, chunk.k_row, chunk.c_row);
        for (r, tokens) in chunk.blocks().rev() {
            let met = chunk.decays.met(r, &tokens);
            if met == 0 {
                continue;
            }
            let over = &chunk.decays.over[r * k_row..];
            for column in self.columns[..met * k_row].chunks_exact_mut(k_row) {
                scale_row(column, over, k);
            }
            let product = Product {
                m: met,
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
            // SAFETY: the rows of the block, the columns of the tokens up to it.
            unsafe { multiply(simd, product) };
        }
    }

    /// The gradients of rows and columns before their decay inside the block.
    #[inline(always)]
    fn undecay(&mut self, chunk: &Prepared, tokens: Range<usize>) {
        let (k, k_row) = (chunk.k, chunk.k_row);
        for i in tokens {
            let (query, key) = self.rows[2 * i * k_row..].split_at_mut(k_row);
            for row in [query, key] {
                scale_row(row, &chunk.decays.since[i * k_row..], k);
            }
            scale_row(&mut self.columns[i * k_row..], &chunk.decays.shift[i * k_row..], k);
        }
    }

    /// # Safety
    /// As for [`inputs`](Self::inputs).
    #[inline(always)]
    unsafe fn finish(&mut self, problem: &Problem, place: &Place, chunk: &Prepared, targets: &Targets) {
        let first = problem.is_first(place.head);
        let (k, k_row, v) = (chunk.k, chunk.k_row, problem.sizes.v);
        let (batch, head, group) = (place.batch, place.head, problem.group(place.head));
        let whole = wide_mut(&mut self.whole, k);
        let (token_q, token_k) = self.token.split_at_mut(k_row);
        for i in (0..chunk.n).rev() {
            let token = place.start + i;
            let (scale, beta, own) = (problem.scale, chunk.beta[i], self.own[i]);
            let (row_q, row_k) = self.rows[2 * i * k_row..].split_at(k_row);
            let inputs = wide(chunk.query_row(i), k).iter().zip(wide(chunk.key_row(i), k));
            let gradients = wide(row_q, k).iter().zip(wide(row_k, k)).zip(wide(&self.columns[i * k_row..], k));
            let outputs = wide_mut(token_q, k).iter_mut().zip(wide_mut(token_k, k)).zip(&mut *whole);
            for (((d_q, d_k), whole), ((query, key), ((row_q, row_k), column))) in outputs.zip(inputs.zip(gradients)) {
                for d in 0..16 {
                    let query = query[d] * scale;
                    whole[d] += query * row_q[d] + key[d] * beta * row_k[d] - key[d] * column[d];
                    d_q[d] = scale * own.mul_add(key[d], row_q[d]);
                    d_k[d] = own.mul_add(query, beta.mul_add(row_k[d], column[d]));
                }
            }
            let gradient = |target: &Target, head: usize, gradient: &[f32]| {
                // SAFETY: the caller owns the rows.
                unsafe { target.rows(batch, head, token).0.copy_from_nonoverlapping(gradient.as_ptr(), gradient.len()) };
            };
            for (target, sum) in [(&targets.q, &mut *token_q), (&targets.k, &mut *token_k)] {
                let sum = &mut sum[..k];
                if !first {
                    // SAFETY: as above; the first head has written the row.
                    let before = unsafe { target.row(batch, group, token) };
                    sum.iter_mut().zip(before).for_each(|(sum, before)| *sum += *before);
                }
                gradient(target, group, sum);
            }
            let d_write = &self.upstream[(2 * i + 1) * self.v_row..][..v];
            let d_v = &mut self.value[..v];
            for (x, d_write) in d_v.iter_mut().zip(d_write) {
                *x = -beta * d_write;
            }
            gradient(&targets.v, head, d_v);
            let whole = &whole.as_flattened()[..k];
            if problem.g_width == k {
                gradient(&targets.g, head, whole);
            } else {
                gradient(&targets.g, head, &[sum(whole, |x| x)]);
            }
            let d_beta = sum2(chunk.key(i), &row_k[..k], |x, y| x * y) - sum2(problem.value(place, i), d_write, |x, y| x * y);
            gradient(&targets.beta, head, &[d_beta]);
        }
    }
}
