use super::sweep::Direction;

/// Powers of the decays of all heads. All exponents are whole and ≥ 0, and powers are computed in f64.
pub(crate) struct Decay {
    block: usize,
    heads: Vec<Head>,
}

struct Head {
    /// −ln λ
    slope: f64,
    /// `λ^(i+1)` for i < C.
    grown: Vec<f32>,
    /// The same times the scale of the product.
    grown_scaled: Vec<f32>,
    /// `λ^(C-1-i)` for i < C.
    shrunk: Vec<f32>,
    /// `scale · λ^|i-C+1|` for i < 2C − 1, and some zeros for vectors that reach over the end.
    both: Vec<f32>,
}

impl Decay {
    /// For blocks of up to `block` tokens.
    pub(crate) fn new(slopes: &[f64], scale: f64, block: usize) -> Self {
        let head = |&slope: &f64| {
            let powers: Vec<f64> = (0..=block).map(|i| (-slope * i as f64).exp()).collect();
            let power = |i: usize| powers[i];
            Head {
                slope,
                grown: (1..=block).map(|i| power(i) as f32).collect(),
                grown_scaled: (1..=block).map(|i| (scale * power(i)) as f32).collect(),
                shrunk: (0..block).rev().map(|i| power(i) as f32).collect(),
                both: (0..2 * block - 1).map(|i| (scale * power(i.abs_diff(block - 1))) as f32).chain([0.0; 16]).collect(),
            }
        };
        Self { block, heads: slopes.iter().map(head).collect() }
    }

    pub(super) fn block(&self) -> usize {
        self.block
    }

    /// What is left of the state after any number of tokens.
    pub(super) fn over_tokens(&self, head: usize, tokens: usize) -> f32 {
        (-self.heads[head].slope * tokens as f64).exp() as f32
    }

    pub(crate) fn of(&self, head: usize, direction: Direction) -> Powers<'_> {
        Powers { head: &self.heads[head], block: self.block, direction }
    }
}

/// The powers that one head needs in one direction.
#[derive(Clone, Copy)]
pub(crate) struct Powers<'a> {
    head: &'a Head,
    block: usize,
    direction: Direction,
}

impl<'a> Powers<'a> {
    pub(super) fn direction(self) -> Direction {
        self.direction
    }

    /// What each of `len` tokens sees of the state before the block.
    pub(super) fn read(self, len: usize) -> &'a [f32] {
        match self.direction {
            Direction::Past => &self.head.grown_scaled[..len],
            Direction::Future => &self.head.shrunk[self.block - len..],
        }
    }

    /// What the state after a block of `len` tokens holds of each.
    pub(super) fn write(self, len: usize) -> &'a [f32] {
        match self.direction {
            Direction::Past => &self.head.shrunk[self.block - len..],
            Direction::Future => &self.head.grown_scaled[..len],
        }
    }

    /// What is left of the state after `len` ≥ 1 tokens of a block.
    pub(super) fn over(self, len: usize) -> f32 {
        self.head.grown[len - 1]
    }

    /// `scale · λ^|i-j|` at j − i.
    pub(super) fn between(self) -> *const f32 {
        // SAFETY: within the table.
        unsafe { self.head.both.as_ptr().add(self.block - 1) }
    }
}
