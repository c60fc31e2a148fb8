//! Fused causal Flow attention on slices of f32.
//!
//! A head goes block by block. In a block, `flows` makes capacities and the four running sums, and from them the two factors of each
//! token that turn the rest into plain linear attention: `w_t = r_t / I_t` on its query and `c_t` on its key. `forward` writes its
//! outputs with the tiles of the decayed product. `backward` goes over the past once, for the flows and `Σ_j (v_j · do_t) c_j k_j`, and
//! then against the order of the tokens, for all else. Nothing is kept between the two passes: besides arguments and results a thread
//! holds a dozen numbers per token of the head it works on.
//!
//! That is the causal form; `whole` is the bidirectional one.

#![allow(clippy::inline_always, reason = "vector code must be inlined into the function of its instruction set")]

mod backward;
mod flex;
mod flows;
mod forward;
mod problem;
mod scans;
pub(super) mod whole;

pub(super) use flex::{backward, forward};
pub(super) use problem::{Rules, State};
