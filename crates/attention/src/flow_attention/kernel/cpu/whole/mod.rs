//! The bidirectional form: every sum is over the whole sequence, so a head goes over its tokens several times, block by block.
//!
//! Forward: the sums of capacities; the flows I and O and the sums of shares; the competition and `KV = Σ_j c_j k_jᵀ v_j`; the outputs
//! `r_i / I_i q_i KV`. Backward: the same numbers are at hand, five for a token, and queries and keys are read twice each. What is as
//! large as queries and keys is never written but for results.

mod backward;
mod flex;
mod forward;
mod rows;

pub(in super::super) use flex::{Saved, backward, forward};

use super::problem::Rules;
use crate::blocks::simd::{View, scratch};

/// Tokens per block.
const BLOCK: usize = 64;

/// Inputs, as `[B, H, tokens, width]`.
struct Problem<'a> {
    /// B, H, L, S, D, E
    sizes: [usize; 6],
    q: View<'a>,
    k: View<'a>,
    v: View<'a>,
    /// `[B, L]` and `[B, S]`, `true` = not a token.
    hidden: [Option<&'a [bool]>; 2],
    /// Tokens that are not hidden, at least 1: of the queries and of the keys of each sequence.
    present: [&'a [f32]; 2],
    rules: Rules,
}

/// One head of one sequence.
struct Head<'a> {
    problem: &'a Problem<'a>,
    batch: usize,
    index: usize,
}

/// What a head keeps for the backward pass: `[L]`, `[S]`, `[D]` or `[D, E]`.
#[derive(Clone, Debug)]
struct Numbers {
    /// I and r, or 1 without allocation
    incoming: Vec<f32>,
    allocation: Vec<f32>,
    /// O, and c, or 1 without competition; 0 where a key is hidden
    outgoing: Vec<f32>,
    source: Vec<f32>,
    /// 1 where Ô is within its bounds, else 0
    free: Vec<f32>,
    /// Σ k, Σ q, Σ k / O and Σ q / I, each with ε added
    sums: [Vec<f32>; 4],
    kv: Vec<f32>,
}

impl Numbers {
    fn new([_, _, l, s, _, _]: [usize; 6]) -> Self {
        Self {
            incoming: scratch(l),
            allocation: scratch(l),
            outgoing: scratch(s),
            source: scratch(s),
            free: scratch(s),
            sums: std::array::from_fn(|_| Vec::new()),
            kv: Vec::new(),
        }
    }
}
