//! The chunkwise algorithm of a general diagonal-plus-low-rank transition, forward, with the blocks and the division over threads of
//! Kimi Delta Attention: a baseline to compare with at equal care.

mod chunk;
mod prepare;

use burn::backend::flex::FlexTensor;

use super::{
    problem::{Place, Problem, Sequence, Sizes, sequences},
    run::{self, Outputs},
};
use crate::{
    blocks::{
        flex::{NewTensor, dims, view, with_whole_rows},
        simd::{View, prefetch},
    },
    kimi_delta::kernel::Transition,
};

/// What the forward pass reads. Views are of `[B, H, T, width]`.
struct General<'a> {
    sizes: Sizes,
    sequences: Vec<Sequence>,
    scale: f32,
    /// Queries, keys, and the two vectors of the low rank: `a`, which is written along, and `b`, which reads. `[.., K]`
    q: View<'a>,
    k: View<'a>,
    a: View<'a>,
    b: View<'a>,
    v: View<'a>,
    g: View<'a>,
}

impl General<'_> {
    /// A row of K numbers of a token.
    fn key_row<'a>(&self, view: &View<'a>, place: &Place, i: usize) -> &'a [f32] {
        Problem::row(view, place, place.head, i, self.sizes.k)
    }

    fn value(&self, place: &Place, i: usize) -> &[f32] {
        Problem::row(&self.v, place, place.head, i, self.sizes.v)
    }

    /// Asks for what a token reads.
    #[inline(always)]
    fn prefetch(&self, place: &Place, i: usize) {
        let token = place.start + i;
        for view in [&self.q, &self.k, &self.a, &self.b, &self.v, &self.g] {
            prefetch(view.row(place.batch, place.head, token), view.width());
        }
    }
}

/// Output `[B, T, H, V]` and the state behind the last token `[B, H, K, V]`.
pub(in crate::kimi_delta) fn forward(inputs: Transition<FlexTensor>, scale: f64, chunk: usize) -> [FlexTensor; 2] {
    let Transition { q, k, v, g, a, b, state } = inputs;
    let ([batch, t, h, d_k], [_, _, _, d_v]) = (dims(&q), dims(&v));
    let [q, k, v, g, a, b] = [q, k, v, g, a, b].map(|x| with_whole_rows(x.transpose(1, 2)));
    let problem = General {
        sizes: Sizes { h, w: h, k: d_k, v: d_v, chunk },
        sequences: sequences(batch, t, None, chunk),
        scale: scale as f32,
        q: view(&q),
        k: view(&k),
        a: view(&a),
        b: view(&b),
        v: view(&v),
        g: view(&g),
    };
    let initial = with_whole_rows(state);
    let (mut o, mut state) = (NewTensor::unwritten_tokens_first([batch, h, t, d_v]), NewTensor::unwritten_contiguous(dims(&initial)));
    run::forward(&problem, &view(&initial), &Outputs { o: o.target(), state: state.target(), states: None });
    // SAFETY: the chunks cover all tokens of all heads, and every sequence of every head leaves a state.
    unsafe {
        o.written();
        state.written();
    }
    [o.finish().transpose(1, 2), state.finish()]
}
