//! Softmax attention of the tokens of a grid to their neighbourhoods, for every mechanism whose windows are such.

mod axis;
mod halo;
mod kernel;
mod op;
mod plan;
mod routes;

pub use axis::WindowAxis;
pub(crate) use halo::HaloAxis;
pub use op::{NeighborhoodAlgorithm, NeighborhoodOptions, neighborhood_attention};
pub(crate) use op::{haloed, routed};
pub use routes::Routes;
