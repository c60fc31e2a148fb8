use burn::tensor::{Tensor, TensorData};
use regard::{Error, Result};

/// Heatmaps that networks learn: `exp(−((x − x_k)² + (y − y_k)²) / (2σ²))`, of height 1 and cut nowhere.
///
/// # Shapes
/// - `centres`: `[B, K, 2]`, (x, y) in pixels of the heatmaps, of which the first one's centre is (0, 0)
/// - output: `[B, K, Y, X]`
///
/// # Errors
/// If σ is not positive, or `centres` has another last axis.
pub fn heatmap_targets(centres: Tensor<3>, [y, x]: [usize; 2], sigma: f64) -> Result<Tensor<4>> {
    const OP: &str = "heatmap_targets";
    let [b, k, two] = centres.dims();
    if two != 2 {
        return Err(Error::argument(OP, "centres", "of shape [B, K, 2]", format!("{:?}", [b, k, two])));
    }
    if !(sigma > 0.0 && sigma.is_finite()) {
        return Err(Error::argument(OP, "sigma", "positive and finite", sigma));
    }
    let device = centres.device();
    let places = |length: usize| {
        let places: Vec<f32> = (0..length).map(|i| i as f32).collect();
        Tensor::<3>::from_data(TensorData::new(places, [1, 1, length]), &device)
    };
    // The Gaussian is a product of one of the columns and one of the rows.
    let axis = |axis: usize, length: usize| {
        let distance = places(length) - centres.clone().narrow(2, axis, 1);
        (distance.square() / (-2.0 * sigma * sigma)).exp() // [B, K, length]
    };
    Ok(axis(1, y).unsqueeze_dim::<4>(3) * axis(0, x).unsqueeze_dim::<4>(2))
}

/// The loss of heatmaps: the mean over keypoints of half the mean over the rest of `(w (heatmap − target))²`.
///
/// # Shapes
/// - `heatmaps`, `targets`: `[B, K, Y, X]`; `weights`: `[B, K]`, 0 for keypoints without a label; output: `[1]`
///
/// # Errors
/// If the shapes disagree.
pub fn heatmap_loss(heatmaps: Tensor<4>, targets: Tensor<4>, weights: Option<Tensor<2>>) -> Result<Tensor<1>> {
    const OP: &str = "heatmap_loss";
    if heatmaps.dims() != targets.dims() {
        return Err(Error::shape(OP, ("heatmaps", &heatmaps.dims()), ("targets", &targets.dims()), "shape"));
    }
    let [b, k, ..] = heatmaps.dims();
    let difference = heatmaps - targets;
    let difference = match weights {
        Some(weights) if weights.dims() != [b, k] => {
            return Err(Error::argument(OP, "weights", format!("of shape {:?}", [b, k]), format!("{:?}", weights.dims())));
        }
        Some(weights) => difference * weights.reshape([b, k, 1, 1]),
        None => difference,
    };
    Ok(difference.square().mean() * 0.5)
}
