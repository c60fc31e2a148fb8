use burn::tensor::{Device, Int, Tensor};

/// Rotary position encoding (RoPE): channel pair `(x_j, x_{j+K/2})` of the token at position p is turned by the angle `p · base^(-2j/K)`.
///
/// Positions have no upper bound: angles are computed for the tokens at hand, in f32.
///
/// # Shapes
/// - `x`: `[B, H, T, K]`, K even; output: the same
pub fn rotary(x: Tensor<4>, first_position: usize, base: f64) -> Tensor<4> {
    let [_, _, t, width] = x.dims();
    if t == 0 {
        return x;
    }
    let half = width / 2;
    let (cos, sin) = angles(t, half, first_position, base, &x.device());
    let (cos, sin) = (cos.cast(x.dtype()), sin.cast(x.dtype()));
    let a = x.clone().narrow(3, 0, half);
    let b = x.narrow(3, half, half);
    Tensor::cat(vec![a.clone() * cos.clone() - b.clone() * sin.clone(), b * cos + a * sin], 3)
}

fn angles(t: usize, half: usize, first: usize, base: f64, device: &Device) -> (Tensor<4>, Tensor<4>) {
    let position = Tensor::<1, Int>::arange(first as i64..(first + t) as i64, device).float().reshape([1, 1, t, 1]);
    let channel = Tensor::<1, Int>::arange(0..half as i64, device).float().reshape([1, 1, 1, half]);
    let frequency = (channel * (-base.ln() / half as f64)).exp();
    let angle = position * frequency;
    (angle.clone().cos(), angle.sin())
}
