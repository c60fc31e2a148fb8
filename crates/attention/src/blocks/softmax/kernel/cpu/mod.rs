//! Fused attention on slices of f32: see [`forward`] and [`backward`].

#![allow(clippy::inline_always, reason = "vector code must be inlined into the function of its instruction set")]
#![allow(clippy::cast_possible_wrap, reason = "sizes of tensors in memory")]

mod backward;
mod bias;
mod decode;
mod flex;
mod forward;
mod problem;
mod tile;

pub(crate) use flex::{softmax_backward, softmax_forward};
