use burn::tensor::DType;
use regard::{Error, Result};

use super::config::{KimiLinearConfig, OP};

/// Bytes that decoding keeps of one sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheBytes {
    /// Latent vectors and shared keys of all tokens: what grows.
    pub latent: usize,
    /// The K×V memories of Kimi Delta Attention, f32.
    pub memory: usize,
    /// The last inputs of its convolutions.
    pub convolution: usize,
}

impl CacheBytes {
    /// All together.
    pub fn total(self) -> usize {
        self.latent + self.memory + self.convolution
    }
}

impl KimiLinearConfig {
    /// Bytes that decoding keeps of one sequence of `tokens` tokens with weights of the float type `dtype`.
    ///
    /// A state of the network holds as much when its buffers are full, that is at powers of two from 16 tokens on.
    ///
    /// # Errors
    /// If the lists of layers are wrong or the heads do not divide the width.
    pub fn cache_bytes(&self, tokens: usize, dtype: DType) -> Result<CacheBytes> {
        let full = self.full_attention()?.into_iter().filter(|full| *full).count();
        let linear = self.layers - full;
        let width = |given: Option<usize>, heads: usize| match given {
            Some(width) => Ok(width),
            None if heads > 0 && self.d_model.is_multiple_of(heads) => Ok(self.d_model / heads),
            None => Err(Error::argument(OP, "heads", format!("a divisor of d_model = {}, or `head_dim` given", self.d_model), heads)),
        };
        let own = width(self.mla.head_dim, self.mla.heads)?;
        let per_token = self.mla.rank.unwrap_or(4 * own) + self.mla.shared_dim.unwrap_or(own / 2);
        let (keys, values) = (self.kda.heads, self.kda.value_heads.unwrap_or(self.kda.heads));
        let head = width(self.kda.head_dim, keys)?;
        Ok(CacheBytes {
            latent: full * tokens * per_token * dtype.size(),
            memory: linear * values * head * head * DType::F32.size(),
            convolution: linear * self.kda.conv_kernel.saturating_sub(1) * (2 * keys + values) * head * dtype.size(),
        })
    }
}
