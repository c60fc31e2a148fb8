use burn::{
    module::{Module, Param},
    nn::Linear,
    tensor::{Tensor, s},
};

use super::{
    config::{HaloWidths, KvLayout},
    op::{HaloOptions, halo_attention},
};
use crate::{
    Result, SpatialMixer,
    blocks::{project, split},
};

/// Multi-head attention of the tokens of each block of a map to the block and a halo around it, with the projections.
#[derive(Module, Debug)]
pub struct HaloAttention {
    /// Queries, heads head-major.
    pub q: Linear,
    /// Keys and values, in the order of [`KvLayout`].
    pub kv: Linear,
    /// r^y, for all heads. `[2w − 1, K]`
    pub height_rel: Param<Tensor<2>>,
    /// r^x, for all heads. `[2w − 1, K]`
    pub width_rel: Param<Tensor<2>>,
    /// The projection of the output, if there is one.
    pub out: Option<Linear>,
    #[module(skip)]
    pub(super) widths: HaloWidths,
    #[module(skip)]
    pub(super) options: HaloOptions,
    pub(super) pooled: bool,
    #[module(skip)]
    pub(super) kv_layout: KvLayout,
}

impl HaloAttention {
    /// Attention, and a smaller map if there is a stride.
    ///
    /// # Shapes
    /// - `x`: `[B, Y, X, D]`; output: `[B, Y', X', H·V]`, or D with a projection of the output; Y' = ⌈Y/s⌉, ⌊Y/2⌋ if outputs are averaged
    ///
    /// # Panics
    /// If the width of `x` is not D.
    pub fn attend(&self, x: Tensor<4>) -> Tensor<4> {
        let [b, y, columns, _] = x.dims();
        let HaloWidths { key, value, .. } = self.widths;
        let h = self.kv.weight.val().dims()[1] / (key + value);
        let kv = project(&self.kv, x.clone());
        let [k, v] = match self.kv_layout {
            KvLayout::PerHead => split(kv.reshape([b, y, columns, h, key + value]), 4, [key, value]),
            KvLayout::KeysFirst => {
                let [k, v] = split(kv, 3, [h * key, h * value]);
                [k.reshape([b, y, columns, h, key]), v.reshape([b, y, columns, h, value])]
            }
        };
        let stride = self.options.stride as isize;
        let x = if stride == 1 { x } else { x.slice(s![.., ..;stride, ..;stride]) };
        let [_, queries_y, queries_x, _] = x.dims();
        let q = project(&self.q, x).reshape([b, queries_y, queries_x, h, key]);
        let relative = [self.height_rel.val(), self.width_rel.val()];
        let o = halo_attention(q, k, v, relative, &self.options).expect("the projections give matching shapes");
        let o = o.reshape([b, queries_y, queries_x, h * value]);
        let o = if self.pooled { averaged(o) } else { o };
        match &self.out {
            Some(out) => project(out, o),
            None => o,
        }
    }
}

/// The means of 2 × 2 tokens each; a last odd row or column is left out.
fn averaged(x: Tensor<4>) -> Tensor<4> {
    let [b, y, columns, d] = x.dims();
    let x = x.narrow(1, 0, y / 2 * 2).narrow(2, 0, columns / 2 * 2).reshape([b, y / 2, 2, columns / 2, 2, d]);
    x.mean_dim(4).mean_dim(2).reshape([b, y / 2, columns / 2, d])
}

impl SpatialMixer for HaloAttention {
    fn check_map(&self, _: [usize; 2]) -> Result<()> {
        Ok(())
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        self.attend(x)
    }

    fn flops(&self, map: [usize; 2]) -> f64 {
        let HaloWidths { input, key, value } = self.widths;
        let h = self.q.weight.lazy_shape().dims::<2>()[1] / key;
        let (window, block) = (self.options.window(), self.options.block);
        let n = map.iter().product::<usize>() as f64;
        let queries = map.map(|length| length.div_ceil(self.options.stride)).iter().product::<usize>() as f64;
        let blocks = map.map(|length| length.div_ceil(block)).iter().product::<usize>() as f64;
        let per_block = (block / self.options.stride).pow(2) as f64;
        let projections = n * (2 * input * h * (key + value)) as f64 + queries * (2 * input * h * key) as f64;
        let mixing = blocks * per_block * (2 * h) as f64 * ((window * window * (key + value)) + 2 * (2 * window - 1) * key) as f64;
        let out = if self.out.is_some() { queries * (2 * input * h * value) as f64 } else { 0.0 };
        projections + mixing + out
    }
}
