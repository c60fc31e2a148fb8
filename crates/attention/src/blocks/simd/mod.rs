//! Vector code for the processor at hand, for kernels on slices.

mod slices;
mod tiles;
mod transpose;
mod views;

pub(crate) use slices::{arch, exp, log1p, max, normal, prefetch, sigmoid, sum, sum2, vectorised};
pub(crate) use tiles::{Band, Product, Strided, dot, exp2, multiply, multiply_scaled, scratch};
pub(crate) use transpose::transpose;
pub(crate) use views::{Target, View, within};
