use burn::tensor::{Bool, Int, Tensor};

/// A causal layer that mixes tokens: output `t` depends on the inputs `0..=t` alone.
///
/// [`forward`](Self::forward), [`prefill`](Self::prefill) followed by steps, and [`step`](Self::step) from the first token on agree to
/// rounding.
///
/// # Panics
/// The methods panic on tensors whose shapes contradict the configuration: a model guarantees them.
pub trait SequenceMixer {
    /// What the layer keeps of the tokens so far, for one batch.
    type State: MixerMemory;

    /// Mixes whole sequences, for training.
    ///
    /// # Shapes
    /// - `x`: `[B, T, D]`
    /// - `padding`: `[B, T]`, `true` = not a token: it has no influence on the outputs of tokens; outputs there are unspecified but finite
    /// - output: `[B, T, D]`
    fn forward(&self, x: Tensor<3>, padding: Option<Tensor<2, Bool>>) -> Tensor<3>;

    /// The state before the first token, for `batch` sequences.
    fn state(&self, batch: usize) -> Self::State;

    /// Mixes the next tokens `[B, T, D]` of the sequences behind `state` and moves it behind them.
    fn prefill(&self, x: Tensor<3>, state: &mut Self::State) -> Tensor<3>;

    /// Mixes the next token `[B, D]` of each sequence behind `state` and moves it behind them.
    fn step(&self, x: Tensor<2>, state: &mut Self::State) -> Tensor<2>;

    /// Floating-point operations of the forward pass per token in sequences of `context` tokens, a multiply-add counted as two:
    /// projections and mixing, without norms and activations.
    fn flops_per_token(&self, context: usize) -> f64;
}

/// The state of a causal layer.
pub trait MixerMemory: Clone + std::fmt::Debug {
    /// Bytes of the tensors held.
    fn bytes(&self) -> usize;

    /// The states of the sequences `indices` (`[B']`), in that order: reordering for beam search.
    #[must_use]
    fn select(&self, indices: &Tensor<1, Int>) -> Self;
}

/// Where in a stack of layers a layer stands: decay rates and initial values depend on it in some mechanisms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LayerPlace {
    /// Number of the layer, from 0.
    pub index: usize,
    /// Number of layers.
    pub count: usize,
}

impl LayerPlace {
    /// The only layer of a stack of one.
    pub const ONLY: Self = Self { index: 0, count: 1 };
}
