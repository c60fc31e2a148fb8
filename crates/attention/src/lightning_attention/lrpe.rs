use burn::{
    module::{Module, Param},
    tensor::{DType, Device, FloatDType, Tensor, TensorData},
};

use crate::{Error, Result, blocks::lazy_param};

/// Configuration of [`Lrpe`].
#[derive(Clone, Debug, PartialEq)]
pub struct LrpeConfig {
    /// Number of heads H.
    pub heads: usize,
    /// Width K of a head.
    pub width: usize,
    /// Base of the initial frequencies `base^(-2i/(H·K))`, i counted over all heads: later heads turn slower.
    pub base: f64,
}

impl LrpeConfig {
    /// The published base 10000.
    pub fn new(heads: usize, width: usize) -> Self {
        Self { heads, width, base: 10_000.0 }
    }

    /// The module with its initial frequencies.
    ///
    /// # Errors
    /// If a size is 0 or the base is not positive.
    pub fn init(&self, device: &Device) -> Result<Lrpe> {
        const OP: &str = "lrpe";
        for (arg, size) in [("heads", self.heads), ("width", self.width)] {
            if size == 0 {
                return Err(Error::argument(OP, arg, "at least 1", size));
            }
        }
        if !(self.base > 0.0 && self.base.is_finite()) {
            return Err(Error::argument(OP, "base", "positive and finite", self.base));
        }
        let (shape, base) = ([self.heads, 1, self.width], self.base);
        let theta = move |device: &Device| {
            let count = shape.iter().product::<usize>();
            let theta: Vec<f64> = (0..count).map(|i| base.powf(-2.0 * i as f64 / count as f64)).collect();
            Tensor::from_data(TensorData::new(theta, shape).convert_dtype(DType::F32), device)
        };
        Ok(Lrpe { theta: lazy_param(shape, device, theta) })
    }
}

/// Linearised relative position encoding: `y_p = [x ⊙ cos(θ p), x ⊙ sin(θ p)]` for position p, so that
/// `y_t · y_s = Σ_j x_tj x_sj cos(θ_j (t - s))`. The frequencies θ are learned.
#[derive(Module, Debug)]
pub struct Lrpe {
    /// θ `[H, 1, K]`.
    pub theta: Param<Tensor<3>>,
}

impl Lrpe {
    /// Encodes tokens whose first stands at `position`.
    ///
    /// # Shapes
    /// - `x`: `[B, H, T, K]`; output: `[B, H, T, 2K]`
    pub fn forward(&self, x: Tensor<4>, position: usize) -> Tensor<4> {
        let (cos, sin) = self.angles(position, x.dims()[2]);
        let (cos, sin) = (cos.cast(x.dtype()), sin.cast(x.dtype()));
        Tensor::cat(vec![x.clone() * cos, x * sin], 3)
    }

    /// Encodes queries and keys of the same tokens.
    pub fn forward_pair(&self, q: Tensor<4>, k: Tensor<4>, position: usize) -> (Tensor<4>, Tensor<4>) {
        let (cos, sin) = self.angles(position, q.dims()[2]);
        let (cos, sin) = (cos.cast(q.dtype()), sin.cast(q.dtype()));
        let encode = |x: Tensor<4>| Tensor::cat(vec![x.clone() * cos.clone(), x * sin.clone()], 3);
        (encode(q), encode(k))
    }

    /// cos(θ p) and sin(θ p) `[1, H, T, K]`.
    ///
    /// `p = first + 64a + b`: the angles of the multiples of 64 and those of 0..64 are computed in f64 where the device has it (at
    /// position 10⁵ an angle in f32 is off by 0.004) and put together by the addition theorem.
    fn angles(&self, first: usize, t: usize) -> (Tensor<4>, Tensor<4>) {
        const RUN: usize = 64;
        let theta = self.theta.val();
        let device = theta.device();
        let [h, _, width] = theta.dims();
        let wide = if device.supports_dtype(FloatDType::F64) { DType::F64 } else { DType::F32 };
        let table = |positions: Vec<f64>, shape: [usize; 4]| {
            let positions = Tensor::<1>::from_data(positions.as_slice(), (&device, wide)).reshape(shape);
            let angle = theta.clone().cast(wide).reshape([h, 1, 1, width]) * positions;
            (angle.clone().cos().cast(DType::F32), angle.sin().cast(DType::F32))
        };
        let run = RUN.min(t.max(1));
        let runs = t.div_ceil(run);
        let (cos_a, sin_a) = table((0..runs).map(|a| (first + a * run) as f64).collect(), [1, runs, 1, 1]); // [H, runs, 1, K]
        let (cos_b, sin_b) = table((0..run).map(|b| b as f64).collect(), [1, 1, run, 1]); // [H, 1, run, K]
        let flat = |x: Tensor<4>| x.reshape([1, h, runs * run, width]).narrow(2, 0, t);
        let cos = cos_a.clone() * cos_b.clone() - sin_a.clone() * sin_b.clone();
        let sin = sin_a * cos_b + cos_a * sin_b;
        (flat(cos), flat(sin))
    }
}
