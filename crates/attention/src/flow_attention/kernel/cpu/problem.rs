use super::scans::carry;
use crate::{
    blocks::simd::{View, scratch},
    flow_attention::options::{FlowFeatureMap, FlowOptions},
};

/// Tokens per block.
pub(super) const BLOCK: usize = 32;

/// Numbers that the scans take at once; rows of capacities and sums are filled up to multiples of it with zeros.
pub(super) const LANES: usize = 16;

/// What is computed, in f32.
#[derive(Clone, Copy, Debug)]
pub(in super::super) struct Rules {
    pub(super) feature_map: FlowFeatureMap,
    pub(super) eps: f32,
    pub(super) extra_eps: f32,
    /// Bounds of the conserved outgoing flow, infinite if there are none.
    pub(super) low: f32,
    pub(super) high: f32,
    pub(super) competition: bool,
    pub(super) allocation: bool,
}

impl Rules {
    pub(in super::super) fn new(options: &FlowOptions) -> Self {
        let [low, high] = options.clamp.unwrap_or([f64::NEG_INFINITY, f64::INFINITY]);
        Self {
            feature_map: options.feature_map,
            eps: options.eps as f32,
            extra_eps: options.extra_eps as f32,
            low: low as f32,
            high: high as f32,
            competition: options.competition,
            allocation: options.allocation,
        }
    }
}

/// Inputs, as `[B, H, T, width]`.
pub(super) struct Problem<'a> {
    /// B, H, T, D, E
    pub(super) sizes: [usize; 5],
    pub(super) q: View<'a>,
    pub(super) k: View<'a>,
    pub(super) v: View<'a>,
    /// `[B, T]`, `true` = not a token.
    pub(super) hidden: Option<&'a [bool]>,
    pub(super) rules: Rules,
}

impl Problem<'_> {
    /// Which tokens of a block are hidden, if any is.
    pub(super) fn hidden(&self, batch: usize, start: usize, len: usize) -> Option<&[bool]> {
        let t = self.sizes[2];
        self.hidden.map(|hidden| &hidden[batch * t + start..][..len]).filter(|hidden| hidden.contains(&true))
    }

    /// Width of rows of capacities and sums.
    pub(super) fn width(&self) -> usize {
        self.sizes[3].next_multiple_of(LANES)
    }
}

/// The sums of [`FlowState`](crate::flow_attention::FlowState), or something for each of them.
#[derive(Clone, Debug)]
pub(in super::super) struct State<X> {
    /// Σ k, Σ q, Σ k n/O and Σ q n/I. `[B, H, 1, D]` each
    pub(in super::super) sums: [X; 4],
    /// `[B, H, 1, 1]`
    pub(in super::super) log_sum_exp: X,
    /// `[B, H, D, E]`
    pub(in super::super) kv: X,
}

impl<X> State<X> {
    pub(super) fn as_ref<'a>(&'a self) -> State<&'a [f32]>
    where
        X: AsRef<[f32]> + 'a,
    {
        State { sums: self.sums.each_ref().map(X::as_ref), log_sum_exp: self.log_sum_exp.as_ref(), kv: self.kv.as_ref() }
    }

    pub(in super::super) fn map<Y>(self, mut f: impl FnMut(X) -> Y) -> State<Y> {
        State { sums: self.sums.map(&mut f), log_sum_exp: f(self.log_sum_exp), kv: f(self.kv) }
    }
}

impl State<&[f32]> {
    /// The part of one of `heads` heads.
    pub(super) fn head(self, index: usize, heads: usize) -> Self {
        self.map(|x| &x[index * (x.len() / heads)..][..x.len() / heads])
    }
}

impl<'a> State<&'a mut [f32]> {
    /// The part of each of `heads` heads.
    pub(super) fn heads(self, heads: usize) -> Vec<Self> {
        let cut = |x: &'a mut [f32]| {
            let size = x.len() / heads;
            x.chunks_exact_mut(size)
        };
        let State { sums: [a, b, c, d], log_sum_exp, kv } = self;
        let sums = cut(a).zip(cut(b)).zip(cut(c)).zip(cut(d));
        let rest = cut(log_sum_exp).zip(cut(kv));
        sums.zip(rest).map(|((((a, b), c), d), (log_sum_exp, kv))| State { sums: [a, b, c, d], log_sum_exp, kv }).collect()
    }
}

/// Where the four sums of a head stand, as rows of [`Problem::width`], and the softmax over its sources.
pub(super) struct Running {
    /// In the order of [`State`].
    pub(super) sums: [Vec<f32>; 4],
    /// The same with ε added.
    pub(super) with_eps: [Vec<f32>; 4],
    eps: f32,
    d: usize,
    /// The highest conserved outgoing flow so far.
    pub(super) highest: f32,
    /// Σ exp(Ô − highest), in f64 as it is summed token by token.
    pub(super) mass: f64,
    /// Tokens so far.
    pub(super) tokens: f32,
}

impl Running {
    pub(super) fn new(state: State<&[f32]>, tokens: f32, width: usize, eps: f32) -> Self {
        let d = state.sums[0].len();
        let sums = state.sums.map(|sum| {
            let mut row = vec![0.0; width];
            row[..d].copy_from_slice(sum);
            row
        });
        let with_eps = std::array::from_fn(|_| vec![0.0; width]);
        let mut running = Self { sums, with_eps, eps, d, highest: state.log_sum_exp[0], mass: 1.0, tokens };
        running.add_eps();
        running
    }

    /// Moves the sums behind a block, given what it has added, which becomes zeros.
    pub(super) fn carry(&mut self, added: &mut [Vec<f32>; 4]) {
        for (sum, added) in self.sums.iter_mut().zip(added) {
            carry(sum, added);
        }
        self.add_eps();
    }

    fn add_eps(&mut self) {
        for (to, from) in self.with_eps.iter_mut().zip(&self.sums) {
            for (to, from) in to[..self.d].iter_mut().zip(from) {
                *to = from + self.eps;
            }
        }
    }

    pub(super) fn log_sum_exp(&self) -> f32 {
        (f64::from(self.highest) + self.mass.ln()) as f32
    }
}

/// Numbers of each token of a head or of a block.
pub(super) struct Scalars {
    /// I
    pub(super) incoming: Vec<f32>,
    /// O
    pub(super) outgoing: Vec<f32>,
    /// n
    pub(super) n: Vec<f32>,
    /// r, or 1 without allocation
    pub(super) allocation: Vec<f32>,
    /// w = r / I
    pub(super) sink: Vec<f32>,
    /// c, or 1 without competition
    pub(super) source: Vec<f32>,
    /// `exp(Ô_t − lse_t)`
    pub(super) part: Vec<f32>,
    /// `exp(lse_{t−1} − lse_t)`
    pub(super) kept: Vec<f32>,
    /// 1 where Ô is within its bounds, else 0
    pub(super) free: Vec<f32>,
}

impl Scalars {
    pub(super) fn new(tokens: usize) -> Self {
        let [incoming, outgoing, n, allocation, sink, source, part, kept, free] = std::array::from_fn(|_| scratch(tokens));
        Self { incoming, outgoing, n, allocation, sink, source, part, kept, free }
    }
}
