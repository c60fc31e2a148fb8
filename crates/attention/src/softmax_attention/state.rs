use burn::tensor::{Int, Tensor};

use crate::{MixerMemory, StateLayout, blocks::TokenCache};

/// Keys and values of the tokens so far, in buffers that double when they are full: a token is written in place, and attention reads
/// the filled part where it lies. A clone shares the buffers until one of the two writes.
#[derive(Clone, Debug)]
pub struct SoftmaxState {
    /// `[B, G, tokens, K]`, rotated.
    keys: TokenCache,
    /// `[B, G, tokens, V]`
    values: TokenCache,
}

impl SoftmaxState {
    /// No tokens yet, for `[batch, heads, width]`, where and in which float type `like` is.
    pub(super) fn new(shape: [usize; 3], like: &Tensor<2>) -> Self {
        Self { keys: TokenCache::new(shape, like), values: TokenCache::new(shape, like) }
    }

    /// Number of tokens so far.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(crate) fn layout(&self) -> StateLayout {
        [&self.keys, &self.values].iter().fold(StateLayout::new(), |layout, x| layout.growing(x.dims(), x.dtype()))
    }

    /// Adds the keys and values of the next tokens, `[B, G, T, K]` each, and gives those of all tokens.
    pub(super) fn append(&mut self, keys: Tensor<4>, values: Tensor<4>) -> [Tensor<4>; 2] {
        [self.keys.append(keys), self.values.append(values)]
    }
}

impl MixerMemory for SoftmaxState {
    fn bytes(&self) -> usize {
        self.keys.bytes() + self.values.bytes()
    }

    fn select(&self, indices: &Tensor<1, Int>) -> Self {
        Self { keys: self.keys.select(indices), values: self.values.select(indices) }
    }
}
