//! From queries and keys of a block to the factors of its tokens.

use super::{
    problem::{Problem, Running, Scalars},
    scans::{self, Capacities, Pair},
};
use crate::{
    blocks::{
        decayed_product::cpu::Rows,
        simd::{self, scratch, vectorised},
    },
    flow_attention::options::FlowFeatureMap,
};

/// What a block needs to get its flows.
pub(super) struct Tile {
    /// φ of the queries and of the keys. `[block, width]`
    pub(super) q: Vec<f32>,
    pub(super) k: Vec<f32>,
    /// What the block has added to the four sums; zeros between blocks.
    pub(super) added: [Vec<f32>; 4],
    /// n / O and n / I
    pub(super) shares: [Vec<f32>; 2],
    pub(super) ones: Vec<f32>,
    /// Conserved flows, times n.
    conserved: [Vec<f32>; 2],
    /// `exp(max_{t−1} − max_t)` and `exp(Ô_t − max_t)`
    exponents: [Vec<f32>; 2],
    /// Σ exp(Ô − max_t) before and after each token.
    masses: [Vec<f32>; 2],
}

impl Tile {
    pub(super) fn new(block: usize, width: usize) -> Self {
        // Rows are written up to D alone: what fills them up stays zero.
        let rows = || vec![0.0; block * width];
        let pair = || std::array::from_fn(|_| scratch(block));
        Self {
            q: rows(),
            k: rows(),
            added: std::array::from_fn(|_| vec![0.0; width]),
            shares: pair(),
            ones: vec![1.0; block],
            conserved: pair(),
            exponents: pair(),
            masses: pair(),
        }
    }

    /// Fills in φ of the queries and keys of `len` tokens.
    pub(super) fn load(&mut self, problem: &Problem, batch: usize, head: usize, start: usize, len: usize) {
        let (width, d) = (problem.width(), problem.sizes[3]);
        for (view, to) in [(&problem.q, &mut self.q), (&problem.k, &mut self.k)] {
            // SAFETY: the tokens are the problem's, as every caller's are.
            unsafe {
                capacities(
                    problem.rules.feature_map,
                    problem.rules.eps,
                    Rows::new(view, batch, head, start),
                    d,
                    width,
                    &mut to[..len * width],
                );
            }
            if let Some(hidden) = problem.hidden(batch, start, len) {
                for (row, _) in to.chunks_exact_mut(width).zip(hidden).filter(|(_, hidden)| **hidden) {
                    row.fill(0.0);
                }
            }
        }
    }

    /// The flows of `len` tokens, whose capacities are loaded, and their numbers, from `at` on; moves the sums behind the block.
    pub(super) fn flows(
        &mut self,
        problem: &Problem,
        hidden: Option<&[bool]>,
        running: &mut Running,
        s: &mut Scalars,
        at: usize,
        len: usize,
    ) {
        let width = problem.width();
        let rules = problem.rules;
        let range = at..at + len;
        let x = Capacities { q: &self.q[..len * width], k: &self.k[..len * width], eps: rules.eps };
        let n = &mut s.n[range.clone()];
        for (t, n) in n.iter_mut().enumerate() {
            if hidden.is_none_or(|hidden| !hidden[t]) {
                running.tokens += 1.0;
            }
            *n = running.tokens.max(1.0);
        }
        let (incoming, outgoing) = (&mut s.incoming[range.clone()], &mut s.outgoing[range.clone()]);
        let [k_added, q_added, k_share_added, q_share_added] = &mut self.added;
        let [k_before, q_before, k_share_before, q_share_before] = &running.with_eps;
        let pair = Pair { before: [k_before, q_before], added: [k_added, q_added] };
        scans::flows(x, pair, [&self.ones, &self.ones], incoming, outgoing);
        let [k_shares, q_shares] = &mut self.shares;
        shares(incoming, outgoing, n, rules.extra_eps, &mut k_shares[..len], &mut q_shares[..len]);
        let [conserved_in, conserved_out] = &mut self.conserved;
        let pair = Pair { before: [k_share_before, q_share_before], added: [k_share_added, q_share_added] };
        scans::flows(x, pair, [k_shares, q_shares], &mut conserved_in[..len], &mut conserved_out[..len]);
        running.carry(&mut self.added);

        let (allocation, sink) = (&mut s.allocation[range.clone()], &mut s.sink[range.clone()]);
        sinks(&conserved_in[..len], n, incoming, rules.extra_eps, rules.allocation, allocation, sink);
        let free = &mut s.free[range.clone()];
        bound(&mut conserved_out[..len], n, [rules.extra_eps, rules.low, rules.high], free);
        let [rise, part] = &mut self.exponents;
        for (t, &flow) in conserved_out[..len].iter().enumerate() {
            let before = running.highest;
            if hidden.is_none_or(|hidden| !hidden[t]) {
                running.highest = before.max(flow);
                part[t] = flow - running.highest;
            } else {
                part[t] = f32::NEG_INFINITY;
                sink[t] = 0.0;
                free[t] = 0.0;
            }
            rise[t] = before - running.highest;
        }
        exponentials(&mut rise[..len], &mut part[..len]);
        let [before, after] = &mut self.masses;
        for t in 0..len {
            before[t] = running.mass as f32;
            running.mass = running.mass.mul_add(f64::from(rise[t]), f64::from(part[t]));
            after[t] = running.mass as f32;
        }
        let masses = [&before[..len], &after[..len]];
        let (parts, kept, source) = (&mut s.part[range.clone()], &mut s.kept[range.clone()], &mut s.source[range]);
        sources([&rise[..len], &part[..len]], masses, n, rules.competition, parts, kept, source);
        if let Some(hidden) = hidden {
            for (source, _) in source.iter_mut().zip(hidden).filter(|(_, hidden)| **hidden) {
                *source = 0.0;
            }
        }
    }
}

/// φ of rows of `d` numbers.
///
/// # Safety
/// The rows must lie in live memory.
pub(super) unsafe fn capacities(map: FlowFeatureMap, eps: f32, from: Rows, d: usize, width: usize, to: &mut [f32]) {
    for (t, to) in to.chunks_exact_mut(width).enumerate() {
        // SAFETY: the caller's promise.
        let x = unsafe { std::slice::from_raw_parts(from.ptr.add(t * from.stride), d) };
        match map {
            FlowFeatureMap::Sigmoid => sigmoids(x, &mut to[..d]),
            FlowFeatureMap::Relu => relus(x, eps, &mut to[..d]),
            FlowFeatureMap::Elu => elus(x, &mut to[..d]),
        }
    }
}

vectorised! {
    fn sigmoids<'a>(x: &'a [f32], y: &'a mut [f32]) -> () {
        for (y, &x) in y.iter_mut().zip(x) {
            *y = simd::sigmoid(x);
        }
    }
}

vectorised! {
    fn relus<'a>(x: &'a [f32], eps: f32, y: &'a mut [f32]) -> () {
        for (y, &x) in y.iter_mut().zip(x) {
            // NaN stays NaN.
            *y = if x < 0.0 { 0.0 } else { x } + eps;
        }
    }
}

vectorised! {
    fn elus<'a>(x: &'a [f32], y: &'a mut [f32]) -> () {
        for (y, &x) in y.iter_mut().zip(x) {
            let below = simd::exp(x);
            *y = if x > 0.0 { x + 1.0 } else { below };
        }
    }
}

vectorised! {
    /// Gradients of rows before φ: `d · φ'(x)`, given x, φ(x) and d.
    pub(super) fn capacities_backward<'a>(map: FlowFeatureMap, x: &'a [f32], y: &'a [f32], d: &'a [f32], dx: &'a mut [f32]) -> () {
        let rows = dx.iter_mut().zip(x).zip(y.iter().zip(d));
        match map {
            FlowFeatureMap::Sigmoid => {
                for ((dx, _), (&y, &d)) in rows {
                    *dx = d * (y * (1.0 - y));
                }
            }
            FlowFeatureMap::Relu => {
                for ((dx, &x), (_, &d)) in rows {
                    *dx = if x > 0.0 { d } else { 0.0 };
                }
            }
            FlowFeatureMap::Elu => {
                for ((dx, &x), (&y, &d)) in rows {
                    *dx = d * if x > 0.0 { 1.0 } else { y };
                }
            }
        }
    }
}

vectorised! {
    /// Completes I and O; n / O and n / I.
    fn shares<'a>(
        incoming: &'a mut [f32],
        outgoing: &'a mut [f32],
        n: &'a [f32],
        extra: f32,
        k_shares: &'a mut [f32],
        q_shares: &'a mut [f32],
    ) -> () {
        for t in 0..n.len().min(k_shares.len()).min(q_shares.len()) {
            incoming[t] += extra;
            outgoing[t] += extra;
            k_shares[t] = n[t] / outgoing[t];
            q_shares[t] = n[t] / incoming[t];
        }
    }
}

vectorised! {
    /// r and r / I.
    fn sinks<'a>(
        conserved: &'a [f32],
        n: &'a [f32],
        incoming: &'a [f32],
        extra: f32,
        allocate: bool,
        allocation: &'a mut [f32],
        sink: &'a mut [f32],
    ) -> () {
        for t in 0..n.len().min(sink.len()) {
            allocation[t] = if allocate { simd::sigmoid((conserved[t] + extra) / n[t]) } else { 1.0 };
            sink[t] = allocation[t] / incoming[t];
        }
    }
}

vectorised! {
    /// Ô within its bounds, and where it was there before.
    fn bound<'a>(conserved: &'a mut [f32], n: &'a [f32], bounds: [f32; 3], free: &'a mut [f32]) -> () {
        let [extra, low, high] = bounds;
        for ((flow, n), free) in conserved.iter_mut().zip(n).zip(free) {
            let whole = (*flow + extra) / n;
            *free = if whole >= low && whole <= high { 1.0 } else { 0.0 };
            *flow = if whole < low { low } else if whole > high { high } else { whole };
        }
    }
}

vectorised! {
    fn exponentials<'a>(rise: &'a mut [f32], part: &'a mut [f32]) -> () {
        for (rise, part) in rise.iter_mut().zip(part) {
            *rise = simd::exp(*rise);
            *part = simd::exp(*part);
        }
    }
}

vectorised! {
    fn sources<'a>(
        exponents: [&'a [f32]; 2],
        masses: [&'a [f32]; 2],
        n: &'a [f32],
        compete: bool,
        parts: &'a mut [f32],
        kept: &'a mut [f32],
        source: &'a mut [f32],
    ) -> () {
        let [rise, part] = exponents;
        for t in 0..n.len().min(source.len()) {
            let whole = 1.0 / masses[1][t];
            parts[t] = part[t] * whole;
            kept[t] = rise[t] * masses[0][t] * whole;
            source[t] = if compete { parts[t] * n[t] } else { 1.0 };
        }
    }
}
