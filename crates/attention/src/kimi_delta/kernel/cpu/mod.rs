//! Fused Kimi Delta Attention on slices of f32.
//!
//! Per head and chunk of C tokens: `prepare` makes what does not depend on the state, `forward` writes, reads and hands the state on,
//! `backward` computes both again from the saved state and goes against the order of the chunks.

mod backward;
mod decays;
mod dplr;
mod flex;
mod form;
mod forward;
mod pairs;
mod prepare;
mod problem;
mod run;
mod solve;
mod step;

pub(in crate::kimi_delta) use dplr::forward as dplr;
pub(super) use flex::{backward, forward};
