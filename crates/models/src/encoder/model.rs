use burn::{
    module::{Module, Param},
    nn::{Dropout, Embedding, Linear},
    tensor::{Bool, Int, Tensor},
};
use regard::{
    Error, Result, SequenceMixer,
    blocks::{Norm, project},
};

use super::Pool;
use crate::decoder::{Block, Residual};

const OP: &str = "encoder";

/// From what is read to vectors.
#[derive(Module, Debug)]
pub enum Embed {
    /// A vector for each token. `[vocab, D]`
    Tokens(Embedding),
    /// A linear map of the numbers of a step.
    Numbers(Linear),
}

/// From vectors to what is answered.
#[derive(Module, Debug)]
pub enum Readout {
    /// A linear map of one vector.
    Linear(Linear),
    /// Linear along the channels, then along time.
    Forecast(ForecastHead),
}

/// The head of a forecast.
#[derive(Module, Debug)]
pub struct ForecastHead {
    /// From a vector to the numbers of a step.
    pub channels: Linear,
    /// From the steps of the input to those of the answer.
    pub time: Linear,
}

/// A network over whole sequences: see the [module's page](super).
#[derive(Module, Debug)]
pub struct Encoder {
    /// What makes vectors of the input.
    pub embed: Embed,
    /// The class token `[1, D]`, if the class is read from one.
    pub class: Option<Param<Tensor<2>>>,
    /// Position vectors `[T, D]`, if learned.
    pub positions: Option<Embedding>,
    /// The layers.
    pub blocks: Vec<Block>,
    /// Norm before the head.
    pub norm: Norm,
    /// The head.
    pub readout: Readout,
    /// Dropout of the first vectors.
    pub dropout: Dropout,
    pub(super) causal: bool,
    #[module(skip)]
    pub(super) pool: Option<Pool>,
}

impl Encoder {
    /// The answers to sequences of tokens.
    ///
    /// # Shapes
    /// - `ids`: `[B, T]`; `padding`: `[B, T]`, `true` = not a token
    /// - output: as the head says, `[B, 1, classes]` or `[B, T, outputs]`
    ///
    /// # Errors
    /// If the network reads numbers, the sequences are longer than the learned positions, or a mixer rejects the input.
    ///
    /// # Panics
    /// If an id is outside the vocabulary: the data loader guarantees it.
    pub fn forward_tokens(&self, ids: Tensor<2, Int>, padding: Option<Tensor<2, Bool>>) -> Result<Tensor<3>> {
        let Embed::Tokens(table) = &self.embed else { return Err(Error::argument(OP, "input", "numbers, as it was built for", "tokens")) };
        let x = self.features(table.forward(ids), padding.clone())?;
        self.answer(x, padding, None)
    }

    /// The answers to sequences of numbers.
    ///
    /// # Shapes
    /// - `x`: `[B, T, width]`; `padding`: `[B, T]`, `true` = not a step
    /// - output: as the head says, `[B, 1, classes]`, `[B, T, outputs]` or `[B, horizon, width]`
    ///
    /// # Errors
    /// If the network reads tokens, `x` has another width, the sequences do not fit the learned positions or the head, or a mixer rejects the
    /// input.
    pub fn forward_numbers(&self, x: Tensor<3>, padding: Option<Tensor<2, Bool>>) -> Result<Tensor<3>> {
        let Embed::Numbers(linear) = &self.embed else {
            return Err(Error::argument(OP, "input", "tokens, as it was built for", "numbers"));
        };
        let ([_, t, width], [expected, _]) = (x.dims(), linear.weight.lazy_shape().dims());
        if width != expected {
            return Err(Error::argument(OP, "x", format!("of {expected} numbers a step"), width));
        }
        // A forecast starts from where the series is.
        let last = matches!(self.readout, Readout::Forecast(_)).then(|| x.clone().narrow(1, t - 1, 1));
        let x = match &last {
            Some(last) => x - last.clone(),
            None => x,
        };
        let x = self.features(project(linear, x), padding.clone())?;
        self.answer(x, padding, last)
    }

    /// What the head reads: the vectors of all steps behind the last norm, the class token's first, if there is one. `[B, T or T + 1, D]`
    fn features(&self, x: Tensor<3>, padding: Option<Tensor<2, Bool>>) -> Result<Tensor<3>> {
        let (x, padding) = self.start(x, padding)?;
        let mut x = Residual::new(x);
        for block in &self.blocks {
            x = if self.causal { block.forward(x, padding.clone()) } else { block.attend(x, padding.clone())? };
        }
        let [_, x] = x.norm(&self.norm);
        Ok(x)
    }

    /// What the first layer reads for tokens `[B, T]`, for a look inside. `[B, T or T + 1, D]`
    ///
    /// # Errors
    /// As [`forward_tokens`](Self::forward_tokens).
    pub fn embed_tokens(&self, ids: Tensor<2, Int>) -> Result<Tensor<3>> {
        let Embed::Tokens(table) = &self.embed else { return Err(Error::argument(OP, "input", "numbers, as it was built for", "tokens")) };
        self.start(table.forward(ids), None).map(|(x, _)| x)
    }

    fn start(&self, mut x: Tensor<3>, mut padding: Option<Tensor<2, Bool>>) -> Result<(Tensor<3>, Option<Tensor<2, Bool>>)> {
        let [b, t, d] = x.dims();
        let device = x.device();
        if let Some(table) = &self.positions {
            let [length, _] = table.weight.lazy_shape().dims();
            if t > length {
                return Err(Error::argument(OP, "input", format!("within the {length} learned positions"), format!("{t} steps")));
            }
            x = x + table.weight.val().narrow(0, 0, t).unsqueeze::<3>();
        }
        if let Some(class) = &self.class {
            x = Tensor::cat(vec![class.val().unsqueeze::<3>().expand([b, 1, d]), x], 1);
            padding = padding.map(|hidden| Tensor::cat(vec![Tensor::full([b, 1], false, &device), hidden], 1));
        }
        Ok((self.dropout.forward(x), padding))
    }

    fn answer(&self, x: Tensor<3>, padding: Option<Tensor<2, Bool>>, last: Option<Tensor<3>>) -> Result<Tensor<3>> {
        let x = match self.pool {
            Some(pool) => pool_steps(x, padding, pool),
            None => x,
        };
        match &self.readout {
            Readout::Linear(head) => Ok(project(head, x)),
            Readout::Forecast(ForecastHead { channels, time }) => {
                let ([_, t, _], [length, _]) = (x.dims(), time.weight.lazy_shape().dims());
                if t != length {
                    return Err(Error::argument(OP, "x", format!("of {length} steps"), t));
                }
                let ahead = project(time, project(channels, x).swap_dims(1, 2)).swap_dims(1, 2); // [B, horizon, width]
                Ok(match last {
                    Some(last) => ahead + last,
                    None => ahead,
                })
            }
        }
    }

    /// Number of trained weights.
    pub fn params(&self) -> usize {
        self.num_params()
    }

    /// Floating-point operations of training per step in sequences of `length`: forward and twice that for backward, a multiply-add counted
    /// as two; norms, activations, embedding and head are left out.
    pub fn training_flops_per_token(&self, length: usize) -> f64 {
        let blocks = self.blocks.iter().map(|b| b.mixer.flops_per_token(length) + 2.0 * b.mlp.num_params() as f64);
        3.0 * blocks.sum::<f64>()
    }
}

/// One vector of a sequence. `[B, 1, D]`
fn pool_steps(x: Tensor<3>, padding: Option<Tensor<2, Bool>>, pool: Pool) -> Tensor<3> {
    let [b, t, d] = x.dims();
    match (pool, padding) {
        (Pool::Class, _) => x.narrow(1, 0, 1),
        (Pool::Mean, None) => x.mean_dim(1),
        (Pool::Last, None) => x.narrow(1, t - 1, 1),
        (Pool::Mean, Some(hidden)) => {
            let count = hidden.clone().bool_not().float().cast(x.dtype()).sum_dim(1).clamp_min(1.0); // [B, 1]
            x.mask_fill(hidden.unsqueeze_dim::<3>(2).expand([b, t, d]), 0.0).sum_dim(1) / count.unsqueeze_dim::<3>(2)
        }
        (Pool::Last, Some(hidden)) => {
            // The last step that is none of the padding, which may be on either side.
            let steps = Tensor::<1, Int>::arange(0..t as i64, &x.device()).unsqueeze::<2>().expand([b, t]);
            let last = steps.mask_fill(hidden, 0).max_dim(1); // [B, 1]
            x.gather(1, last.unsqueeze_dim::<3>(2).expand([b, 1, d]))
        }
    }
}
