use burn::tensor::Tensor;

use super::kernel;

/// A step of AdamW: `m ← β₁ m + (1 − β₁) g`, `v ← β₂ v + (1 − β₂) g²`, `θ ← θ (1 − η λ) − η m̂ / (√v̂ + ε)` with `m̂ = m / (1 − β₁ᵗ)`,
/// `v̂ = v / (1 − β₂ᵗ)` (Loshchilov and Hutter 2019, algorithm 2, the decay multiplied by the rate).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamWStep {
    /// Learning rate η.
    pub rate: f32,
    /// β₁
    pub beta1: f32,
    /// β₂
    pub beta2: f32,
    /// ε
    pub epsilon: f32,
    /// Weight decay λ.
    pub decay: f32,
    /// Number of this step t, from 1.
    pub time: i32,
}

impl AdamWStep {
    /// The next `θ`, `m` and `v` for the gradient times `factor`, if there is one, computed in one pass: on the CPU in f32, without a
    /// factor; on NVIDIA GPUs in f32 with a gradient in f32 or in half precision; elsewhere nothing. The tensors are without automatic
    /// differentiation.
    ///
    /// # Shapes
    /// - `parameter` θ, `gradient` g, `moments` m and v: all the same; `factor`: `[1]`
    ///
    /// # Panics
    /// If the shapes differ.
    pub fn apply<const D: usize>(
        &self,
        parameter: &Tensor<D>,
        gradient: &Tensor<D>,
        moments: [&Tensor<D>; 2],
        factor: Option<&Tensor<1>>,
    ) -> Option<[Tensor<D>; 3]> {
        let all = [parameter, gradient, moments[0], moments[1]];
        let on_cpu = factor.is_none() && all.iter().all(|x| kernel::on_cpu(&x.device(), x.dtype()));
        assert!(all.iter().all(|x| x.dims() == parameter.dims()), "shapes of parameter, gradient and moments");
        #[cfg(feature = "cube")]
        if let Some(next) = kernel::gpu::adamw(all, factor, *self) {
            return Some(next);
        }
        on_cpu.then(|| kernel::adamw(all, *self))
    }
}
