//! Fused attention on slices of f32: see [`forward`] and [`backward`].

mod backward;
mod bias;
mod decode;
mod flex;
mod forward;
mod problem;
mod tile;

pub(crate) use flex::{softmax_backward, softmax_forward};
