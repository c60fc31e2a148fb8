//! The chunkwise algorithm over whole sequences, forward and backward.
//!
//! A sequence is cut into runs of chunks that fit the caches; only the states between the chunks are kept for the backward pass.

use std::sync::Arc;

use burn::{
    backend::DispatchTensor,
    tensor::{Device, Tensor},
};
use rayon::prelude::*;

use super::chunk::{self, Chunks};
use crate::blocks::{GradientRule, with_gradient};

/// Rows (tokens × heads) of a run of chunks on the CPU: enough for large products, few enough for the caches.
const CPU_RUN_ROWS: usize = 1024;
/// The same elsewhere, where every operation has to fill the device.
const RUN_ROWS: usize = 32 * 1024;

/// The inputs of sequences of equal length, in one float type.
#[derive(Clone, Debug)]
pub(super) struct Inputs {
    /// Scaled. `[B, T, H, K]`
    pub(super) q: Tensor<4>,
    /// `[B, T, H, K]`
    pub(super) k: Tensor<4>,
    /// `[B, T, W, V]`
    pub(super) v: Tensor<4>,
    /// `[B, T, W, K]`
    pub(super) g: Tensor<4>,
    /// `[B, T, W]`
    pub(super) beta: Tensor<3>,
    /// `[B, W, K, V]`
    pub(super) state: Tensor<4>,
}

/// The output `[B, T, W, V]` and the state after the last token `[B, W, K, V]`, in chunks of `size` tokens. T ≥ 1.
pub(super) fn chunkwise(x: Inputs, size: usize) -> (Tensor<4>, Tensor<4>) {
    let floats = [&x.q, &x.k, &x.v, &x.g, &x.state];
    let autodiff = floats.into_iter().any(Tensor::is_autodiff) || x.beta.is_autodiff();
    let tracked = floats.into_iter().any(Tensor::is_tracked) || x.beta.is_tracked();
    let erased = autodiff.then(|| x.clone().erase());
    let groups = x.inner().groups();
    let results = each(groups.iter().collect(), |x| forward(x, size, tracked));
    let (mut outs, mut states, mut kept) = (Vec::new(), Vec::new(), Vec::new());
    for (o, before, state) in results {
        outs.push(o);
        kept.push(before);
        states.push(state);
    }
    let (o, state) = (Tensor::cat(outs, 2), Tensor::cat(states, 1));
    let Some(inputs) = erased else { return (o, state) };
    let (o_shape, state_shape) = (o.dims(), state.dims());
    // One node of the graph has one output: both in one row.
    let length = o_shape.iter().product();
    let row = Tensor::cat(vec![o.reshape([-1]), state.reshape([-1])], 0);
    let [total] = row.dims();
    let groups = if tracked { groups.into_iter().zip(kept).collect() } else { Vec::new() };
    let row = with_gradient::<1, 6>(inputs, row, Arc::new(Chunkwise { groups, size, o_shape, state_shape }));
    (row.clone().narrow(0, 0, length).reshape(o_shape), row.narrow(0, length, total - length).reshape(state_shape))
}

fn on_cpu(x: &Inputs) -> bool {
    x.q.device() == Device::flex()
}

/// `f` of every item, in parallel if there are several.
fn each<I: Send, O: Send>(items: Vec<I>, f: impl Fn(I) -> O + Sync + Send) -> Vec<O> {
    if items.len() == 1 { items.into_iter().map(f).collect() } else { items.into_par_iter().map(f).collect() }
}

/// Where a run starts, how many tokens it holds, and in how many chunks of which size.
struct Cut {
    start: usize,
    tokens: usize,
    count: usize,
    size: usize,
}

/// The runs of sequences in chunks of `size`.
fn cuts(x: &Inputs, size: usize) -> Vec<Cut> {
    let [b, t, w, _] = x.v.dims();
    let rows = if on_cpu(x) { CPU_RUN_ROWS } else { RUN_ROWS };
    let (whole, rest) = (t / size, t % size);
    let per_run = (rows / (size * b * w)).max(1);
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

impl Inputs {
    fn erase(self) -> [DispatchTensor; 6] {
        let Self { q, k, v, g, beta, state } = self;
        [q.into_dispatch(), k.into_dispatch(), v.into_dispatch(), g.into_dispatch(), beta.into_dispatch(), state.into_dispatch()]
    }

    fn inner(self) -> Self {
        let Self { q, k, v, g, beta, state } = self;
        Self { q: q.inner(), k: k.inner(), v: v.inner(), g: g.inner(), beta: beta.inner(), state: state.inner() }
    }

    /// Groups of heads for the threads of the CPU, whose elementwise operations use one thread each.
    fn groups(self) -> Vec<Self> {
        let (h, w) = (self.q.dims()[2], self.v.dims()[2]);
        let threads = if on_cpu(&self) { rayon::current_num_threads() } else { 1 };
        let count = (1..=h.min(threads)).rev().find(|n| h.is_multiple_of(*n)).unwrap_or(1);
        if count == 1 {
            return vec![self];
        }
        let (h, w) = (h / count, w / count);
        (0..count)
            .map(|n| Self {
                q: self.q.clone().narrow(2, n * h, h),
                k: self.k.clone().narrow(2, n * h, h),
                v: self.v.clone().narrow(2, n * w, w),
                g: self.g.clone().narrow(2, n * w, w),
                beta: self.beta.clone().narrow(2, n * w, w),
                state: self.state.clone().narrow(1, n * w, w),
            })
            .collect()
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

/// The output, the states before the chunks of each run if they are to be kept, and the state after the last token.
fn forward(x: &Inputs, size: usize, keep: bool) -> (Tensor<4>, Vec<Tensor<3>>, Tensor<4>) {
    let [b, _, w, d_v] = x.v.dims();
    let d_k = x.q.dims()[3];
    let mut state = x.state.clone().reshape([b * w, d_k, d_v]);
    let (mut out, mut states) = (Vec::new(), Vec::new());
    for cut in cuts(x, size) {
        let run = chunk::forward(&x.cut(&cut), state, cut.count);
        out.push(scatter(run.o, [b, w], &cut));
        state = run.state;
        if keep {
            states.push(run.states);
        }
    }
    (Tensor::cat(out, 1), states, state.reshape([b, w, d_k, d_v]))
}

/// What the forward pass keeps: per group of heads the inputs and the states before the chunks of each run, K·V numbers per chunk
/// and head.
#[derive(Debug)]
struct Chunkwise {
    groups: Vec<(Inputs, Vec<Tensor<3>>)>,
    size: usize,
    o_shape: [usize; 4],
    state_shape: [usize; 4],
}

impl GradientRule<6> for Chunkwise {
    fn gradients(&self, upstream: DispatchTensor, _: [bool; 6]) -> [Option<DispatchTensor>; 6] {
        let upstream = Tensor::<1>::from_dispatch(upstream);
        let length = self.o_shape.iter().product();
        let d_o = upstream.clone().narrow(0, 0, length).reshape(self.o_shape);
        let d_state = upstream.narrow(0, length, self.state_shape.iter().product()).reshape(self.state_shape);
        let w = self.o_shape[2] / self.groups.len();
        let groups = self.groups.iter().enumerate().collect();
        let parts = each(groups, |(n, (x, states))| {
            backward(x, states, &d_o.clone().narrow(2, n * w, w), d_state.clone().narrow(1, n * w, w), self.size)
        });
        let join = |part: fn(&Inputs) -> Tensor<4>, axis| Tensor::cat(parts.iter().map(part).collect(), axis);
        let gradients = Inputs {
            q: join(|x| x.q.clone(), 2),
            k: join(|x| x.k.clone(), 2),
            v: join(|x| x.v.clone(), 2),
            g: join(|x| x.g.clone(), 2),
            beta: Tensor::cat(parts.iter().map(|x| x.beta.clone()).collect(), 2),
            state: join(|x| x.state.clone(), 1),
        };
        gradients.erase().map(Some)
    }
}

/// The gradients of the inputs of one group of heads.
fn backward(x: &Inputs, states: &[Tensor<3>], d_o: &Tensor<4>, d_state: Tensor<4>, size: usize) -> Inputs {
    let [b, _, h, d_k] = x.q.dims();
    let [_, _, w, d_v] = x.v.dims();
    let mut d_state = d_state.reshape([b * w, d_k, d_v]);
    let mut parts: [Vec<Tensor<4>>; 5] = Default::default();
    for (cut, states) in cuts(x, size).iter().zip(states).rev() {
        let run = chunk::backward(&x.cut(cut), states, &gather(d_o, w, cut), d_state, cut.count);
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
    Inputs { q, k, v, g, beta: beta.squeeze_dim(3), state: d_state.reshape([b, w, d_k, d_v]) }
}
