use std::convert::Infallible;

use burn::{
    module::Module,
    nn::Dropout,
    tensor::{Bool, Tensor},
};
use regard::{Mixer, MixerState, Result, SequenceMixer, blocks::Norm};

use super::channel::ChannelMixer;

/// `x ← x + Mixer(Norm(x))`, then `x ← x + Mlp(Norm(x))`.
#[derive(Module, Debug)]
pub struct Block {
    /// Norm before the token mixer.
    pub mixer_norm: Norm,
    /// Token mixer.
    pub mixer: Mixer,
    /// Norm before the channel mixer.
    pub mlp_norm: Norm,
    /// Channel mixer.
    pub mlp: ChannelMixer,
    /// Dropout of both branches.
    pub dropout: Dropout,
}

/// The stream that blocks add to: `x`, and what the last branch adds to it, which is added where the sum is normalised.
#[derive(Clone, Debug)]
pub struct Residual<const D: usize> {
    x: Tensor<D>,
    update: Option<Tensor<D>>,
}

impl<const D: usize> Residual<D> {
    /// The stream before the first block.
    pub fn new(x: Tensor<D>) -> Self {
        Self { x, update: None }
    }

    /// The stream and its norm.
    pub fn norm(self, norm: &Norm) -> [Tensor<D>; 2] {
        match self.update {
            Some(update) => norm.forward_add(self.x, update),
            None => [self.x.clone(), norm.forward(self.x)],
        }
    }

    /// The stream.
    pub fn sum(self) -> Tensor<D> {
        match self.update {
            Some(update) => self.x + update,
            None => self.x,
        }
    }
}

impl Block {
    /// Whole sequences `[B, T, D]`; `padding` as in [`SequenceMixer::forward`].
    pub fn forward(&self, stream: Residual<3>, padding: Option<Tensor<2, Bool>>) -> Residual<3> {
        let Ok(stream) = self.run::<3, Infallible>(stream, Some(&self.dropout), |x| Ok(self.mixer.forward(x, padding)));
        stream
    }

    /// As [`forward`](Self::forward), with the bidirectional form of the mixer.
    ///
    /// # Errors
    /// If the mixer has none, or the mask has another shape.
    pub fn attend(&self, stream: Residual<3>, padding: Option<Tensor<2, Bool>>) -> Result<Residual<3>> {
        self.run(stream, Some(&self.dropout), |x| self.mixer.attend(x, padding))
    }

    /// The next tokens `[B, T, D]` behind `state`.
    pub fn prefill(&self, stream: Residual<3>, state: &mut MixerState) -> Residual<3> {
        let Ok(stream) = self.run::<3, Infallible>(stream, None, |x| Ok(self.mixer.prefill(x, state)));
        stream
    }

    /// The next token `[B, D]` behind `state`.
    pub fn step(&self, stream: Residual<2>, state: &mut MixerState) -> Residual<2> {
        let Ok(stream) = self.run::<2, Infallible>(stream, None, |x| Ok(self.mixer.step(x, state)));
        stream
    }

    fn run<const D: usize, E>(
        &self,
        stream: Residual<D>,
        dropout: Option<&Dropout>,
        mix: impl FnOnce(Tensor<D>) -> std::result::Result<Tensor<D>, E>,
    ) -> std::result::Result<Residual<D>, E> {
        let drop = |x: Tensor<D>| match dropout {
            Some(dropout) => dropout.forward(x),
            None => x,
        };
        let [x, normed] = stream.norm(&self.mixer_norm);
        let [x, normed] = self.mlp_norm.forward_add(x, drop(mix(normed)?));
        Ok(Residual { x, update: Some(drop(self.mlp.forward(normed))) })
    }

    pub(super) fn rebalance(self) -> Self {
        Self { mlp: self.mlp.rebalance(), ..self }
    }
}
