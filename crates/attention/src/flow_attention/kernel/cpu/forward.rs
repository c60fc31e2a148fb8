use pulp::{Simd, WithSimd};

use super::{
    flows::Tile,
    problem::{BLOCK, Problem, Running, Scalars, State},
    scans,
};
use crate::blocks::{
    decayed_product::cpu::{Block, Decay, Direction, Memory, Panels, Rows, Step},
    simd::{Ahead, Target, arch, scratch},
};

/// Up to this many tokens go one by one: blocks would be mostly empty.
const STEPS: usize = 4;

/// One head of one sequence.
pub(super) struct Head<'a> {
    pub(super) problem: &'a Problem<'a>,
    pub(super) batch: usize,
    /// Number of the head.
    pub(super) index: usize,
    /// Tokens before the first.
    pub(super) tokens: f32,
}

impl Head<'_> {
    /// Writes the outputs of the head and moves its state.
    ///
    /// # Safety
    /// Nobody else may use the rows of the head in `o`.
    pub(super) unsafe fn forward(&self, mut state: State<&mut [f32]>, o: &Target) {
        let t = self.problem.sizes[2];
        let rules = self.problem.rules;
        let mut running = Running::new(state.as_ref(), self.tokens, self.problem.width(), rules.eps);
        if t <= STEPS {
            // SAFETY: the caller's promise.
            unsafe { self.steps(&mut running, state.kv, o) };
        } else {
            arch().dispatch(Forward { head: self, running: &mut running, kv: state.kv, o });
        }
        for (to, from) in state.sums.iter_mut().zip(&running.sums) {
            to.copy_from_slice(&from[..to.len()]);
        }
        state.log_sum_exp[0] = running.log_sum_exp();
    }

    unsafe fn steps(&self, running: &mut Running, kv: &mut [f32], o: &Target) {
        let Self { problem, batch, index: head, .. } = *self;
        let [_, _, len, d, e] = problem.sizes;
        let width = problem.width();
        let (mut tile, mut scalars) = (Tile::new(len, width), Scalars::new(len));
        let hidden = problem.hidden(batch, 0, len);
        tile.load(problem, batch, head, 0, len);
        tile.flows(problem, hidden, running, &mut scalars, 0, len);
        let (mut q, mut k) = (scratch(d), scratch(d));
        for t in 0..len {
            let (out, _) = o.rows(batch, head, t);
            if hidden.is_some_and(|hidden| hidden[t]) {
                // SAFETY: the caller's promise.
                unsafe { std::slice::from_raw_parts_mut(out, e).fill(0.0) };
                continue;
            }
            scans::scaled(&tile.q[t * width..][..d], &scalars.sink[t..=t], d, &mut q);
            scans::scaled(&tile.k[t * width..][..d], &scalars.source[t..=t], d, &mut k);
            // SAFETY: the token is the problem's; the rest is the caller's promise.
            unsafe {
                let v = std::slice::from_raw_parts(problem.v.row(batch, head, t), e);
                Step { q: &q, k: &k, v, decay: 1.0, scale: 1.0, state: kv, out }.run(arch());
            }
        }
    }
}

struct Forward<'a> {
    head: &'a Head<'a>,
    running: &'a mut Running,
    kv: &'a mut [f32],
    o: &'a Target<'a>,
}

impl WithSimd for Forward<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { head: &Head { problem, batch, index: head, .. }, running, kv, o } = self;
        let [_, _, t, d, e] = problem.sizes;
        let (width, size) = (problem.width(), BLOCK.min(t));
        let (mut tile, mut scalars) = (Tile::new(size, width), Scalars::new(size));
        let (mut sinks, mut sources) = (scratch(size * width), scratch(size * width));
        let mut values = Values::new(problem, size);
        let decay = Decay::new(&[0.0], 1.0, size);
        let mut memory = Memory::new(d, size, true);
        let mut panels = Panels::new(d, e, 2 * S::F32_LANES);
        panels.load(kv);
        for start in (0..t).step_by(size) {
            let len = size.min(t - start);
            let hidden = problem.hidden(batch, start, len);
            tile.load(problem, batch, head, start, len);
            tile.flows(problem, hidden, running, &mut scalars, 0, len);
            scans::scaled(&tile.q[..len * width], &scalars.sink[..len], width, &mut sinks);
            scans::scaled(&tile.k[..len * width], &scalars.source[..len], width, &mut sources);
            let block = Block {
                a: Rows { ptr: sinks.as_ptr(), stride: width },
                b: Rows { ptr: sources.as_ptr(), stride: width },
                c: values.rows(problem, hidden, batch, head, start),
                inner: d,
                len,
                powers: decay.of(0, Direction::Past),
                ahead: &Ahead::none(),
            };
            // SAFETY: the tokens are the problem's, and the caller has the rows of the output for itself.
            unsafe {
                block.turn(&mut memory);
                block.outputs(simd, &mut memory, &panels, o.rows(batch, head, start));
                block.advance(simd, &mut memory, &mut panels);
            }
        }
        panels.store(kv);
    }
}

/// The values of a block: as they are, or with zeros for hidden tokens, whatever stands there.
pub(super) struct Values(Vec<f32>);

impl Values {
    pub(super) fn new(problem: &Problem, block: usize) -> Self {
        Self(scratch(if problem.hidden.is_some() { block * problem.sizes[4] } else { 0 }))
    }

    pub(super) fn rows(&mut self, problem: &Problem, hidden: Option<&[bool]>, batch: usize, head: usize, start: usize) -> Rows {
        let Some(hidden) = hidden else { return Rows::new(&problem.v, batch, head, start) };
        let e = problem.sizes[4];
        for ((t, to), &hidden) in self.0.chunks_exact_mut(e).enumerate().zip(hidden) {
            if hidden {
                to.fill(0.0);
            } else {
                // SAFETY: the token is the problem's.
                to.copy_from_slice(unsafe { std::slice::from_raw_parts(problem.v.row(batch, head, start + t), e) });
            }
        }
        Rows { ptr: self.0.as_ptr(), stride: e }
    }
}
