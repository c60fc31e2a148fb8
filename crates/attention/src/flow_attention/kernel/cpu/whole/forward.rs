use pulp::{Simd, WithSimd};

use super::{
    BLOCK, Head, Numbers,
    rows::{Side, Sum, products},
};
use crate::{
    blocks::{
        LOG_ZERO,
        simd::{self, Band, Product, Strided, Target, arch, multiply, scratch, vectorised},
    },
    flow_attention::kernel::cpu::scans,
};

impl Head<'_> {
    /// Writes the outputs of the head; what the backward pass needs.
    ///
    /// # Safety
    /// Nobody else may use the rows of the head in `o`.
    pub(super) unsafe fn forward(&self, o: &Target) -> Numbers {
        let mut numbers = Numbers::new(self.problem.sizes);
        arch().dispatch(Forward { head: self, o, numbers: &mut numbers });
        numbers
    }

    /// The sum of the capacities of a side, with ε.
    fn capacities(&self, side: Side, tile: &mut [f32]) -> Vec<f32> {
        let (width, d) = (self.width(), self.problem.sizes[4]);
        let (mut sum, ones) = (Sum::new(width), [1.0; BLOCK]);
        for (start, len) in self.blocks(side) {
            self.load(side, start, len, tile);
            sum.add(&tile[..len * width], &ones[..len], 0.0);
        }
        sum.finish(d, self.problem.rules.eps)
    }

    /// The flows of a side, given the sum of the other's capacities, and the sum of its shares, with ε.
    fn flows(&self, side: Side, other: &[f32], flows: &mut [f32], tile: &mut [f32]) -> Vec<f32> {
        let (width, d, rules) = (self.width(), self.problem.sizes[4], self.problem.rules);
        let (mut sum, mut shares) = (Sum::new(width), [0.0; BLOCK]);
        for (start, len) in self.blocks(side) {
            let (rows, flows) = (&mut tile[..len * width], &mut flows[start..start + len]);
            self.load(side, start, len, rows);
            products(rows, rules.eps, other, flows);
            for (flow, share) in flows.iter_mut().zip(&mut shares) {
                *flow += rules.extra_eps;
                *share = 1.0 / *flow;
            }
            sum.add(rows, &shares[..len], 0.0);
        }
        sum.finish(d, rules.eps)
    }
}

struct Forward<'a> {
    head: &'a Head<'a>,
    o: &'a Target<'a>,
    numbers: &'a mut Numbers,
}

impl WithSimd for Forward<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { head: this, o, numbers } = self;
        let &Head { problem, batch, index: head } = this;
        let ([_, _, _, _, d, e], width, rules) = (problem.sizes, this.width(), problem.rules);
        let (mut tile, mut scaled) = (vec![0.0; BLOCK * width], scratch(BLOCK * width));
        let keys = this.capacities(Side::Keys, &mut tile);
        let queries = this.capacities(Side::Queries, &mut tile);
        let query_shares = this.flows(Side::Queries, &keys, &mut numbers.incoming, &mut tile);
        let key_shares = this.flows(Side::Keys, &queries, &mut numbers.outgoing, &mut tile);

        let sources = problem.present[1][batch];
        let (mut kv, mut place) = (vec![0.0; d * e], Vec::new());
        // Below every flow, and a number: what is hidden lies lower still.
        let (mut highest, mut mass) = (LOG_ZERO as f32, 0.0_f64);
        let mut parts = [0.0; BLOCK];
        for (start, len) in this.blocks(Side::Keys) {
            let hidden = this.hidden(Side::Keys, start, len);
            let (rows, scaled) = (&mut tile[..len * width], &mut scaled[..len * width]);
            this.load(Side::Keys, start, len, rows);
            let flows = &mut numbers.source[start..start + len];
            if rules.competition {
                products(rows, rules.eps, &query_shares, flows);
                let bounds = [rules.extra_eps, rules.low, rules.high];
                let above = bound(flows, bounds, &mut numbers.free[start..start + len], hidden).max(highest);
                if above > highest {
                    let factor = simd::exp(highest - above);
                    mass *= f64::from(factor);
                    scale(&mut kv, factor);
                    highest = above;
                }
                mass += f64::from(powers(flows, highest, &mut parts[..len]));
            } else {
                numbers.free[start..start + len].fill(0.0);
                for (t, (flow, part)) in flows.iter_mut().zip(&mut parts).enumerate() {
                    *part = if hidden.is_some_and(|hidden| hidden[t]) { 0.0 } else { 1.0 };
                    *flow = *part;
                }
            }
            scans::scaled(rows, &parts[..len], width, scaled);
            let v = this.values(start, len, &mut place);
            // SAFETY: the rows are the problem's, and this task has its own memory.
            unsafe {
                multiply(
                    simd,
                    Product {
                        m: d,
                        n: e,
                        inner: len,
                        a: Strided::rows(scaled.as_ptr(), width).transposed(),
                        b: v.ptr,
                        b_row: v.stride,
                        c: kv.as_mut_ptr(),
                        c_row: e,
                        add: true,
                        band: Band::Full,
                    },
                );
            }
        }
        if rules.competition {
            // Of no key that is not hidden there are zeros.
            let whole = if mass > 0.0 { (f64::from(sources) / mass) as f32 } else { 0.0 };
            scale(&mut kv, whole);
            sources_of(&mut numbers.source, highest, whole);
        }

        let ratio = problem.present[0][batch] / sources;
        let mut sinks = [0.0; BLOCK];
        for (start, len) in this.blocks(Side::Queries) {
            let (rows, scaled) = (&mut tile[..len * width], &mut scaled[..len * width]);
            this.load(Side::Queries, start, len, rows);
            let allocation = &mut numbers.allocation[start..start + len];
            if rules.allocation {
                products(rows, rules.eps, &key_shares, allocation);
                allocations(allocation, rules.extra_eps, ratio);
            } else {
                allocation.fill(1.0);
            }
            for ((sink, r), flow) in sinks.iter_mut().zip(allocation).zip(&numbers.incoming[start..]) {
                *sink = *r / flow;
            }
            scans::scaled(rows, &sinks[..len], width, scaled);
            let (to, stride) = o.rows(batch, head, start);
            // SAFETY: as above; the caller has the rows of the output for itself.
            unsafe {
                multiply(
                    simd,
                    Product {
                        m: len,
                        n: e,
                        inner: d,
                        a: Strided::rows(scaled.as_ptr(), width),
                        b: kv.as_ptr(),
                        b_row: e,
                        c: to,
                        c_row: stride,
                        add: false,
                        band: Band::Full,
                    },
                );
            }
        }
        numbers.sums = [keys, queries, key_shares, query_shares];
        numbers.kv = kv;
    }
}

/// Ô within its bounds, −∞ for hidden tokens, and where it was there before; the highest.
fn bound(flows: &mut [f32], [extra, low, high]: [f32; 3], free: &mut [f32], hidden: Option<&[bool]>) -> f32 {
    for (t, (flow, free)) in flows.iter_mut().zip(free).enumerate() {
        let whole = *flow + extra;
        *free = if whole >= low && whole <= high { 1.0 } else { 0.0 };
        *flow = if whole < low {
            low
        } else if whole > high {
            high
        } else {
            whole
        };
        if hidden.is_some_and(|hidden| hidden[t]) {
            (*flow, *free) = (f32::NEG_INFINITY, 0.0);
        }
    }
    // NaN stays in the flows.
    flows.iter().fold(f32::NEG_INFINITY, |a, b| a.max(*b))
}

vectorised! {
    /// `exp(Ô − highest)`, and their sum.
    fn powers<'a>(flows: &'a [f32], highest: f32, parts: &'a mut [f32]) -> f32 {
        for (part, flow) in parts.iter_mut().zip(flows) {
            *part = simd::exp(flow - highest);
        }
        simd::sum(parts, |x| x)
    }
}

vectorised! {
    fn scale<'a>(x: &'a mut [f32], factor: f32) -> () {
        for x in x {
            *x *= factor;
        }
    }
}

vectorised! {
    /// c from Ô.
    fn sources_of<'a>(flows: &'a mut [f32], highest: f32, factor: f32) -> () {
        for flow in flows {
            *flow = simd::exp(*flow - highest) * factor;
        }
    }
}

vectorised! {
    /// r from Î.
    fn allocations<'a>(flows: &'a mut [f32], extra: f32, ratio: f32) -> () {
        for flow in flows {
            *flow = simd::sigmoid((*flow + extra) * ratio);
        }
    }
}
