use burn::tensor::Tensor;
use regard::{Error, Result};

/// Whether images have `channels` channels and at least one pixel.
///
/// # Errors
/// If they do not.
pub fn check_images(op: &'static str, images: &Tensor<4>, channels: usize) -> Result<()> {
    let dims = images.dims();
    if dims[1] != channels || dims[2..].contains(&0) {
        return Err(Error::argument(op, "images", format!("of shape [B, {channels}, Y, X] with pixels"), format!("{dims:?}")));
    }
    Ok(())
}

/// Channels last. `[B, C, Y, X]` → `[B, Y, X, C]`
pub fn to_map(images: Tensor<4>) -> Tensor<4> {
    images.permute([0, 2, 3, 1])
}

/// The mean of all tokens of a map. `[B, Y, X, D]` → `[B, D]`
pub fn map_mean(x: Tensor<4>) -> Tensor<2> {
    let [b, y, columns, d] = x.dims();
    x.reshape([b, y * columns, d]).mean_dim(1).reshape([b, d])
}
