use std::sync::Arc;

use burn::{
    backend::DispatchTensor,
    tensor::{DType, Tensor, activation},
};

use crate::{
    Error, Result,
    blocks::{GradientRule, with_gradient},
};

const OP: &str = "channel_attention";

/// Attention of channels: each of the K channels of `x`, as a vector over all N tokens, attends to the V channels of `y` and takes the mean of
/// what `z` has for these.
///
/// `A = softmax(scale · Xᵀ Y)` over its last axis, `O = Z Aᵀ`. Global over the tokens, and linear in their number: O(N·K·V) time; beside
/// inputs and output K·V numbers per head, in training too. The gradients, with `G` that of the output: `dZ = G A`, `dA = Gᵀ Z`,
/// `dS = A ⊙ (dA − rowsum(dA ⊙ A))`, `dX = scale · Y dSᵀ`, `dY = scale · X dS`. f16 and bf16 are computed in f32: the products are sums over
/// all tokens.
///
/// # Shapes
/// - `x`: `[B, H, N, K]`; `y`, `z`: `[B, H, N, V]`; output: `[B, H, N, K]`
///
/// # Errors
/// If the shapes or float types disagree, or the scale is not finite.
pub fn channel_attention(x: Tensor<4>, y: Tensor<4>, z: Tensor<4>, scale: f64) -> Result<Tensor<4>> {
    if x.dims()[..3] != y.dims()[..3] {
        return Err(Error::shape(OP, ("x", &x.dims()), ("y", &y.dims()), "batch, heads and tokens"));
    }
    if y.dims() != z.dims() {
        return Err(Error::shape(OP, ("y", &y.dims()), ("z", &z.dims()), "shape"));
    }
    for (arg, dtype) in [("y", y.dtype()), ("z", z.dtype())] {
        if dtype != x.dtype() {
            return Err(Error::argument(OP, arg, format!("of the float type of `x`, {:?}", x.dtype()), format!("{dtype:?}")));
        }
    }
    if !scale.is_finite() {
        return Err(Error::argument(OP, "scale", "finite", scale));
    }
    if y.dims()[3] == 0 {
        return Err(Error::argument(OP, "y", "of at least one channel", 0));
    }
    if x.dims().contains(&0) {
        return Ok(x);
    }
    let dtype = x.dtype();
    let wide = if dtype == DType::F64 { dtype } else { DType::F32 };
    let inputs = [x, y, z].map(|x| x.cast(wide));
    let [x, y, z] = inputs.clone().map(Tensor::inner);
    // The factor goes to the small matrix.
    let weights = activation::softmax(x.clone().swap_dims(2, 3).matmul(y.clone()) * scale, 3); // [B, H, K, V]
    let o = z.clone().matmul(weights.clone().swap_dims(2, 3));
    let o = with_gradient(inputs.map(Tensor::into_dispatch), o, Arc::new(Saved { inputs: [x, y, z], weights, scale }));
    Ok(o.cast(dtype))
}

#[derive(Debug)]
struct Saved {
    inputs: [Tensor<4>; 3],
    weights: Tensor<4>,
    scale: f64,
}

impl GradientRule<3> for Saved {
    fn gradients(&self, upstream: DispatchTensor, wanted: [bool; 3]) -> [Option<DispatchTensor>; 3] {
        let upstream = Tensor::<4>::from_dispatch(upstream);
        let ([x, y, z], weights) = (self.inputs.clone(), self.weights.clone());
        let d_weights = upstream.clone().swap_dims(2, 3).matmul(z);
        let mean = (d_weights.clone() * weights.clone()).sum_dim(3);
        let d_scores = weights.clone() * (d_weights - mean) * self.scale;
        let d_x = wanted[0].then(|| y.matmul(d_scores.clone().swap_dims(2, 3)).into_dispatch());
        let d_y = wanted[1].then(|| x.matmul(d_scores).into_dispatch());
        let d_z = wanted[2].then(|| upstream.matmul(weights).into_dispatch());
        [d_x, d_y, d_z]
    }
}
