use std::ops::Range;

use pulp::{Arch, Simd, WithSimd};

use super::decay::Decay;
use crate::blocks::simd::{Band, Product, Strided, Target, View, multiply, multiply_scaled, scratch, transpose};

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
    /// `[B, H, T, inner]`
    pub(crate) a: View<'a>,
    /// `[B, H, T, inner]`
    pub(crate) b: View<'a>,
    /// `[B, H, T, outer]`
    pub(crate) c: View<'a>,
    pub(crate) direction: Direction,
}

/// A stretch of one head.
#[derive(Clone, Debug)]
pub(crate) struct Stretch {
    pub(crate) batch: usize,
    pub(crate) head: usize,
    pub(crate) tokens: Range<usize>,
}

impl<'a> Sweep<'a> {
    pub(crate) fn new([a, b, c]: [View<'a>; 3], direction: Direction) -> Self {
        assert_eq!(a.width(), b.width(), "rows that are multiplied have one width");
        Self { a, b, c, direction }
    }

    /// Numbers of a state.
    pub(crate) fn state_len(&self) -> usize {
        self.a.width() * self.c.width()
    }

    /// Writes the outputs of a stretch, if they are wanted, and moves the state `[inner, outer]` over it.
    ///
    /// # Safety
    /// The stretch must lie in the views and in the target, and nobody else may use its rows of the target.
    pub(crate) unsafe fn run(&self, stretch: &Stretch, decay: &Decay, state: &mut [f32], out: Option<&Target>) {
        assert_eq!(state.len(), self.state_len(), "a state is inner × outer");
        Arch::new().dispatch(Task { sweep: self, stretch, decay, state, out });
    }
}

struct Task<'a> {
    sweep: &'a Sweep<'a>,
    stretch: &'a Stretch,
    decay: &'a Decay,
    state: &'a mut [f32],
    out: Option<&'a Target<'a>>,
}

impl WithSimd for Task<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { sweep, stretch, decay, state, out } = self;
        let Stretch { batch, head, ref tokens } = *stretch;
        let size = decay.block().min(tokens.len());
        let mut memory = Memory::new(sweep.b.width(), size, out.is_some());
        let blocks = tokens.len().div_ceil(size.max(1));
        for index in 0..blocks {
            let index = if sweep.direction == Direction::Past { index } else { blocks - 1 - index };
            let start = tokens.start + index * size;
            let block = Block {
                sweep,
                decay,
                head,
                a: Rows::new(&sweep.a, batch, head, start),
                b: Rows::new(&sweep.b, batch, head, start),
                c: Rows::new(&sweep.c, batch, head, start),
                len: size.min(tokens.end - start),
            };
            // SAFETY: the caller of `run` vouches for the stretch; this task alone has its rows.
            unsafe {
                transpose(block.b.ptr, block.b.stride, block.len, sweep.b.width(), 1.0, &mut memory.b, size);
                if let Some(out) = out {
                    let out = out.rows(batch, head, start);
                    block.outputs(simd, &mut memory, state, out);
                }
                block.advance(simd, &mut memory, state);
            }
        }
    }
}

/// Rows of a tensor.
#[derive(Clone, Copy)]
struct Rows {
    ptr: *const f32,
    stride: usize,
}

impl Rows {
    fn new(view: &View, b: usize, h: usize, t: usize) -> Self {
        Self { ptr: view.row(b, h, t), stride: view.stride() }
    }
}

/// What a task needs besides its arguments.
struct Memory {
    /// Rows of a block.
    size: usize,
    /// The rows of `b` turned. `[inner, block]`
    b: Vec<f32>,
    /// `a bᵀ`. `[block, block]`
    scores: Vec<f32>,
}

impl Memory {
    fn new(inner: usize, size: usize, outputs: bool) -> Self {
        Self { size, b: scratch(inner * size), scores: scratch(if outputs { size * size } else { 0 }) }
    }
}

/// Some tokens of a stretch.
struct Block<'a> {
    sweep: &'a Sweep<'a>,
    decay: &'a Decay,
    head: usize,
    a: Rows,
    b: Rows,
    c: Rows,
    len: usize,
}

impl Block<'_> {
    /// `out = ((A Bᵀ) ⊙ M) C + diag(read) A S`.
    #[inline(always)]
    unsafe fn outputs<S: Simd>(&self, simd: S, memory: &mut Memory, state: &[f32], (out, out_row): (*mut f32, usize)) {
        let (len, size) = (self.len, memory.size);
        let Sweep { ref a, ref c, direction, .. } = *self.sweep;
        let (inner, outer) = (a.width(), c.width());
        let (wanted, summed) = match direction {
            Direction::Past => (Band::Scores(0), Band::Until(0)),
            Direction::Future => (Band::Output(0), Band::From(0)),
        };
        let read = self.decay.read(self.head, direction, len);
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
            multiply(simd, scores);
            for i in 0..len {
                self.decay.fade(self.head, direction, i, &mut memory.scores[i * size..][..len]);
            }
            let across = Product {
                m: len,
                n: outer,
                inner,
                a: Strided::rows(self.a.ptr, self.a.stride),
                b: state.as_ptr(),
                b_row: outer,
                c: out,
                c_row: out_row,
                add: false,
                band: Band::Full,
            };
            multiply_scaled(simd, across, read.as_ptr(), 0.0);
            let inside = Product {
                inner: len,
                a: Strided::rows(memory.scores.as_ptr(), size),
                b: self.c.ptr,
                b_row: self.c.stride,
                add: true,
                band: summed,
                ..across
            };
            multiply(simd, inside);
        }
    }

    /// `S ← λ^m S + (diag(write) B)ᵀ C` for a block of m tokens.
    #[inline(always)]
    unsafe fn advance<S: Simd>(&self, simd: S, memory: &mut Memory, state: &mut [f32]) {
        let Sweep { ref a, ref c, direction, .. } = *self.sweep;
        let (inner, outer) = (a.width(), c.width());
        let write = self.decay.write(self.head, direction, self.len);
        for row in memory.b.chunks_exact_mut(memory.size) {
            for (x, &factor) in row.iter_mut().zip(write) {
                *x *= factor;
            }
        }
        let product = Product {
            m: inner,
            n: outer,
            inner: self.len,
            a: Strided::rows(memory.b.as_ptr(), memory.size),
            b: self.c.ptr,
            b_row: self.c.stride,
            c: state.as_mut_ptr(),
            c_row: outer,
            add: true,
            band: Band::Full,
        };
        // SAFETY: as above.
        unsafe { multiply_scaled(simd, product, std::ptr::null(), self.decay.over(self.head, self.len)) };
    }
}
