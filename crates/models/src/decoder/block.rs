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

impl Block {
    /// Whole sequences `[B, T, D]`; `padding` as in [`SequenceMixer::forward`].
    pub fn forward(&self, x: Tensor<3>, padding: Option<Tensor<2, Bool>>) -> Tensor<3> {
        let mixed = self.mixer.forward(self.mixer_norm.forward(x.clone()), padding);
        self.add(x, mixed)
    }

    /// As [`forward`](Self::forward), with the bidirectional form of the mixer.
    ///
    /// # Errors
    /// If the mixer has none, or the mask has another shape.
    pub fn attend(&self, x: Tensor<3>, padding: Option<Tensor<2, Bool>>) -> Result<Tensor<3>> {
        let mixed = self.mixer.attend(self.mixer_norm.forward(x.clone()), padding)?;
        Ok(self.add(x, mixed))
    }

    fn add(&self, x: Tensor<3>, mixed: Tensor<3>) -> Tensor<3> {
        let x = x + self.dropout.forward(mixed);
        let update = self.mlp.forward(self.mlp_norm.forward(x.clone()));
        x + self.dropout.forward(update)
    }

    pub(super) fn rebalance(self) -> Self {
        Self { mlp: self.mlp.rebalance(), ..self }
    }

    /// The next tokens `[B, T, D]` behind `state`.
    pub fn prefill(&self, x: Tensor<3>, state: &mut MixerState) -> Tensor<3> {
        let x = x.clone() + self.mixer.prefill(self.mixer_norm.forward(x), state);
        x.clone() + self.mlp.forward(self.mlp_norm.forward(x))
    }

    /// The next token `[B, D]` behind `state`.
    pub fn step(&self, x: Tensor<2>, state: &mut MixerState) -> Tensor<2> {
        let x = x.clone() + self.mixer.step(self.mixer_norm.forward(x), state);
        x.clone() + self.mlp.forward(self.mlp_norm.forward(x))
    }
}
