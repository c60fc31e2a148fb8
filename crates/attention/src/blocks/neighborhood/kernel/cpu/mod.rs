//! Fused attention to neighbourhoods on slices of f32: see [`forward`](forward::forward) and [`backward`](backward::backward).

#![allow(clippy::inline_always, reason = "vector code must be inlined into the function of its instruction set")]

mod backward;
mod flex;
mod forward;
mod grid;
mod problem;
mod relative;
mod running;
mod segment;
mod tile;

pub(super) use flex::{backward, forward};
