use std::ops::Range;

use pulp::{Arch, Simd, WithSimd};

use super::{
    decay::{Decay, Powers},
    panels::Panels,
};
use crate::blocks::simd::{
    Ahead, Band, Product, Strided, Target, View, multiply_both, multiply_faded, multiply_scaled, scratch, transpose,
};

/// The order in which a sweep goes over the tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    /// The output of a token depends on those up to it.
    Past,
    /// The output of a token depends on those from it on.
    Future,
}

/// What every pass of the product is made of, forward and backward:
/// `out_t = Σ_s λ^|t-s| (a_t · b_s) c_s` over the tokens s on one side of t, t included, by blocks and a carried state `Σ_s b_sᵀ c_s`.
#[derive(Clone, Copy)]
pub(crate) struct Sweep<'a> {
    roles: Roles<'a>,
    /// A second output, whose state is that of the first turned: its `b` is the other's `c` and the other way round.
    twin: Option<Roles<'a>>,
    direction: Direction,
}

/// The tensors of a sweep.
#[derive(Clone, Copy)]
pub(crate) struct Roles<'a> {
    /// `[B, H, T, inner]`
    pub(crate) a: View<'a>,
    /// `[B, H, T, inner]`
    pub(crate) b: View<'a>,
    /// `[B, H, T, outer]`
    pub(crate) c: View<'a>,
}

/// A stretch of one head.
#[derive(Clone, Debug)]
pub(crate) struct Stretch {
    pub(crate) batch: usize,
    pub(crate) head: usize,
    pub(crate) tokens: Range<usize>,
}

impl<'a> Sweep<'a> {
    /// # Panics
    /// If widths disagree.
    pub(crate) fn new(roles: Roles<'a>, twin: Option<Roles<'a>>, direction: Direction) -> Self {
        let widths = |roles: &Roles| [&roles.a, &roles.b, &roles.c].map(View::width);
        let [a, inner, outer] = widths(&roles);
        assert_eq!(a, inner, "rows that are multiplied have one width");
        assert!(twin.is_none_or(|twin| widths(&twin) == [outer, outer, inner]), "a twin has the widths the other way round");
        Self { roles, twin, direction }
    }

    pub(crate) fn direction(&self) -> Direction {
        self.direction
    }

    /// Numbers of a state.
    pub(crate) fn state_len(&self) -> usize {
        self.roles.b.width() * self.roles.c.width()
    }

    /// Writes the outputs of a stretch that are wanted and moves the state `[inner, outer]` over it.
    ///
    /// # Safety
    /// The stretch must lie in the views and in the targets, and nobody else may use its rows of the targets.
    pub(crate) unsafe fn run(&self, stretch: &Stretch, decay: &Decay, state: &mut [f32], outs: [Option<&Target>; 2]) {
        assert_eq!(state.len(), self.state_len(), "a state is inner × outer");
        Arch::new().dispatch(Task { sweep: self, stretch, decay, state, outs });
    }
}

struct Task<'a> {
    sweep: &'a Sweep<'a>,
    stretch: &'a Stretch,
    decay: &'a Decay,
    state: &'a mut [f32],
    outs: [Option<&'a Target<'a>>; 2],
}

impl WithSimd for Task<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { sweep: Sweep { roles, twin, direction }, stretch, decay, state, outs: [out, twin_out] } = self;
        let Stretch { batch, head, ref tokens } = *stretch;
        let (inner, outer) = (roles.b.width(), roles.c.width());
        let size = decay.block().min(tokens.len());
        let mut memory = Memory::new(inner, size, out.is_some());
        let width = 2 * S::F32_LANES;
        let mut panels = Panels::new(inner, outer, width);
        panels.load(state);
        let mut twin =
            twin.as_ref().zip(twin_out).map(|(roles, out)| (roles, out, Memory::new(outer, size, true), Panels::new(outer, inner, width)));
        let blocks = tokens.len().div_ceil(size.max(1));
        for index in 0..blocks {
            let index = if *direction == Direction::Past { index } else { blocks - 1 - index };
            let start = tokens.start + index * size;
            let after = if *direction == Direction::Past { start + size } else { start.wrapping_sub(size) };
            let ahead = if after >= tokens.start && after < tokens.end {
                let views = [Some(&roles.b), Some(&roles.a), Some(&roles.c), twin.as_ref().map(|(roles, ..)| &roles.a)];
                Ahead::new(views.map(|x| x.map(|x| x.rows_ahead(batch, head, after, size.min(tokens.end - after)))))
            } else {
                Ahead::none()
            };
            let block = |roles: &Roles| Block {
                a: Rows::new(&roles.a, batch, head, start),
                b: Rows::new(&roles.b, batch, head, start),
                c: Rows::new(&roles.c, batch, head, start),
                inner: roles.b.width(),
                len: size.min(tokens.end - start),
                powers: decay.of(head, *direction),
                ahead: &ahead,
            };
            // SAFETY: the caller of `run` vouches for the stretch; this task alone has its rows.
            unsafe {
                let main = block(roles);
                main.turn(&mut memory);
                if let Some(out) = out {
                    main.outputs(simd, &mut memory, &panels, out.rows(batch, head, start));
                }
                if let Some((roles, out, memory, turned)) = &mut twin {
                    let block = block(roles);
                    block.turn(memory);
                    turned.turn(&panels);
                    block.outputs(simd, memory, turned, out.rows(batch, head, start));
                }
                main.advance(simd, &mut memory, &mut panels);
            }
        }
        panels.store(state);
    }
}

/// Rows of a tensor.
#[derive(Clone, Copy)]
pub(crate) struct Rows {
    pub(crate) ptr: *const f32,
    /// Distance of neighbouring rows.
    pub(crate) stride: usize,
}

impl Rows {
    pub(crate) fn new(view: &View, b: usize, h: usize, t: usize) -> Self {
        Self { ptr: view.row(b, h, t), stride: view.stride() }
    }
}

/// What a task needs besides its arguments.
pub(crate) struct Memory {
    /// Rows of a block.
    size: usize,
    /// The rows of `b` turned. `[inner, block]`
    b: Vec<f32>,
    /// `a bᵀ`. `[block, block]`
    scores: Vec<f32>,
}

impl Memory {
    /// For blocks of up to `size` tokens; without `outputs`, for [`Block::advance`] alone.
    pub(crate) fn new(inner: usize, size: usize, outputs: bool) -> Self {
        Self { size, b: scratch(inner * size), scores: scratch(if outputs { size * size } else { 0 }) }
    }
}

/// Some tokens of a stretch. What it does to a state is `turn`, then `outputs` if they are wanted, then `advance`.
pub(crate) struct Block<'a> {
    pub(crate) a: Rows,
    pub(crate) b: Rows,
    pub(crate) c: Rows,
    /// Width of `a` and `b`.
    pub(crate) inner: usize,
    pub(crate) len: usize,
    pub(crate) powers: Powers<'a>,
    /// What is read next.
    pub(crate) ahead: &'a Ahead,
}

impl Block<'_> {
    /// Turns the rows of `b`, which both outputs and state need.
    ///
    /// # Safety
    /// The rows must lie in live memory, and the memory have room for a block.
    #[inline(always)]
    pub(crate) unsafe fn turn(&self, memory: &mut Memory) {
        // SAFETY: blocks lie in their tensors, as the caller promises.
        unsafe { transpose(self.b.ptr, self.b.stride, self.len, self.inner, 1.0, &mut memory.b, memory.size) };
    }

    /// `out = ((A Bᵀ) ⊙ M) C + diag(read) A S`.
    ///
    /// # Safety
    /// As [`turn`](Self::turn), which must have been called; nobody else may use the rows of the output.
    #[inline(always)]
    pub(crate) unsafe fn outputs<S: Simd>(&self, simd: S, memory: &mut Memory, state: &Panels, (out, out_row): (*mut f32, usize)) {
        let Self { len, inner, .. } = *self;
        let size = memory.size;
        let (wanted, summed) = match self.powers.direction() {
            Direction::Past => (Band::Scores(0), Band::Until(0)),
            Direction::Future => (Band::Output(0), Band::From(0)),
        };
        // SAFETY: blocks lie in their tensors, as the caller promises; the buffers have room for a block.
        unsafe {
            let scores = Product {
                m: len,
                n: len,
                inner,
                a: Strided::rows(self.a.ptr, self.a.stride),
                b: memory.b.as_ptr(),
                b_row: size,
                c: memory.scores.as_mut_ptr(),
                c_row: size,
                add: false,
                band: wanted,
            };
            multiply_faded(simd, scores, self.powers.between(), self.ahead);
            for panel in state.panels() {
                let across = Product {
                    m: len,
                    n: panel.columns,
                    inner,
                    a: Strided::rows(self.a.ptr, self.a.stride),
                    b: state.of(panel),
                    b_row: state.width(),
                    c: out.add(panel.start),
                    c_row: out_row,
                    add: false,
                    band: Band::Full,
                };
                let inside = Product {
                    inner: len,
                    a: Strided::rows(memory.scores.as_ptr(), size),
                    b: self.c.ptr.add(panel.start),
                    b_row: self.c.stride,
                    band: summed,
                    ..across
                };
                multiply_both(simd, across, self.powers.read(len).as_ptr(), inside, self.ahead);
            }
        }
    }

    /// `S ← λ^m S + (diag(write) B)ᵀ C` for a block of m tokens.
    ///
    /// # Safety
    /// As [`turn`](Self::turn), which must have been called.
    #[inline(always)]
    pub(crate) unsafe fn advance<S: Simd>(&self, simd: S, memory: &mut Memory, state: &mut Panels) {
        let write = self.powers.write(self.len);
        for row in memory.b.chunks_exact_mut(memory.size) {
            for (x, &factor) in row.iter_mut().zip(write) {
                *x *= factor;
            }
        }
        for panel in state.panels() {
            let product = Product {
                m: self.inner,
                n: panel.columns,
                inner: self.len,
                a: Strided::rows(memory.b.as_ptr(), memory.size),
                // SAFETY: a column of the rows, which lie in their tensor.
                b: unsafe { self.c.ptr.add(panel.start) },
                b_row: self.c.stride,
                c: state.of_mut(panel),
                c_row: state.width(),
                add: true,
                band: Band::Full,
            };
            // SAFETY: as above.
            unsafe { multiply_scaled(simd, product, std::ptr::null(), self.powers.over(self.len), Some(self.ahead)) };
        }
    }
}
