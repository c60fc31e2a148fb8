//! The chunkwise algorithm in tensor operations.
//!
//! A sequence is cut into runs of chunks; only the states between the chunks are kept for the backward pass.

mod chunk;
mod dplr;
mod halving;

use burn::{
    backend::{Backend, BackendTensor, DispatchKindConversion, DispatchTensor, TensorMetadata, tensor::FloatTensor},
    tensor::Tensor,
};

use self::chunk::Chunks;
pub(in crate::kimi_delta) use dplr::forward as dplr;

use super::{Gradients, Inputs, Options, Output, Saved};
use crate::blocks::Maybe;

/// Rows (tokens × heads) of a run of chunks: every operation on them has to fill a device.
const RUN_ROWS: usize = 32 * 1024;

/// The outputs. The states before the chunks are kept in the order of sequences and runs: `[B·W·chunks, K, V]`.
pub(super) fn forward<B: Backend>(inputs: Inputs<B>, options: &Options, keep: bool) -> Output<B>
where
    DispatchTensor: DispatchKindConversion<B>,
{
    let x = Sequences::new(inputs, options.scale);
    let (mut outs, mut kept, mut last) = (Vec::new(), Vec::new(), Vec::new());
    for sequence in x.each(options) {
        let Some(sequence) = sequence else {
            last.push(x.state.clone().narrow(0, last.len(), 1));
            continue;
        };
        let (o, states, state) = sequence.forward(options.chunk, keep);
        outs.push(o);
        kept.extend(states);
        last.push(state);
    }
    let [_, _, d_k, d_v] = x.state.dims();
    let states = if kept.is_empty() { x.state.clone().narrow(0, 0, 1).reshape([-1, d_k as i32, d_v as i32]) } else { Tensor::cat(kept, 0) };
    Output { o: lower(Tensor::cat(outs, 1)), state: lower(Tensor::cat(last, 0)), states: lower(states) }
}

/// The gradients of all inputs.
pub(super) fn backward<B: Backend>(inputs: Inputs<B>, options: &Options, saved: Saved<B>) -> Gradients<B>
where
    DispatchTensor: DispatchKindConversion<B>,
{
    let width = inputs.g.shape()[3];
    let x = Sequences::new(inputs, options.scale);
    let given = |y: Maybe<B>, like: &Tensor<4>| y.into_option().map_or_else(|| like.zeros_like(), lift::<B, 4>);
    let (d_o, d_state) = (given(saved.d_o, &x.v), given(saved.d_state, &x.state));
    let states: Tensor<3> = lift(saved.states);
    let (mut parts, mut d_states, mut tokens, mut kept) = (Vec::new(), Vec::new(), 0, 0);
    for (n, sequence) in x.each(options).into_iter().enumerate() {
        let d_last = if options.boundaries.is_some() { d_state.clone().narrow(0, n, 1) } else { d_state.clone() };
        let Some(sequence) = sequence else {
            d_states.push(d_last);
            continue;
        };
        let [b, t, w, _] = sequence.v.dims();
        let count = b * w * t.div_ceil(options.chunk);
        let before = states.clone().narrow(0, kept, count);
        let gradients = sequence.backward(before, &d_o.clone().narrow(1, tokens, t), d_last, options.chunk);
        d_states.push(gradients.state.clone());
        parts.push(gradients);
        (tokens, kept) = (tokens + t, kept + count);
    }
    let join = |part: fn(&Sequences) -> Tensor<4>| Tensor::cat(parts.iter().map(part).collect(), 1);
    let g = join(|x| x.g.clone());
    Gradients {
        q: lower(join(|x| x.q.clone()) * options.scale),
        k: lower(join(|x| x.k.clone())),
        v: lower(join(|x| x.v.clone())),
        g: lower(if width == g.dims()[3] { g } else { g.sum_dim(3) }),
        beta: lower(Tensor::cat(parts.iter().map(|x| x.beta.clone()).collect(), 1)),
        state: lower(Tensor::cat(d_states, 0)),
    }
}

fn lift<B: Backend, const D: usize>(x: FloatTensor<B>) -> Tensor<D>
where
    DispatchTensor: DispatchKindConversion<B>,
{
    Tensor::from_dispatch(<DispatchTensor as DispatchKindConversion<B>>::from_backend(BackendTensor::Float(x)))
}

fn lower<B: Backend, const D: usize>(x: Tensor<D>) -> FloatTensor<B>
where
    DispatchTensor: DispatchKindConversion<B>,
{
    let x = <DispatchTensor as DispatchKindConversion<B>>::try_into_backend(x.into_dispatch());
    x.unwrap_or_else(|e| unreachable!("a tensor of this backend: {e}")).float()
}

/// The inputs of sequences of equal length, in one float type; or their gradients.
#[derive(Clone, Debug)]
struct Sequences {
    /// Scaled. `[B, T, H, K]`
    q: Tensor<4>,
    /// `[B, T, H, K]`
    k: Tensor<4>,
    /// `[B, T, W, V]`
    v: Tensor<4>,
    /// `[B, T, W, K]`
    g: Tensor<4>,
    /// `[B, T, W]`
    beta: Tensor<3>,
    /// `[B, W, K, V]`
    state: Tensor<4>,
}

/// Where a run starts, how many tokens it holds, and in how many chunks of which size.
struct Cut {
    start: usize,
    tokens: usize,
    count: usize,
    size: usize,
}

impl Sequences {
    fn new<B: Backend>(inputs: Inputs<B>, scale: f64) -> Self
    where
        DispatchTensor: DispatchKindConversion<B>,
    {
        let (q, v): (Tensor<4>, Tensor<4>) = (lift(inputs.q), lift(inputs.v));
        let ([b, t, _, d_k], [_, _, w, _]) = (q.dims(), v.dims());
        let g = lift::<B, 4>(inputs.g).expand([b, t, w, d_k]);
        Self { q: q * scale, k: lift(inputs.k), v, g, beta: lift(inputs.beta), state: lift(inputs.state) }
    }

    /// The packed sequences one by one, none for an empty one; or all at once if they are not packed.
    fn each(&self, options: &Options) -> Vec<Option<Self>> {
        let Some(boundaries) = &options.boundaries else { return vec![Some(self.clone())] };
        let sequence = |(n, ends): (usize, &[usize])| {
            let (start, len) = (ends[0], ends[1] - ends[0]);
            let cut = |x: &Tensor<4>| x.clone().narrow(1, start, len);
            (len > 0).then(|| Self {
                q: cut(&self.q),
                k: cut(&self.k),
                v: cut(&self.v),
                g: cut(&self.g),
                beta: self.beta.clone().narrow(1, start, len),
                state: self.state.clone().narrow(0, n, 1),
            })
        };
        boundaries.windows(2).enumerate().map(sequence).collect()
    }

    /// The runs in chunks of `size`.
    fn cuts(&self, size: usize) -> Vec<Cut> {
        let [b, t, w, _] = self.v.dims();
        cuts([b, t, w], size)
    }

    fn cut(&self, cut: &Cut) -> Chunks {
        let w = self.v.dims()[2];
        Chunks {
            q: gather(&self.q, w, cut),
            k: gather(&self.k, w, cut),
            v: gather(&self.v, w, cut),
            g: gather(&self.g, w, cut),
            beta: gather(&self.beta.clone().unsqueeze_dim(3), w, cut),
        }
    }

    /// The output, the states before the chunks of each run if they are to be kept, and the state after the last token.
    fn forward(&self, size: usize, keep: bool) -> (Tensor<4>, Vec<Tensor<3>>, Tensor<4>) {
        let [b, w, d_k, d_v] = self.state.dims();
        let mut state = self.state.clone().reshape([b * w, d_k, d_v]);
        let (mut out, mut states) = (Vec::new(), Vec::new());
        for cut in self.cuts(size) {
            let run = chunk::forward(&self.cut(&cut), state, cut.count);
            out.push(scatter(run.o, [b, w], &cut));
            state = run.state;
            if keep {
                states.push(run.states);
            }
        }
        (Tensor::cat(out, 1), states, state.reshape([b, w, d_k, d_v]))
    }

    /// The gradients, given the states before the chunks.
    fn backward(&self, states: Tensor<3>, d_o: &Tensor<4>, d_state: Tensor<4>, size: usize) -> Self {
        let [b, w, d_k, d_v] = self.state.dims();
        let h = self.q.dims()[2];
        let mut d_state = d_state.reshape([b * w, d_k, d_v]);
        let mut parts: [Vec<Tensor<4>>; 5] = Default::default();
        let mut kept = states.dims()[0];
        for cut in self.cuts(size).iter().rev() {
            let count = b * w * cut.count;
            kept -= count;
            let run = chunk::backward(&self.cut(cut), &states.clone().narrow(0, kept, count), &gather(d_o, w, cut), d_state, cut.count);
            d_state = run.state;
            let Chunks { q, k, v, g, beta } = run.inputs;
            for (part, (gradient, heads)) in parts.iter_mut().zip([(q, h), (k, h), (v, w), (g, w), (beta, w)]) {
                part.push(scatter(gradient, [b, heads], cut));
            }
        }
        let [q, k, v, g, beta] = parts.map(|mut part| {
            part.reverse();
            Tensor::cat(part, 1)
        });
        Self { q, k, v, g, beta: beta.squeeze_dim(3), state: d_state.reshape([b, w, d_k, d_v]) }
    }
}

/// The runs of `[B, T, W]` in chunks of `size`.
fn cuts([b, t, w]: [usize; 3], size: usize) -> Vec<Cut> {
    let (whole, rest) = (t / size, t % size);
    let per_run = (RUN_ROWS / (size * b * w)).max(1);
    let mut cuts: Vec<_> = (0..whole)
        .step_by(per_run)
        .map(|n| {
            let count = per_run.min(whole - n);
            Cut { start: n * size, tokens: count * size, count, size }
        })
        .collect();
    if rest > 0 {
        cuts.push(Cut { start: whole * size, tokens: rest, count: 1, size: rest.next_power_of_two() });
    }
    cuts
}

/// The tokens of a run of `x` `[B, T, H, n]` as `[B·W·N, C, n]`, each head for the W/H value heads that read it. What a last chunk
/// lacks is zeros: they write nothing and keep the state.
fn gather(x: &Tensor<4>, w: usize, cut: &Cut) -> Tensor<3> {
    let [b, _, h, n] = x.dims();
    let x = x.clone().narrow(1, cut.start, cut.tokens).swap_dims(1, 2); // [B, H, tokens, n]
    let padded = cut.count * cut.size;
    let padding = padded - cut.tokens;
    let x = if padding == 0 {
        x
    } else {
        let zeros = Tensor::zeros([b, h, padding, n], (&x.device(), x.dtype()));
        Tensor::cat(vec![x, zeros], 2)
    };
    let shape = [b * w * cut.count, cut.size, n];
    if w == h { x.reshape(shape) } else { x.unsqueeze_dim::<5>(2).expand([b, h, w / h, padded, n]).reshape(shape) }
}

/// The inverse of [`gather`]: the sum over the value heads that read a head, `[B, tokens, H, n]`.
fn scatter(x: Tensor<3>, [b, h]: [usize; 2], cut: &Cut) -> Tensor<4> {
    let [m, _, n] = x.dims();
    let padded = cut.count * cut.size;
    let w = m / (b * cut.count);
    let x = x.reshape([b, w, padded, n]).narrow(2, 0, cut.tokens);
    let x = if w == h { x } else { x.reshape([b, h, w / h, cut.tokens * n]).sum_dim(2).reshape([b, h, cut.tokens, n]) };
    x.swap_dims(1, 2)
}
