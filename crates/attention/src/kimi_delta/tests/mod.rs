#![allow(clippy::unwrap_used)]

mod device;
mod goldens;
mod layer;
mod operation;
mod sweep;
