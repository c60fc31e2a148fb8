use burn::tensor::{DType, Int, Tensor};

/// Rows of the tokens so far in a buffer that doubles when it is full: a token is written in place, and what reads it reads the filled
/// part where it lies. A clone shares the buffer until one of the two writes.
#[derive(Clone, Debug)]
pub(crate) struct TokenCache {
    /// `[B, G, capacity, width]`
    buffer: Tensor<4>,
    len: usize,
}

/// Tokens of the first buffer.
const SMALLEST: usize = 16;

impl TokenCache {
    /// No tokens yet, for `[batch, heads, width]`, where and in which float type `like` is.
    pub(crate) fn new([batch, heads, width]: [usize; 3], like: &Tensor<2>) -> Self {
        Self { buffer: Tensor::zeros([batch, heads, 0, width], (&like.device(), like.dtype())), len: 0 }
    }

    /// Number of tokens so far.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// `[B, G, capacity, width]`
    pub(crate) fn dims(&self) -> [usize; 4] {
        self.buffer.dims()
    }

    pub(crate) fn dtype(&self) -> DType {
        self.buffer.dtype()
    }

    /// Adds the rows of the next tokens, `[B, G, T, width]`, and gives those of all tokens.
    pub(crate) fn append(&mut self, new: Tensor<4>) -> Tensor<4> {
        let [b, g, capacity, width] = self.buffer.dims();
        let start = self.len;
        self.len += new.dims()[2];
        // Out of the cache, so that nobody else holds the buffer while it is written.
        let mut whole = std::mem::replace(&mut self.buffer, Tensor::empty([0, 0, 0, 0], &new.device()));
        if self.len > capacity {
            let larger = Tensor::zeros([b, g, self.len.next_power_of_two().max(SMALLEST), width], (&new.device(), new.dtype()));
            whole = if start == 0 { larger } else { larger.slice_assign([0..b, 0..g, 0..start, 0..width], whole.narrow(2, 0, start)) };
        }
        self.buffer = whole.slice_assign([0..b, 0..g, start..self.len, 0..width], new);
        self.buffer.clone().narrow(2, 0, self.len)
    }

    /// Bytes of the buffer.
    pub(crate) fn bytes(&self) -> usize {
        self.buffer.dims().iter().product::<usize>() * self.buffer.dtype().size()
    }

    /// Those of the sequences `indices`, in that order.
    pub(crate) fn select(&self, indices: &Tensor<1, Int>) -> Self {
        Self { buffer: self.buffer.clone().select(0, indices.clone()), len: self.len }
    }
}
