use burn::tensor::{DType, Int, Tensor, activation};

use super::{kernel, linear::linear};

/// Mean cross entropy `−ln softmax(logits)[target]` in nats over the rows whose target is not `ignore`; 0 if there is none.
///
/// Computed in f32 at least. On the CPU and on NVIDIA GPUs the softmax is never stored; the backward pass computes it again.
///
/// # Shapes
/// - `logits`: `[N, classes]`; `targets`: `[N]`, each below the number of classes or equal to `ignore`
/// - output: `[1]`
///
/// # Panics
/// If a target is outside the classes.
pub fn cross_entropy(logits: Tensor<2>, targets: Tensor<1, Int>, ignore: Option<usize>) -> Tensor<1> {
    let ignore = ignore.map_or(-1, |i| i as i64);
    let wide = if logits.dtype() == DType::F64 { DType::F64 } else { DType::F32 };
    let kept = targets.clone().not_equal_elem(ignore).float().cast(wide);
    let losses = row_losses(logits, targets, ignore);
    losses.sum() / kept.sum().clamp_min(1.0)
}

/// The cross entropy of each row, in f32 at least.
fn row_losses(logits: Tensor<2>, targets: Tensor<1, Int>, ignore: i64) -> Tensor<1> {
    #[cfg(feature = "cube")]
    if let Some(losses) = kernel::gpu::cross_entropy(&logits, &targets, ignore) {
        return losses;
    }
    let logits = if matches!(logits.dtype(), DType::F16 | DType::BF16) { logits.cast(DType::F32) } else { logits };
    if kernel::on_cpu(&logits.device(), logits.dtype()) {
        kernel::cross_entropy(logits, targets, ignore)
    } else {
        let row = activation::log_softmax(logits, 1);
        let index = targets.clone().mask_fill(targets.clone().equal_elem(ignore), 0);
        let kept = targets.not_equal_elem(ignore).float().cast(row.dtype());
        row.gather(1, index.unsqueeze_dim(1)).squeeze_dim::<1>(1).neg() * kept
    }
}

/// Least number of logits for [`linear_cross_entropy`] to go without them: as many as a core's cache holds.
const MANY_LOGITS: usize = 1 << 20;

/// [`cross_entropy`] of the logits `x W`: the head of a language model with its loss.
///
/// On the CPU the logits and their gradients exist for a few rows at a time only, whatever the numbers of rows and classes.
///
/// # Shapes
/// - `x`: `[N, D]`; `weight`: `[D, classes]`; `targets`: `[N]`, as for [`cross_entropy`]
/// - output: `[1]`
///
/// # Panics
/// If a target is outside the classes.
pub fn linear_cross_entropy(x: Tensor<2>, weight: Tensor<2>, targets: Tensor<1, Int>, ignore: Option<usize>) -> Tensor<1> {
    let logits = x.dims()[0] * weight.dims()[1];
    if logits >= MANY_LOGITS && kernel::on_cpu(&x.device(), x.dtype()) && weight.dtype() == x.dtype() {
        return kernel::linear_cross_entropy(x, weight, targets, ignore.map_or(-1, |i| i as i64));
    }
    cross_entropy(linear(x, weight, None), targets, ignore)
}
