use burn::tensor::{Int, Tensor};

use crate::MixerMemory;

/// Keys and values of the tokens so far, in buffers that double when they are full: a token is written in place, and attention reads
/// the filled part where it lies. A clone shares the buffers until one of the two writes.
#[derive(Clone, Debug)]
pub struct SoftmaxState {
    /// `[B, G, capacity, K]`, rotated.
    keys: Tensor<4>,
    /// `[B, G, capacity, V]`
    values: Tensor<4>,
    len: usize,
}

/// Tokens of the first buffers.
const SMALLEST: usize = 16;

impl SoftmaxState {
    /// No tokens yet, for `[batch, heads, width]`, where and in which float type `like` is.
    pub(super) fn new([batch, heads, width]: [usize; 3], like: &Tensor<2>) -> Self {
        let empty = || Tensor::zeros([batch, heads, 0, width], (&like.device(), like.dtype()));
        Self { keys: empty(), values: empty(), len: 0 }
    }

    /// Number of tokens so far.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Adds the keys and values of the next tokens, `[B, G, T, K]` each, and gives those of all tokens.
    pub(super) fn append(&mut self, keys: Tensor<4>, values: Tensor<4>) -> [Tensor<4>; 2] {
        let start = self.len;
        self.len += keys.dims()[2];
        let len = self.len;
        let write = |buffer: &mut Tensor<4>, new: Tensor<4>| {
            let [b, g, capacity, width] = buffer.dims();
            // Out of the state, so that nobody else holds the buffer while it is written.
            let mut whole = std::mem::replace(buffer, Tensor::empty([0, 0, 0, 0], &new.device()));
            if len > capacity {
                let larger = Tensor::zeros([b, g, len.next_power_of_two().max(SMALLEST), width], (&new.device(), new.dtype()));
                whole = if start == 0 { larger } else { larger.slice_assign([0..b, 0..g, 0..start, 0..width], whole.narrow(2, 0, start)) };
            }
            *buffer = whole.slice_assign([0..b, 0..g, start..len, 0..width], new);
            buffer.clone().narrow(2, 0, len)
        };
        [write(&mut self.keys, keys), write(&mut self.values, values)]
    }
}

impl MixerMemory for SoftmaxState {
    fn bytes(&self) -> usize {
        [&self.keys, &self.values].iter().map(|t| t.dims().iter().product::<usize>() * t.dtype().size()).sum()
    }

    fn select(&self, indices: &Tensor<1, Int>) -> Self {
        let select = |t: &Tensor<4>| t.clone().select(0, indices.clone());
        Self { keys: select(&self.keys), values: select(&self.values), len: self.len }
    }
}
