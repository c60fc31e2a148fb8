use pulp::{Simd, WithSimd};

use super::{
    BLOCK, Head, Numbers,
    rows::{Side, Sum, Terms, combine, products},
};
use crate::{
    blocks::{
        decayed_product::cpu::Rows,
        simd::{Band, Product, Strided, Target, View, arch, dot, multiply, scratch, transpose},
    },
    flow_attention::kernel::cpu::{flows::capacities_backward, scans},
};

/// Where the gradients of the inputs go.
pub(super) struct Targets<'a> {
    pub(super) q: Target<'a>,
    pub(super) k: Target<'a>,
    pub(super) v: Target<'a>,
}

impl Head<'_> {
    /// Writes the gradients of the head.
    ///
    /// # Safety
    /// Nobody else may use the rows of the head in the targets.
    pub(super) unsafe fn backward(&self, numbers: &Numbers, d_o: &View, targets: &Targets) {
        arch().dispatch(Backward { head: self, numbers, d_o, targets });
    }

    /// Turns the gradients of the capacities of a token into those of what they are made from.
    fn through_capacities(&self, side: Side, t: usize, y: &[f32], d: &[f32], to: &mut [f32]) {
        if self.hidden(side, t, 1).is_some() {
            to.fill(0.0);
            return;
        }
        let row = self.view(side).row(self.batch, self.index, t);
        // SAFETY: the token is the problem's.
        let x = unsafe { std::slice::from_raw_parts(row, to.len()) };
        capacities_backward(self.problem.rules.feature_map, x, y, d, to);
    }
}

struct Backward<'a> {
    head: &'a Head<'a>,
    numbers: &'a Numbers,
    d_o: &'a View<'a>,
    targets: &'a Targets<'a>,
}

impl WithSimd for Backward<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { head: this, numbers, d_o, targets } = self;
        let &Head { problem, batch, index: head } = this;
        let ([_, _, l, s, d, e], width, rules) = (problem.sizes, this.width(), problem.rules);
        let [keys, queries, key_shares, query_shares] = &numbers.sums;
        let sources = problem.present[1][batch];
        let ratio = problem.present[0][batch] / sources;
        let (mut tile, mut scaled) = (vec![0.0; BLOCK * width], scratch(BLOCK * width));
        let (mut factors, mut weights, mut row) = ([0.0; BLOCK], [0.0; BLOCK], scratch(d));
        let mut place = Vec::new();
        let turned = |x: &[f32]| {
            let mut turned = scratch(d * e);
            // SAFETY: D rows of E numbers.
            unsafe { transpose(x.as_ptr(), e, d, e, 1.0, &mut turned, d) };
            turned
        };
        // SAFETY: the rows are the problem's, and this task has its own memory and the rows of the gradients.
        let product = |sizes: [usize; 3], a: Strided, b: (*const f32, usize), c: (*mut f32, usize), add: bool| unsafe {
            let [m, n, inner] = sizes;
            multiply(simd, Product { m, n, inner, a, b: b.0, b_row: b.1, c: c.0, c_row: c.1, add, band: Band::Full });
        };

        // Of w_i = r_i / I_i, on queries as they are: `KV do_i` stays in the gradient of the query.
        let kv_turned = turned(&numbers.kv);
        let (mut d_kv, mut d_sink) = (vec![0.0; d * e], scratch(l));
        let mut d_key_shares = Sum::new(width);
        for (start, len) in this.blocks(Side::Queries) {
            let rows = &mut tile[..len * width];
            this.load(Side::Queries, start, len, rows);
            for (i, factor) in factors[..len].iter_mut().enumerate() {
                *factor = numbers.allocation[start + i] / numbers.incoming[start + i];
            }
            scans::scaled(rows, &factors[..len], width, &mut scaled[..len * width]);
            let out = Rows::new(d_o, batch, head, start);
            product([d, e, len], Strided::rows(scaled.as_ptr(), width).transposed(), (out.ptr, out.stride), (d_kv.as_mut_ptr(), e), true);
            let to = targets.q.rows(batch, head, start);
            product([len, d, e], Strided::rows(out.ptr, out.stride), (kv_turned.as_ptr(), d), to, false);
            for i in 0..len {
                // SAFETY: this task has the rows of the gradients.
                let here = dot(simd, &rows[i * width..][..d], unsafe { targets.q.row(batch, head, start + i) });
                d_sink[start + i] = here;
                weights[i] = d_allocation(numbers, start + i, here, rules.allocation, ratio);
            }
            d_key_shares.add(rows, &weights[..len], rules.eps);
        }
        let d_key_shares = d_key_shares.finish(d, 0.0);

        // Of c_j; `dKV v_j` stays in the gradient of the key.
        let d_kv_turned = turned(&d_kv);
        let (mut d_source, mut d_outgoing) = (scratch(s), scratch(s));
        let (mut d_queries, mut with_gradients, mut with_parts) = (Sum::new(width), Sum::new(width), Sum::new(width));
        let mut mean = 0.0;
        for (start, len) in this.blocks(Side::Keys) {
            let rows = &mut tile[..len * width];
            this.load(Side::Keys, start, len, rows);
            let v = this.values(start, len, &mut place);
            let to = targets.k.rows(batch, head, start);
            product([len, d, e], Strided::rows(v.ptr, v.stride), (d_kv_turned.as_ptr(), d), to, false);
            products(rows, 0.0, &d_key_shares, &mut weights[..len]);
            for i in 0..len {
                let j = start + i;
                // SAFETY: as above.
                d_source[j] = dot(simd, &rows[i * width..][..d], unsafe { targets.k.row(batch, head, j) });
                d_outgoing[j] = -weights[i] / (numbers.outgoing[j] * numbers.outgoing[j]);
                mean += f64::from(d_source[j]) * f64::from(numbers.source[j]);
            }
            d_queries.add(rows, &d_outgoing[start..][..len], rules.eps);
            if rules.competition {
                for (i, factor) in factors[..len].iter_mut().enumerate() {
                    *factor = numbers.free[start + i] * numbers.source[start + i];
                    weights[i] = *factor * d_source[start + i];
                }
                with_gradients.add(rows, &weights[..len], rules.eps);
                with_parts.add(rows, &factors[..len], rules.eps);
            }
        }
        let d_queries = d_queries.finish(d, 0.0);
        let mean = mean / f64::from(sources);
        let d_query_shares = with_gradients.minus(mean, &with_parts).finish(d, 0.0);

        let mut d_keys = Sum::new(width);
        for (start, len) in this.blocks(Side::Queries) {
            let rows = &mut tile[..len * width];
            this.load(Side::Queries, start, len, rows);
            products(rows, 0.0, &d_query_shares, &mut weights[..len]);
            for i in 0..len {
                let t = start + i;
                let (share, w) = (1.0 / numbers.incoming[t], numbers.allocation[t] / numbers.incoming[t]);
                let d_flow = -share * d_sink[t].mul_add(w, weights[i] * share);
                weights[i] = d_flow;
                let d_conserved = d_allocation(numbers, t, d_sink[t], rules.allocation, ratio);
                // SAFETY: as above.
                let to = unsafe { targets.q.row(batch, head, t) };
                row.copy_from_slice(to);
                // The terms of Î, of the share, of I and of the sum of capacities.
                let vectors = [&key_shares[..d], &d_query_shares[..d], &keys[..d], &d_queries[..d]];
                combine(Terms { factors: [w, d_conserved, share, d_flow], vectors }, &mut row);
                this.through_capacities(Side::Queries, t, &rows[i * width..][..d], &row, to);
            }
            d_keys.add(rows, &weights[..len], rules.eps);
        }
        let d_keys = d_keys.finish(d, 0.0);

        for (start, len) in this.blocks(Side::Keys) {
            let rows = &mut tile[..len * width];
            this.load(Side::Keys, start, len, rows);
            scans::scaled(rows, &numbers.source[start..][..len], width, &mut scaled[..len * width]);
            let to = targets.v.rows(batch, head, start);
            product([len, e, d], Strided::rows(scaled.as_ptr(), width), (d_kv.as_ptr(), e), to, false);
            for i in 0..len {
                let j = start + i;
                let c = numbers.source[j];
                let d_conserved = if rules.competition { numbers.free[j] * c * (d_source[j] - mean as f32) } else { 0.0 };
                // SAFETY: as above.
                let to = unsafe { targets.k.row(batch, head, j) };
                row.copy_from_slice(to);
                let vectors = [&query_shares[..d], &d_key_shares[..d], &queries[..d], &d_keys[..d]];
                combine(Terms { factors: [c, d_conserved, 1.0 / numbers.outgoing[j], d_outgoing[j]], vectors }, &mut row);
                this.through_capacities(Side::Keys, j, &rows[i * width..][..d], &row, to);
            }
        }
    }
}

/// The gradient of Î, given that of w.
#[inline(always)]
fn d_allocation(numbers: &Numbers, t: usize, d_sink: f32, allocate: bool, ratio: f32) -> f32 {
    let r = numbers.allocation[t];
    if allocate { d_sink * (r / numbers.incoming[t]) * (1.0 - r) * ratio } else { 0.0 }
}
