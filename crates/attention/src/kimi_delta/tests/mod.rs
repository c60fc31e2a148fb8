#![allow(clippy::unwrap_used)]

mod goldens;
mod layer;
mod operation;
mod sweep;
