//! Vector code for the processor at hand, for kernels on slices.

mod ahead;
mod product;
mod slices;
mod transpose;
mod vectors;
mod views;

pub(crate) use ahead::{Ahead, Rows as RowsAhead};
pub(crate) use product::{Band, Product, Strided, multiply, multiply_both, multiply_faded, multiply_scaled};
pub(crate) use slices::{arch, exp, log1p, max, normal, prefetch, sigmoid, sum, sum2, vectorised};
pub(crate) use transpose::{transpose, turn};
pub(crate) use vectors::{dot, exp2, first_lanes, scratch};
pub(crate) use views::{Target, View, within};
