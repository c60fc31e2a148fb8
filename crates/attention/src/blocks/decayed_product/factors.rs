use std::sync::Arc;

use burn::backend::Backend;

use crate::blocks::raw::Raw;

/// Blocks that are computed together, in one batch of matrix products: fewer and larger operations. Working memory grows with it.
const GROUP: usize = 16;

/// How a product is cut into blocks and decays.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// −ln λ of each head; `None` = no decay.
    pub(super) slopes: Option<Arc<[f64]>>,
    /// Factor on `q · k`.
    pub(super) scale: f64,
    /// Tokens per block.
    pub(super) block: usize,
    /// Bounds of the sequences in a batch of one; `None` = one sequence per batch.
    pub(super) bounds: Option<Arc<[usize]>>,
}

/// `blocks` blocks of `block` tokens, from token `start` on.
#[derive(Clone, Copy)]
pub(super) struct Span {
    pub(super) start: usize,
    pub(super) blocks: usize,
    pub(super) block: usize,
}

impl Plan {
    /// −ln λ of each of `h` heads.
    #[cfg(feature = "cube")]
    pub(super) fn heads(&self, h: usize) -> impl Iterator<Item = f64> {
        (0..h).map(|head| self.slopes.as_ref().map_or(0.0, |slopes| slopes[head]))
    }

    /// Cuts `t` tokens: groups of equal size, what whole blocks are left, then the last block if it is short.
    fn spans(&self, t: usize) -> Vec<Span> {
        let mut spans = Vec::new();
        let mut start = 0;
        while start < t {
            let whole = ((t - start) / self.block).min(GROUP);
            let (blocks, block) = if whole > 0 { (whole, self.block) } else { (1, t - start) };
            spans.push(Span { start, blocks, block });
            start += blocks * block;
        }
        spans
    }

    /// The groups of `t` tokens in order, each with its powers of the decay in the float type of `like`.
    pub(super) fn groups<B: Backend>(&self, t: usize, like: &Raw<B>) -> Vec<(Span, Factors<B>)> {
        let mut groups: Vec<(Span, Factors<B>)> = Vec::new();
        for span in self.spans(t) {
            let factors = match groups.last() {
                Some((last, factors)) if (last.blocks, last.block) == (span.blocks, span.block) => factors.clone(),
                _ => Factors::new(self, span, like),
            };
            groups.push((span, factors));
        }
        groups
    }
}

/// Powers of the decay that a group of n blocks of C tokens needs. All are `exp(-slope·i)` for a whole i ≥ 0, computed in f64.
pub(super) struct Factors<B: Backend> {
    /// scale · λ^(i-j) for i ≥ j, else 0: what query i sees of key j. `[1, H, 1, C, C]`
    pub(super) inside: Raw<B>,
    /// scale · λ^(i+1): what query i sees of the state before its block. `[1, H, 1, C, 1]`
    read: Option<Raw<B>>,
    /// λ^(C-1-i): what is left of key i after its block. `[1, H, 1, C, 1]`
    write: Option<Raw<B>>,
    /// λ^(C(a-b)) for a ≥ b, else 0: what the state before block a (after all blocks for a = n) holds of the state before the group
    /// (b = 0) and of the sum that block b - 1 adds. `[1, H, n + 1, n + 1]`
    across: Raw<B>,
}

impl<B: Backend> Clone for Factors<B> {
    fn clone(&self) -> Self {
        Self { inside: self.inside.clone(), read: self.read.clone(), write: self.write.clone(), across: self.across.clone() }
    }
}

impl<B: Backend> Factors<B> {
    fn new(plan: &Plan, Span { blocks: n, block: c, .. }: Span, like: &Raw<B>) -> Self {
        let (slopes, scale) = (plan.slopes.as_deref(), plan.scale);
        let heads = slopes.unwrap_or(&[0.0]);
        let h = heads.len();
        let each = |power: &dyn Fn(f64) -> Vec<f64>| heads.iter().flat_map(|&slope| power(slope)).collect::<Vec<_>>();
        let inside = each(&|slope| lower_triangle(slope, c).into_iter().map(|x| scale * x).collect());
        let across = each(&|slope| lower_triangle(slope * c as f64, n + 1));
        let read = each(&|slope| (1..=c).map(|i| scale * power(slope, i)).collect());
        let write = each(&|slope| (0..c).rev().map(|i| power(slope, i)).collect());
        let column = |values, plain: bool| (!plain).then(|| Raw::constant(values, [1, h, 1, c, 1], like));
        #[allow(clippy::float_cmp, reason = "exactly 1 where there is no scale")]
        let scaled = scale != 1.0;
        Self {
            inside: Raw::constant(inside, [1, h, 1, c, c], like),
            read: column(read, slopes.is_none() && !scaled),
            write: column(write, slopes.is_none()),
            across: Raw::constant(across, [1, h, n + 1, n + 1], like),
        }
    }

    /// Rows i times scale · λ^(i+1).
    pub(super) fn read(&self, x: Raw<B>) -> Raw<B> {
        scaled(x, self.read.as_ref())
    }

    /// Rows i times λ^(C-1-i).
    pub(super) fn write(&self, x: Raw<B>) -> Raw<B> {
        scaled(x, self.write.as_ref())
    }

    /// The states before each of n blocks and after the last, from the state before the first and what each block adds.
    ///
    /// # Shapes
    /// - `first`: `[B, H, K, V]`; `added`: `[B, H, n, K, V]`; output: `[B, H, n + 1, K, V]`
    pub(super) fn carry(&self, first: Raw<B>, added: Raw<B>) -> Raw<B> {
        let [b, h, n, d_k, d_v] = added.dims();
        let all = Raw::cat(vec![first.reshape([b, h, 1, d_k * d_v]), added.reshape([b, h, n, d_k * d_v])], 2);
        self.across.clone().matmul(all).reshape([b, h, n + 1, d_k, d_v])
    }

    /// The same backwards, for gradients: before the first block and after each, from the gradient of the last state and what reading
    /// in each block adds.
    pub(super) fn carry_back(&self, added: Raw<B>, last: Raw<B>) -> Raw<B> {
        let [b, h, n, d_k, d_v] = added.dims();
        let all = Raw::cat(vec![added.reshape([b, h, n, d_k * d_v]), last.reshape([b, h, 1, d_k * d_v])], 2);
        self.across.clone().transpose().matmul(all).reshape([b, h, n + 1, d_k, d_v])
    }
}

fn scaled<B: Backend>(x: Raw<B>, factors: Option<&Raw<B>>) -> Raw<B> {
    match factors {
        Some(factors) => x * factors.clone(),
        None => x,
    }
}

fn power(slope: f64, exponent: usize) -> f64 {
    (-slope * exponent as f64).exp()
}

/// λ^(i-j) for i ≥ j, else 0.
fn lower_triangle(slope: f64, size: usize) -> Vec<f64> {
    let powers: Vec<f64> = (0..size).map(|i| power(slope, i)).collect();
    (0..size * size).map(|at| (at / size).checked_sub(at % size).map_or(0.0, |distance| powers[distance])).collect()
}
