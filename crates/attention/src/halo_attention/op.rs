use burn::tensor::{DType, Tensor, ops::PadMode};

use super::reference;
use crate::{
    Error, Result,
    blocks::{
        kernel::on_cpu,
        neighborhood::{HaloAxis, haloed},
    },
};

const OP: &str = "halo_attention";

/// What [`halo_attention`] computes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct HaloOptions {
    /// Rows and columns b of a block.
    pub block: usize,
    /// Rows and columns h around it that its queries see too.
    pub halo: usize,
    /// Distance s of the rows and columns of a block that are queries: 1, or a divisor of b.
    pub stride: usize,
    /// Whether the place of a query in its block counts rows of the map, not of queries.
    pub in_pixels: bool,
    /// Whether what lies outside of the map is left out; if not, there are keys and values of zeros, whose scores are those of their place.
    pub masked: bool,
    /// Whether the products with vectors by place have the factor of the scores, too.
    pub scaled_positions: bool,
    /// Factor on `q · k`; `None` = 1/√K.
    pub scale: Option<f64>,
}

impl Default for HaloOptions {
    /// Blocks of 8 × 8 with a halo of 3, keys of zeros at the border.
    fn default() -> Self {
        Self { block: 8, halo: 3, stride: 1, in_pixels: false, masked: false, scaled_positions: false, scale: None }
    }
}

impl HaloOptions {
    /// Rows and columns w of what a block sees.
    pub fn window(&self) -> usize {
        self.block + 2 * self.halo
    }

    pub(super) fn check(&self, op: &'static str) -> Result<()> {
        for (arg, size) in [("block", self.block), ("stride", self.stride)] {
            if size == 0 {
                return Err(Error::argument(op, arg, "at least 1", size));
            }
        }
        if !self.block.is_multiple_of(self.stride) {
            return Err(Error::argument(op, "stride", format!("a divisor of block = {}", self.block), self.stride));
        }
        Ok(())
    }
}

/// Softmax attention of the tokens of each block of a map to the block and a halo around it, with biases by relative place that depend on the
/// query.
///
/// `O = softmax(scale · Q Kᵀ + R) V`, `R = q · (r^y_(u_y − p_y + w − 1) + r^x_(u_x − p_x + w − 1))` for the query at p in its block and the key at u in
/// its window of w × w. Maps whose sides the blocks do not divide are filled up with tokens that nobody sees.
///
/// O(N·w²·(K+V)/s²) time. On the CPU in f32 by a fused kernel that reads the windows where they lie in the map, and whose backward pass adds up
/// what windows share in a fixed order, without atomics: memory is that of the inputs and output, with keys and values once more with their
/// zeros where the border has them. Elsewhere by the definition, block by block; f16 and bf16 are computed in f32.
///
/// # Shapes
/// - `q`: `[B, ⌈Y/s⌉, ⌈X/s⌉, H, K]`; `k`: `[B, Y, X, H, K]`; `v`: `[B, Y, X, H, V]`
/// - `relative` r^y, r^x: `[2w − 1, K]` each, for all heads
/// - output: `[B, ⌈Y/s⌉, ⌈X/s⌉, H, V]`
///
/// # Errors
/// If the shapes or float types disagree, or an option is out of its range.
pub fn halo_attention(q: Tensor<5>, k: Tensor<5>, v: Tensor<5>, relative: [Tensor<2>; 2], options: &HaloOptions) -> Result<Tensor<5>> {
    options.check(OP)?;
    let ([b, y, x, h, width], of_q) = (k.dims(), q.dims());
    let queries = [b, y.div_ceil(options.stride), x.div_ceil(options.stride), h, width];
    if of_q != queries {
        return Err(Error::argument(OP, "q", format!("of shape {queries:?}"), format!("{of_q:?}")));
    }
    if k.dims()[..4] != v.dims()[..4] {
        return Err(Error::shape(OP, ("k", &k.dims()), ("v", &v.dims()), "batch, map and heads"));
    }
    if width == 0 {
        return Err(Error::argument(OP, "q", "of a key width of at least 1", format!("{of_q:?}")));
    }
    let of_vectors = [2 * options.window() - 1, width];
    for vectors in &relative {
        if vectors.dims() != of_vectors {
            return Err(Error::argument(OP, "relative", format!("of shape {of_vectors:?}"), format!("{:?}", vectors.dims())));
        }
    }
    let of_relative = relative.iter().map(|x| ("relative", x.dtype()));
    for (arg, dtype) in [("k", k.dtype()), ("v", v.dtype())].into_iter().chain(of_relative) {
        if dtype != q.dtype() {
            return Err(Error::argument(OP, arg, format!("of the float type of `q`, {:?}", q.dtype()), format!("{dtype:?}")));
        }
    }
    let scale = options.scale.unwrap_or_else(|| 1.0 / (width as f64).sqrt());
    if !(scale.is_finite() && scale != 0.0) {
        return Err(Error::argument(OP, "scale", "finite and not 0", scale));
    }
    let factor = if options.scaled_positions { scale } else { 1.0 };
    let dtype = q.dtype();
    let wide = if dtype == DType::F64 { dtype } else { DType::F32 };
    let [q, k, v] = [q, k, v].map(|x| x.cast(wide));
    let relative = relative.map(|x| x.cast(wide));
    if q.dims().contains(&0) || v.dims()[4] == 0 {
        let mut shape = queries;
        shape[4] = v.dims()[4];
        return Ok(Tensor::zeros(shape, (&q.device(), dtype)));
    }
    if !on_cpu(&q.device(), wide) {
        return Ok(reference::blocks([q, k, v], relative, options, [scale, factor]).cast(dtype));
    }
    let HaloOptions { block, halo, stride, in_pixels, masked, .. } = *options;
    let axis = HaloAxis { block, halo, stride, in_pixels, outside: !masked };
    let around = if masked { 0 } else { halo };
    let with_zeros = |x: Tensor<5>| {
        let sides = [(0, 0), (around, around), (around, around), (0, 0), (0, 0)];
        if around == 0 { x } else { x.pad(sides, PadMode::Constant(0.0)) }
    };
    Ok(haloed([q, with_zeros(k), with_zeros(v)], relative, axis, [y, x], [scale, factor]).cast(dtype))
}
