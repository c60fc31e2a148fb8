use burn::{
    module::Param,
    nn::{BatchNorm, conv::Conv2d},
    tensor::Tensor,
};

/// The convolution that computes what `conv` and the statistics of `norm` do: for networks that are trained no more.
pub fn folded(conv: Conv2d, norm: &BatchNorm) -> Conv2d {
    let (weight, bias) = folded_filters(conv.weight.val(), conv.bias.as_ref().map(Param::val), norm);
    Conv2d { weight: Param::from_tensor(weight), bias: Some(Param::from_tensor(bias)), ..conv }
}

/// `W γ/√(σ² + ε)` and `(b − μ) γ/√(σ² + ε) + β`.
///
/// # Shapes
/// - `weight`: `[C', C, k, k]`, as the first output; `bias`: `[C']`, as the second
pub fn folded_filters(weight: Tensor<4>, bias: Option<Tensor<1>>, norm: &BatchNorm) -> (Tensor<4>, Tensor<1>) {
    let factor = norm.gamma.val() / (norm.running_var.value_sync() + norm.epsilon).sqrt();
    let mean = norm.running_mean.value_sync();
    let shift = match bias {
        Some(bias) => bias - mean,
        None => -mean,
    };
    (weight * factor.clone().reshape([-1, 1, 1, 1]), shift * factor + norm.beta.val())
}
