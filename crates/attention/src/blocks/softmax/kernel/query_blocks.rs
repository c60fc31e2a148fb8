//! Attention in tensor operations over blocks of queries: for backends and float types without a fused kernel.
//!
//! Of the scores, one block `[B, H, C, S]` exists at a time, in training too: the backward pass computes it again.

use std::ops::Range;

use burn::{
    backend::{
        Backend, TensorMetadata,
        tensor::{FloatTensor, IntTensor},
    },
    tensor::{DType, FloatDType, IndexingUpdateOp, Shape, Slice, TensorData},
};

use super::{Gradients, Inputs, Maybe, MaybeBool, Options, Saved};
use crate::blocks::matmul;

/// Queries C per block; few in tests, where sizes of several blocks are to be quick.
const QUERIES: usize = if cfg!(test) { 7 } else { 512 };
/// Stands for the highest score of a query that sees no key: finite, so that −∞ minus it is −∞.
const LOWEST: f64 = -1e30;

pub(super) fn forward<B: Backend>(inputs: Inputs<B>, options: Options) -> (FloatTensor<B>, FloatTensor<B>) {
    let attention = Attention::<B>::new(inputs, options);
    let [b, h, t, _] = dims::<B>(&attention.inputs.q);
    let [_, _, s, v] = dims::<B>(&attention.inputs.v);
    let device = attention.inputs.q.device();
    if s == 0 || b * h * t * v == 0 {
        let o = B::float_zeros(Shape::new([b, h, t, v]), &device, attention.dtype);
        return (o, B::float_full(Shape::new([b, h, t]), f64::NEG_INFINITY.into(), &device, attention.wide));
    }
    let (mut out, mut lse) = (Vec::new(), Vec::new());
    for block in attention.blocks() {
        let (rows, keys) = (block.len(), attention.visible(&block));
        if keys.is_empty() {
            out.push(B::float_zeros(Shape::new([b, h, rows, v]), &device, attention.dtype));
            lse.push(B::float_full(Shape::new([b, h, rows, 1]), f64::NEG_INFINITY.into(), &device, attention.wide));
            continue;
        }
        let scores = attention.scores(&block, &keys); // [B, H, C, S]
        let highest = B::float_clamp_min(B::float_max_dim(scores.clone(), 3), LOWEST.into());
        let powers = B::float_exp(B::float_sub(scores, highest.clone()));
        let sum = B::float_sum_dim(powers.clone(), 3); // [B, H, C, 1], 0 where a query sees no key
        lse.push(B::float_add(B::float_log(sum.clone()), highest));
        // At least 1 otherwise: the highest score's own power.
        let weights = B::float_div(powers, B::float_clamp_min(sum, 0.5.into()));
        out.push(attention.times_keys(weights, cut::<B>(attention.inputs.v.clone(), 2, &keys)));
    }
    let lse = B::float_reshape(B::float_cat(lse, 2), Shape::new([b, h, t]));
    (B::float_cat(out, 2), lse)
}

pub(super) fn backward<B: Backend>(inputs: Inputs<B>, options: Options, saved: Saved<B>, wanted: [bool; 5]) -> Gradients<B> {
    let attention = Attention::<B>::new(inputs, options);
    let Inputs { q, k, v, bias, distances, .. } = attention.inputs.clone();
    let (bias, distances) = (bias.into_option(), distances.into_option());
    let [b, h, t, _] = dims::<B>(&q);
    let device = q.device();
    let zeros = |like: &FloatTensor<B>, dtype| B::float_zeros(like.shape(), &device, dtype);
    let d_o = saved.d_o.into_option().unwrap_or_else(|| zeros(&saved.o, attention.dtype));
    let column = |x: FloatTensor<B>| B::float_cast(B::float_reshape(x, Shape::new([b, h, t, 1])), attention.wide);
    let mut sums = Sums::<B> { q: zeros(&q, attention.dtype), k: zeros(&k, attention.wide), v: zeros(&v, attention.wide) };
    let mut d_bias = bias.as_ref().map(|bias| zeros(bias, attention.wide));
    let mut d_distances = distances.as_ref().map(|distances| zeros(distances, attention.wide));
    if b * h * t * dims::<B>(&k)[2] > 0 {
        let product = B::float_mul(B::float_cast(d_o.clone(), attention.wide), B::float_cast(saved.o, attention.wide));
        let mut delta = B::float_sum_dim(product, 3);
        if let Maybe::Some(d_lse) = saved.d_lse {
            delta = B::float_sub(delta, column(d_lse));
        }
        // A query that sees no key has the log-sum-exp −∞; its scores of −∞ then have the weights 0.
        let lse = B::float_clamp_min(column(saved.lse), LOWEST.into());
        for block in attention.blocks() {
            let keys = attention.visible(&block);
            if keys.is_empty() {
                continue;
            }
            let rows = |x: &FloatTensor<B>| cut::<B>(x.clone(), 2, &block);
            let weights = B::float_exp(B::float_sub(attention.scores(&block, &keys), rows(&lse)));
            let d_weights = attention.times(rows(&d_o), B::float_swap_dims(cut::<B>(v.clone(), 2, &keys), 2, 3));
            let d_scores = B::float_mul(weights.clone(), B::float_sub(B::float_cast(d_weights, attention.wide), rows(&delta)));
            if wanted[3]
                && let Some(sum) = d_bias.take()
            {
                d_bias = Some(add_to_bias::<B>(sum, d_scores.clone(), &block, &keys));
            }
            if wanted[4]
                && let Some(sum) = d_distances.take()
            {
                let part = B::float_sum_dim(d_scores.clone(), 0);
                let part = B::float_reshape(part, Shape::new([h, block.len() * keys.len()]));
                let index = attention.distances(sum.shape()[1], &block, &keys);
                d_distances = Some(B::float_select_assign(sum, 1, index, part, IndexingUpdateOp::Add));
            }
            let scaled = B::float_mul_scalar(d_scores, options.scale.into());
            if wanted[2] {
                sums.v = add::<B>(sums.v, 2, &keys, attention.keys_times(weights, rows(&d_o)));
            }
            if wanted[1] {
                sums.k = add::<B>(sums.k, 2, &keys, attention.keys_times(scaled.clone(), rows(&q)));
            }
            if wanted[0] {
                let part = attention.times_keys(scaled, cut::<B>(k.clone(), 2, &keys));
                sums.q = B::float_slice_assign(sums.q, &slices(2, &block), part);
            }
        }
    }
    let give = |wanted: bool, x: FloatTensor<B>| if wanted { Maybe::Some(B::float_cast(x, attention.dtype)) } else { Maybe::None };
    Gradients {
        q: give(wanted[0], sums.q),
        k: give(wanted[1], sums.k),
        v: give(wanted[2], sums.v),
        bias: d_bias.map_or(Maybe::None, |x| give(wanted[3], x)),
        distances: d_distances.map_or(Maybe::None, |x| give(wanted[4], x)),
    }
}

struct Sums<B: Backend> {
    q: FloatTensor<B>,
    k: FloatTensor<B>,
    v: FloatTensor<B>,
}

struct Attention<B: Backend> {
    inputs: Inputs<B>,
    options: Options,
    /// Of the inputs.
    dtype: FloatDType,
    /// Of scores and sums: f32 for half-precision inputs.
    wide: FloatDType,
}

impl<B: Backend> Attention<B> {
    fn new(inputs: Inputs<B>, options: Options) -> Self {
        let dtype = inputs.q.dtype();
        let wide = if matches!(dtype, DType::F16 | DType::BF16) { DType::F32 } else { dtype };
        Self { inputs, options, dtype: dtype.into(), wide: wide.into() }
    }

    fn blocks(&self) -> impl Iterator<Item = Range<usize>> + use<B> {
        let t = dims::<B>(&self.inputs.q)[2];
        (0..t).step_by(QUERIES).map(move |start| start..(start + QUERIES).min(t))
    }

    /// The keys that a block of queries sees.
    fn visible(&self, block: &Range<usize>) -> Range<usize> {
        let (t, s) = (dims::<B>(&self.inputs.q)[2], dims::<B>(&self.inputs.k)[2]);
        0..if self.options.causal { (block.end + s).saturating_sub(t) } else { s }
    }

    /// `[B, H, C, S]`, −∞ where hidden.
    fn scores(&self, block: &Range<usize>, keys: &Range<usize>) -> FloatTensor<B> {
        let Inputs { q, k, bias, distances, padding, .. } = self.inputs.clone();
        let (t, s) = (dims::<B>(&q)[2], dims::<B>(&k)[2]);
        let device = q.device();
        let scaled = B::float_mul_scalar(cut::<B>(q.clone(), 2, block), self.options.scale.into());
        let scores = self.times(scaled, B::float_swap_dims(cut::<B>(k, 2, keys), 2, 3));
        let mut scores = B::float_cast(scores, self.wide);
        if let Maybe::Some(bias) = bias {
            let bias = cut::<B>(bias, 3, keys);
            let bias = if dims::<B>(&bias)[2] == 1 { bias } else { cut::<B>(bias, 2, block) };
            scores = B::float_add(scores, B::float_cast(bias, self.wide));
        }
        if let Maybe::Some(distances) = distances {
            let ([_, h, _, _], count) = (dims::<B>(&q), distances.shape()[1]);
            let bias = B::float_select(distances, 1, self.distances(count, block, keys));
            let bias = B::float_reshape(bias, Shape::new([1, h, block.len(), keys.len()]));
            scores = B::float_add(scores, B::float_cast(bias, self.wide));
        }
        if self.options.causal && block.start + s < t + keys.len() {
            let hidden = |i: usize, j: usize| if i + s < t + j { f32::NEG_INFINITY } else { 0.0 };
            let penalty: Vec<f32> = block.clone().flat_map(|i| keys.clone().map(move |j| hidden(i, j))).collect();
            let penalty = TensorData::new(penalty, [1, 1, block.len(), keys.len()]).convert_dtype(self.wide.into());
            scores = B::float_add(scores, B::float_from_data(penalty, &device));
        }
        if let MaybeBool::Some(padding) = padding {
            let [b, h, c, n] = dims::<B>(&scores);
            let padding = B::bool_slice(padding, &[Slice::from(0..b), Slice::from(keys.clone())]);
            let padding = B::bool_expand(B::bool_reshape(padding, Shape::new([b, 1, 1, n])), Shape::new([b, h, c, n]));
            scores = B::float_mask_fill(scores, padding, f64::NEG_INFINITY.into());
        }
        scores
    }

    /// Which of `count` biases each query of the block has for each key. `[C · S]`
    fn distances(&self, count: usize, block: &Range<usize>, keys: &Range<usize>) -> IntTensor<B> {
        let Inputs { q, k, .. } = &self.inputs;
        let (t, s) = (dims::<B>(q)[2], dims::<B>(k)[2]);
        #[allow(clippy::cast_possible_wrap, reason = "below the number of biases")]
        let distance = |i: usize, j: usize| (i + s).abs_diff(t + j).min(count - 1) as i32;
        let distances: Vec<i32> = block.clone().flat_map(|i| keys.clone().map(move |j| distance(i, j))).collect();
        let len = distances.len();
        B::int_from_data(TensorData::new(distances, [len]), &q.device())
    }

    /// `[B, H, C, X] → [B, G, H/G · C, X]`: the heads that share a key/value head as more queries of it.
    fn grouped(&self, x: FloatTensor<B>) -> FloatTensor<B> {
        let ([b, h, c, width], g) = (dims::<B>(&x), dims::<B>(&self.inputs.k)[1]);
        B::float_reshape(x, Shape::new([b, g, h / g * c, width]))
    }

    /// `[B, H, C, X]` times `[B, G, X, Y]`.
    fn times(&self, x: FloatTensor<B>, y: FloatTensor<B>) -> FloatTensor<B> {
        let ([b, h, c, _], width) = (dims::<B>(&x), dims::<B>(&y)[3]);
        B::float_reshape(matmul::raw::<B>(self.grouped(x), y), Shape::new([b, h, c, width]))
    }

    /// Weights `[B, H, C, S]` times keys or values `[B, G, S, X]`, in their float type.
    fn times_keys(&self, weights: FloatTensor<B>, y: FloatTensor<B>) -> FloatTensor<B> {
        self.times(B::float_cast(weights, self.dtype), y)
    }

    /// `[B, H, C, S]`, transposed, times `[B, H, C, X]`, summed over the heads of a group: `[B, G, S, X]`.
    fn keys_times(&self, weights: FloatTensor<B>, y: FloatTensor<B>) -> FloatTensor<B> {
        let weights = B::float_swap_dims(self.grouped(B::float_cast(weights, self.dtype)), 2, 3);
        B::float_cast(matmul::raw::<B>(weights, self.grouped(y)), self.wide)
    }
}

/// Adds the gradient of a block of scores to that of the bias.
fn add_to_bias<B: Backend>(sum: FloatTensor<B>, mut part: FloatTensor<B>, block: &Range<usize>, keys: &Range<usize>) -> FloatTensor<B> {
    let [b, h, t, s] = dims::<B>(&sum);
    for (dim, size) in [(0, b), (1, h), (2, t)] {
        if size == 1 {
            part = B::float_sum_dim(part, dim);
        }
    }
    let rows = if t == 1 { 0..1 } else { block.clone() };
    let at = [Slice::from(0..b), Slice::from(0..h), Slice::from(rows), Slice::from(keys.start..keys.end.min(s))];
    let old = B::float_slice(sum.clone(), &at);
    B::float_slice_assign(sum, &at, B::float_add(old, part))
}

fn dims<B: Backend>(x: &FloatTensor<B>) -> [usize; 4] {
    let shape = x.shape();
    std::array::from_fn(|i| shape[i])
}

fn slices(dim: usize, range: &Range<usize>) -> [Slice; 4] {
    std::array::from_fn(|i| if i == dim { Slice::from(range.clone()) } else { Slice::from(..) })
}

fn cut<B: Backend>(x: FloatTensor<B>, dim: usize, range: &Range<usize>) -> FloatTensor<B> {
    if *range == (0..dims::<B>(&x)[dim]) { x } else { B::float_slice(x, &slices(dim, range)) }
}

fn add<B: Backend>(sum: FloatTensor<B>, dim: usize, range: &Range<usize>, part: FloatTensor<B>) -> FloatTensor<B> {
    let old = cut::<B>(sum.clone(), dim, range);
    B::float_slice_assign(sum, &slices(dim, range), B::float_add(old, part))
}
