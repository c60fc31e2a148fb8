use burn::{
    module::Module,
    nn::{Dropout, Embedding, Linear},
    tensor::{Bool, Int, Tensor},
};
use regard::{
    Error, MixerMemory, MixerState, Result, SequenceMixer,
    blocks::{Norm, cross_entropy, linear, linear_cross_entropy, look_up, project},
};

use super::block::{Block, Residual};

const OP: &str = "decoder";

/// A decoder-only language model: see the [module's page](super).
#[derive(Module, Debug)]
pub struct Decoder {
    /// Token vectors `[vocab, D]`.
    pub embedding: Embedding,
    /// Position vectors `[context, D]`, if learned.
    pub positions: Option<Embedding>,
    /// The layers.
    pub blocks: Vec<Block>,
    /// Norm before the head.
    pub norm: Norm,
    /// The head, unless tied to `embedding`.
    pub head: Option<Linear>,
    /// Dropout of the token vectors.
    pub dropout: Dropout,
    pub(super) embedding_scale: f64,
}

/// What a [`Decoder`] keeps of the tokens so far: one state per layer and the position of the next token. A value: clone it, reorder
/// it, keep several.
#[derive(Clone, Debug)]
pub struct DecoderState {
    /// The states of the layers.
    pub layers: Vec<MixerState>,
    /// Number of tokens taken in so far.
    pub position: usize,
    /// Number of sequences.
    pub batch: usize,
}

impl DecoderState {
    /// Bytes of all tensors held.
    pub fn bytes(&self) -> usize {
        self.layers.iter().map(MixerMemory::bytes).sum()
    }

    /// The states of the sequences `indices`, in that order.
    #[must_use]
    pub fn select(&self, indices: &Tensor<1, Int>) -> Self {
        let layers = self.layers.iter().map(|s| s.select(indices)).collect();
        Self { layers, position: self.position, batch: indices.dims()[0] }
    }
}

impl Decoder {
    /// Logits of the next token at every position.
    ///
    /// # Shapes
    /// - `ids`: `[B, T]`; `padding`: `[B, T]`, `true` = not a token
    /// - output: `[B, T, vocab]`
    ///
    /// # Panics
    /// If T exceeds the learned positions or an id the vocabulary: the data loader guarantees both. [`try_forward`](Self::try_forward)
    /// checks them.
    pub fn forward(&self, ids: Tensor<2, Int>, padding: Option<Tensor<2, Bool>>) -> Tensor<3> {
        self.logits(self.features(ids, padding))
    }

    /// As [`forward`](Self::forward) for tokens that may be anybody's. It waits for the ids, which are checked.
    ///
    /// # Errors
    /// If T exceeds the learned positions, an id is outside the vocabulary, or `padding` is not of the shape of `ids`.
    pub fn try_forward(&self, ids: Tensor<2, Int>, padding: Option<Tensor<2, Bool>>) -> Result<Tensor<3>> {
        self.check_end(ids.dims()[1])?;
        self.check_vocab(&ids)?;
        if let Some(padding) = padding.as_ref().filter(|padding| padding.dims() != ids.dims()) {
            return Err(Error::shape(OP, ("ids", &ids.dims()), ("padding", &padding.dims()), "batch and tokens"));
        }
        Ok(self.forward(ids, padding))
    }

    /// What the norm before the head reads. `[B, T, D]`
    fn features(&self, ids: Tensor<2, Int>, padding: Option<Tensor<2, Bool>>) -> Residual<3> {
        self.check_end(ids.dims()[1]).unwrap_or_else(|e| panic!("{e}"));
        let x = self.dropout.forward(self.embed(ids, 0));
        self.blocks.iter().fold(Residual::new(x), |x, block| block.forward(x, padding.clone()))
    }

    /// Mean cross entropy of `targets` `[B, T]` in nats, over the positions whose target is not `ignore`.
    pub fn loss(&self, ids: Tensor<2, Int>, targets: Tensor<2, Int>, ignore: Option<usize>) -> Tensor<1> {
        let [_, x] = self.features(ids, None).norm(&self.norm);
        let [b, t, d] = x.dims();
        let (x, targets) = (x.reshape([b * t, d]), targets.reshape([b * t]));
        match &self.head {
            Some(Linear { weight, bias: None, .. }) => linear_cross_entropy(x, weight.val(), targets, ignore),
            Some(head) => cross_entropy(project(head, x), targets, ignore),
            None => linear_cross_entropy(x, self.embedding.weight.val().transpose(), targets, ignore),
        }
    }

    /// The state before the first token of `batch` sequences.
    pub fn state(&self, batch: usize) -> DecoderState {
        DecoderState { layers: self.blocks.iter().map(|b| b.mixer.state(batch)).collect(), position: 0, batch }
    }

    /// Takes in the next tokens `ids` `[B, T]` and returns the logits at each of them. It waits for the ids, which are checked.
    ///
    /// # Errors
    /// If the learned positions end before these tokens do, an id is outside the vocabulary, or the state is that of another model or
    /// of another number of sequences.
    pub fn prefill(&self, ids: Tensor<2, Int>, state: &mut DecoderState) -> Result<Tensor<3>> {
        let [_, t] = ids.dims();
        self.check(&ids, state)?;
        let mut x = Residual::new(self.embed(ids, state.position));
        for (block, layer) in self.blocks.iter().zip(&mut state.layers) {
            x = block.prefill(x, layer);
        }
        state.position += t;
        Ok(self.logits(x))
    }

    /// Takes in one token per sequence, `ids` `[B]`, and returns the logits `[B, vocab]` of the next.
    ///
    /// # Errors
    /// As [`prefill`](Self::prefill).
    pub fn step(&self, ids: Tensor<1, Int>, state: &mut DecoderState) -> Result<Tensor<2>> {
        let ids = ids.unsqueeze_dim(1);
        self.check(&ids, state)?;
        let mut x = Residual::new(self.embed(ids, state.position).squeeze_dim::<2>(1));
        for (block, layer) in self.blocks.iter().zip(&mut state.layers) {
            x = block.step(x, layer);
        }
        state.position += 1;
        Ok(self.logits(x))
    }

    /// Moves the biases of all routers towards an even load of their experts, after a step of the optimiser: see
    /// [`Moe::rebalance_by_training`](regard::blocks::Moe::rebalance_by_training).
    #[must_use]
    pub fn rebalance(mut self) -> Self {
        self.blocks = self.blocks.into_iter().map(Block::rebalance).collect();
        self
    }

    /// Number of trained weights. The biases of routers, which no gradient trains, are not counted.
    pub fn params(&self) -> usize {
        self.num_params() - self.blocks.iter().map(|b| b.mlp.num_params() - b.mlp.trained()).sum::<usize>()
    }

    /// Number of weights that one token meets: of experts the chosen ones, and the embedding only where it is the head.
    pub fn active_params(&self) -> usize {
        let idle: usize = self.blocks.iter().map(|b| b.mlp.trained() - b.mlp.active()).sum();
        let looked_up = if self.head.is_some() { self.embedding.num_params() } else { 0 };
        self.params() - idle - looked_up
    }

    /// Floating-point operations of training per token in sequences of `context` tokens: forward and twice that for backward, a
    /// multiply-add counted as two; norms, activations and the embedding look-up are left out.
    pub fn training_flops_per_token(&self, context: usize) -> f64 {
        let [vocab, d_model] = self.embedding.weight.lazy_shape().dims();
        let blocks: f64 = self.blocks.iter().map(|b| b.mixer.flops_per_token(context) + 2.0 * b.mlp.active() as f64).sum();
        3.0 * (blocks + 2.0 * (vocab * d_model) as f64)
    }

    fn embed(&self, ids: Tensor<2, Int>, position: usize) -> Tensor<3> {
        let [_, t] = ids.dims();
        let device = ids.device();
        let mut x = look_up(self.embedding.weight.val(), ids);
        if (self.embedding_scale - 1.0).abs() > f64::EPSILON {
            x = x * self.embedding_scale;
        }
        match &self.positions {
            Some(table) => {
                let at = Tensor::<1, Int>::arange(position as i64..(position + t) as i64, &device);
                x + look_up(table.weight.val(), at.unsqueeze_dim(0))
            }
            None => x,
        }
    }

    fn logits<const D: usize>(&self, x: Residual<D>) -> Tensor<D> {
        let [_, x] = x.norm(&self.norm);
        match &self.head {
            Some(head) => project(head, x),
            None => linear(x, self.embedding.weight.val().transpose(), None),
        }
    }

    fn check(&self, ids: &Tensor<2, Int>, state: &DecoderState) -> Result<()> {
        let [b, t] = ids.dims();
        if b != state.batch {
            return Err(Error::argument(OP, "state", format!("that of {b} sequences, as `ids`"), format!("that of {}", state.batch)));
        }
        let kinds = |kinds: Vec<&str>| format!("of layers {}", kinds.join(", "));
        let (want, got) = (self.blocks.iter().map(|b| b.mixer.kind()).collect(), state.layers.iter().map(MixerState::kind).collect());
        if want != got {
            return Err(Error::argument(OP, "state", kinds(want), kinds(got)));
        }
        for (index, (block, layer)) in self.blocks.iter().zip(&state.layers).enumerate() {
            // That of no sequence is made without memory.
            let (want, got) = (block.mixer.state(0).layout().of(b), layer.layout());
            if want != got {
                let want = format!("of tensors {want} in layer {index} ({})", block.mixer.kind());
                return Err(Error::argument(OP, "state", want, got));
            }
        }
        self.check_end(state.position + t)?;
        self.check_vocab(ids)
    }

    fn check_vocab(&self, ids: &Tensor<2, Int>) -> Result<()> {
        let vocab = rows(&self.embedding);
        match ids.to_data().iter::<i64>().find(|id| !(0..vocab as i64).contains(id)) {
            Some(id) => Err(Error::argument(OP, "ids", format!("below the {vocab} tokens of the vocabulary"), id)),
            None => Ok(()),
        }
    }

    /// Whether there are learned positions for `end` tokens.
    fn check_end(&self, end: usize) -> Result<()> {
        match self.positions.as_ref().map(rows).filter(|positions| end > *positions) {
            Some(positions) => {
                Err(Error::argument(OP, "ids", format!("within the {positions} learned positions"), format!("{end} tokens")))
            }
            None => Ok(()),
        }
    }
}

fn rows(table: &Embedding) -> usize {
    let [rows, _] = table.weight.lazy_shape().dims();
    rows
}
