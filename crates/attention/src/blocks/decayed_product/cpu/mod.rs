//! The fused kernel for slices of f32. Forward and backward are made of one thing, [`Sweep`](sweep::Sweep): the output is a sweep over
//! the past, and so is the gradient of the queries; those of keys and values come from one sweep from the future.

#![allow(clippy::inline_always, reason = "vector code must be inlined into the function of its instruction set")]

mod decay;
mod flex;
mod panels;
mod schedule;
mod step;
mod sweep;

pub(crate) use decay::Decay;
pub(super) use flex::{backward, forward};
pub(crate) use panels::Panels;
pub(crate) use schedule::WORTH_A_THREAD;
pub(crate) use step::Step;
pub(crate) use sweep::{Block, Direction, Memory, Rows};
