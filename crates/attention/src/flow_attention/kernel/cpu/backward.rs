use pulp::{Simd, WithSimd};

use super::{
    flows::{Tile, capacities_backward},
    forward::{Head, Values},
    problem::{BLOCK, Running, Scalars, State},
    scans::{self, Capacities, Gradients, Pair},
};
use crate::blocks::{
    decayed_product::cpu::{Block, Decay, Direction, Memory, Panels, Rows},
    simd::{Ahead, Target, View, arch, dot, scratch, transpose, vectorised},
};

/// Where the gradients of the inputs go.
pub(super) struct Targets<'a> {
    pub(super) q: Target<'a>,
    pub(super) k: Target<'a>,
    pub(super) v: Target<'a>,
}

impl Head<'_> {
    /// Writes the gradients of the head, given its state before the tokens, and turns `d_state`, the cotangent of the state behind
    /// them, into the gradient of that before them.
    ///
    /// # Safety
    /// Nobody else may use the rows of the head in the targets.
    pub(super) unsafe fn backward(&self, before: State<&[f32]>, d_o: &View, d_state: State<&mut [f32]>, targets: &Targets) {
        let [_, _, t, ..] = self.problem.sizes;
        let width = self.problem.width();
        let blocks = t.div_ceil(BLOCK);
        let mut past = Past { scalars: Scalars::new(t), sums: scratch(blocks * 4 * width), d_sink: scratch(t) };
        arch().dispatch(OverThePast { head: self, before, d_o, d_q: &targets.q, past: &mut past });
        arch().dispatch(FromTheFuture { head: self, d_o, targets, past: &past, d_state });
    }
}

/// What the pass over the past leaves for that from the future.
struct Past {
    scalars: Scalars,
    /// The four sums with ε before each block. `[blocks, 4, width]`
    sums: Vec<f32>,
    /// The gradients of w.
    d_sink: Vec<f32>,
}

/// The flows once more, and `z_t = Σ_{j≤t} (v_j · do_t) c_j k_j`: the gradient of w_t is `q_t · z_t`, and that of q_t has the term
/// `w_t z_t`, which is left in `d_q`.
struct OverThePast<'a> {
    head: &'a Head<'a>,
    before: State<&'a [f32]>,
    d_o: &'a View<'a>,
    d_q: &'a Target<'a>,
    past: &'a mut Past,
}

impl WithSimd for OverThePast<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { head: &Head { problem, batch, index: head, tokens }, before, d_o, d_q, past } = self;
        let [_, _, t, d, e] = problem.sizes;
        let (width, size) = (problem.width(), BLOCK.min(t));
        let mut tile = Tile::new(size, width);
        let mut sources = scratch(size * width);
        let mut values = Values::new(problem, size);
        let decay = Decay::new(&[0.0], 1.0, size);
        let mut memory = Memory::new(e, size, true);
        let mut panels = Panels::new(e, d, 2 * S::F32_LANES);
        let mut turned = scratch(d * e);
        // SAFETY: the state has D rows of E numbers.
        unsafe { transpose(before.kv.as_ptr(), e, d, e, 1.0, &mut turned, d) };
        panels.load(&turned);
        let mut running = Running::new(before, tokens, width, problem.rules.eps);
        for (start, sums) in (0..t).step_by(size).zip(past.sums.chunks_exact_mut(4 * width)) {
            let len = size.min(t - start);
            let hidden = problem.hidden(batch, start, len);
            for (to, from) in sums.chunks_exact_mut(width).zip(&running.with_eps) {
                to.copy_from_slice(from);
            }
            tile.load(problem, batch, head, start, len);
            tile.flows(problem, hidden, &mut running, &mut past.scalars, start, len);
            scans::scaled(&tile.k[..len * width], &past.scalars.source[start..][..len], width, &mut sources);
            let block = Block {
                a: Rows::new(d_o, batch, head, start),
                b: values.rows(problem, hidden, batch, head, start),
                c: Rows { ptr: sources.as_ptr(), stride: width },
                inner: e,
                len,
                powers: decay.of(0, Direction::Past),
                ahead: &Ahead::none(),
            };
            // SAFETY: the tokens are the problem's, and this task has the rows of the gradients for itself.
            unsafe {
                block.turn(&mut memory);
                block.outputs(simd, &mut memory, &panels, d_q.rows(batch, head, start));
                block.advance(simd, &mut memory, &mut panels);
            }
            for i in 0..len {
                // SAFETY: as above.
                let row = unsafe { d_q.row(batch, head, start + i) };
                past.d_sink[start + i] = dot(simd, &tile.q[i * width..][..d], row);
                let w = past.scalars.sink[start + i];
                for x in row {
                    *x *= w;
                }
            }
        }
    }
}

/// All other terms, block by block from the last.
struct FromTheFuture<'a> {
    head: &'a Head<'a>,
    d_o: &'a View<'a>,
    targets: &'a Targets<'a>,
    past: &'a Past,
    d_state: State<&'a mut [f32]>,
}

/// Memory of a block.
struct Numbers {
    /// Gradients of Ô and Î over n, of I and of O.
    d_conserved_out: Vec<f32>,
    d_conserved_in: Vec<f32>,
    d_incoming: Vec<f32>,
    d_outgoing: Vec<f32>,
    /// Products of q and k with sums of gradients.
    products: [Vec<f32>; 2],
    /// Not wanted.
    ignored: [Vec<f32>; 2],
    /// Gradients of c, then of the running log-sum-exp.
    d_source: Vec<f32>,
}

impl WithSimd for FromTheFuture<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { head: &Head { problem, batch, index: head, .. }, d_o, targets, past, d_state } = self;
        let [_, _, t, d, e] = problem.sizes;
        let (width, size, rules) = (problem.width(), BLOCK.min(t), problem.rules);
        let mut tile = Tile::new(size, width);
        let mut sinks = scratch(size * width);
        let mut values = Values::new(problem, size);
        let (mut d_q, mut d_k, mut d_v) = (vec![0.0; size * width], vec![0.0; size * width], scratch(size * e));
        let mut numbers = Numbers {
            d_conserved_out: scratch(size),
            d_conserved_in: scratch(size),
            d_incoming: scratch(size),
            d_outgoing: scratch(size),
            products: std::array::from_fn(|_| scratch(size)),
            ignored: std::array::from_fn(|_| scratch(size)),
            d_source: scratch(size),
        };
        // The gradients of the four sums at a token are sums over the tokens from it on.
        let mut d_sums = d_state.sums.each_ref().map(|sum| {
            let mut row = vec![0.0; width];
            row[..d].copy_from_slice(sum);
            row
        });
        let mut d_log = d_state.log_sum_exp[0];
        let decay = Decay::new(&[0.0], 1.0, size);
        let (mut memory, mut twin_memory) = (Memory::new(d, size, true), Memory::new(e, size, true));
        let (mut panels, mut turned) = (Panels::new(d, e, 2 * S::F32_LANES), Panels::new(e, d, 2 * S::F32_LANES));
        panels.load(d_state.kv);
        for index in (0..t.div_ceil(size)).rev() {
            let start = index * size;
            let len = size.min(t - start);
            let hidden = problem.hidden(batch, start, len);
            let s = &past.scalars;
            tile.load(problem, batch, head, start, len);
            scans::scaled(&tile.q[..len * width], &s.sink[start..][..len], width, &mut sinks);
            let v = values.rows(problem, hidden, batch, head, start);
            let d_out = Rows::new(d_o, batch, head, start);
            let sinks = Rows { ptr: sinks.as_ptr(), stride: width };
            let (powers, ahead) = (decay.of(0, Direction::Future), &Ahead::none());
            let main = Block { a: Rows { ptr: tile.k.as_ptr(), stride: width }, b: sinks, c: d_out, inner: d, len, powers, ahead };
            let twin = Block { a: v, b: d_out, c: sinks, inner: e, len, powers, ahead };
            // SAFETY: the tokens are the problem's, and the buffers have room for a block.
            unsafe {
                main.turn(&mut memory);
                main.outputs(simd, &mut memory, &panels, (d_v.as_mut_ptr(), e));
                twin.turn(&mut twin_memory);
                turned.turn(&panels);
                twin.outputs(simd, &mut twin_memory, &turned, (d_k.as_mut_ptr(), width));
                main.advance(simd, &mut memory, &mut panels);
            }
            for i in 0..len {
                let c = s.source[start + i];
                // SAFETY: as above; this task has the rows of the gradients for itself.
                let (v, to, d_q_row) = unsafe {
                    let v = std::slice::from_raw_parts(v.ptr.add(i * v.stride), e);
                    (v, targets.v.row(batch, head, start + i), targets.q.row(batch, head, start + i))
                };
                numbers.d_source[i] = dot(simd, v, &d_v[i * e..][..e]);
                for (to, x) in to.iter_mut().zip(&d_v[i * e..]) {
                    *to = c * x;
                }
                for x in &mut d_k[i * width..][..d] {
                    *x *= c;
                }
                d_q[i * width..][..d].copy_from_slice(d_q_row);
            }
            d_log = numbers.of_competition(s, rules.competition, start, len, d_log);
            numbers.of_allocation(s, &past.d_sink, rules.allocation, start, len);
            let [k_shares, q_shares] = &mut tile.shares;
            ratios(&s.n[start..][..len], &s.outgoing[start..][..len], &mut k_shares[..len]);
            ratios(&s.n[start..][..len], &s.incoming[start..][..len], &mut q_shares[..len]);

            let x = Capacities { q: &tile.q[..len * width], k: &tile.k[..len * width], eps: rules.eps };
            let [k_added, q_added, k_share_added, q_share_added] = &mut tile.added;
            let [d_sum_k, d_sum_q, d_sum_k_share, d_sum_q_share] = &mut d_sums;
            // Σ q n/I is read by sources, Σ k n/O by sinks.
            let [products_q, products_k] = &mut numbers.products;
            scans::backward(
                x,
                Gradients { q: &mut d_q, k: &mut d_k },
                Pair { before: [d_sum_q_share, d_sum_k_share], added: [q_share_added, k_share_added] },
                [&numbers.d_conserved_out, &numbers.d_conserved_in],
                [q_shares, k_shares],
                [&mut products_q[..len], &mut products_k[..len]],
            );
            scans::carry(d_sum_q_share, q_share_added);
            scans::carry(d_sum_k_share, k_share_added);
            numbers.of_flows(s, &past.d_sink, start, len);
            let [ignored_q, ignored_k] = &mut numbers.ignored;
            scans::backward(
                x,
                Gradients { q: &mut d_q, k: &mut d_k },
                Pair { before: [d_sum_q, d_sum_k], added: [q_added, k_added] },
                [&numbers.d_outgoing, &numbers.d_incoming],
                [&tile.ones, &tile.ones],
                [&mut ignored_q[..len], &mut ignored_k[..len]],
            );
            scans::carry(d_sum_q, q_added);
            scans::carry(d_sum_k, k_added);

            let sums: [&[f32]; 4] = std::array::from_fn(|i| &past.sums[(index * 4 + i) * width..][..width]);
            for (pair, factors, weights) in [
                ((sums[0], sums[1], &mut *k_added, &mut *q_added), [&tile.ones, &tile.ones], [&numbers.d_incoming, &numbers.d_outgoing]),
                (
                    (sums[2], sums[3], k_share_added, q_share_added),
                    [&*k_shares, &*q_shares],
                    [&numbers.d_conserved_in, &numbers.d_conserved_out],
                ),
            ] {
                let (k_before, q_before, k_added, q_added) = pair;
                let pair = Pair { before: [k_before, q_before], added: [&mut *k_added, &mut *q_added] };
                let [a, b] = weights;
                let d = Gradients { q: &mut d_q, k: &mut d_k };
                scans::gradients_of_flows(x, d, pair, factors.map(|x| &x[..]), [&a[..len], &b[..len]]);
                k_added.fill(0.0);
                q_added.fill(0.0);
            }

            for (view, y, d_x, target) in [(&problem.q, &tile.q, &d_q, &targets.q), (&problem.k, &tile.k, &d_k, &targets.k)] {
                for i in 0..len {
                    // SAFETY: as above.
                    let (x, to) = unsafe {
                        let x = std::slice::from_raw_parts(view.row(batch, head, start + i), d);
                        (x, target.row(batch, head, start + i))
                    };
                    if hidden.is_some_and(|hidden| hidden[i]) {
                        to.fill(0.0);
                        continue;
                    }
                    capacities_backward(rules.feature_map, x, &y[i * width..][..d], &d_x[i * width..][..d], to);
                }
            }
        }
        for (to, from) in d_state.sums.into_iter().zip(&d_sums) {
            to.copy_from_slice(&from[..d]);
        }
        d_state.log_sum_exp[0] = d_log;
        panels.store(d_state.kv);
    }
}

impl Numbers {
    /// The gradients of Ô over n, from those of c and of the log-sum-exp behind the block; returns that of the one before it.
    fn of_competition(&mut self, s: &Scalars, compete: bool, start: usize, len: usize, mut d_log: f32) -> f32 {
        for i in (0..len).rev() {
            let t = start + i;
            let d_c = if compete { self.d_source[i] * s.source[t] } else { 0.0 };
            let d_log_here = d_log - d_c;
            self.d_conserved_out[i] = s.free[t] * s.part[t].mul_add(d_log_here, d_c) / s.n[t];
            d_log = s.kept[t] * d_log_here;
        }
        d_log
    }

    /// The gradients of Î over n.
    fn of_allocation(&mut self, s: &Scalars, d_sink: &[f32], allocate: bool, start: usize, len: usize) {
        for i in 0..len {
            let t = start + i;
            let slope = if allocate { s.sink[t] * (1.0 - s.allocation[t]) } else { 0.0 };
            self.d_conserved_in[i] = d_sink[t] * slope / s.n[t];
        }
    }

    /// The gradients of I and O.
    fn of_flows(&mut self, s: &Scalars, d_sink: &[f32], start: usize, len: usize) {
        let [with_q, with_k] = &self.products;
        for i in 0..len {
            let t = start + i;
            let (incoming, outgoing) = (1.0 / s.incoming[t], 1.0 / s.outgoing[t]);
            self.d_incoming[i] = -incoming * d_sink[t].mul_add(s.sink[t], with_q[i] * s.n[t] * incoming);
            self.d_outgoing[i] = -outgoing * (with_k[i] * s.n[t] * outgoing);
        }
    }
}

vectorised! {
    fn ratios<'a>(a: &'a [f32], b: &'a [f32], y: &'a mut [f32]) -> () {
        for ((y, a), b) in y.iter_mut().zip(a).zip(b) {
            *y = a / b;
        }
    }
}
