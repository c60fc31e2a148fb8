use burn::tensor::Tensor;

use crate::Result;

/// A layer that mixes the tokens of a map of an image: what [`SequenceMixer`](crate::SequenceMixer) is for sequences.
///
/// Its weights do not depend on the size of the map: one layer takes images of any size that [`check_map`](Self::check_map) accepts.
pub trait SpatialMixer {
    /// Whether the layer takes maps `[Y, X]` of Y rows and X columns: for models to ask before they run.
    ///
    /// # Errors
    /// If it does not, with the reason.
    fn check_map(&self, map: [usize; 2]) -> Result<()>;

    /// Mixes the tokens of each map.
    ///
    /// # Shapes
    /// - `x`: `[B, Y, X, D]`; output: the same
    ///
    /// # Panics
    /// If the width of `x` is not D, or [`check_map`](Self::check_map) refuses the map: a model guarantees both.
    fn forward(&self, x: Tensor<4>) -> Tensor<4>;

    /// Floating-point operations of the forward pass for one image with a map of Y rows and X columns, a multiply-add counted as two:
    /// projections, convolutions and mixing, without norms and activations.
    fn flops(&self, map: [usize; 2]) -> f64;
}
