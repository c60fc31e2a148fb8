use burn::tensor::{DType, Tensor, TensorData};

use super::{Routes, reference};
use crate::{
    Error, Result,
    blocks::{kernel::on_cpu, neighborhood::routed},
};

const OP: &str = "routed_attention";

/// Where regions are sent, and how sure that is.
#[derive(Clone, Debug)]
pub struct Routing {
    /// The regions that each region sees.
    pub routes: Routes,
    /// The softmax of `scale · affinity` over these: `[B, S², k]`. A constant.
    pub weights: Tensor<3>,
}

/// Sends each region of a map to the `topk` regions whose mean key has the largest product with its mean query.
///
/// Means are over the tokens of a region, with all heads side by side; of equal affinities the first region's comes first. No gradient
/// flows through it. S² rows of S² affinities are compared on the host. f16 and bf16 are averaged in f32.
///
/// # Shapes
/// - `q`, `k`: `[B, Y, X, D]`
///
/// # Errors
/// If the shapes disagree, `side` is 0 or exceeds the rows or columns, or `topk` is not from 1 to the number of regions with tokens.
pub fn route(q: &Tensor<4>, k: &Tensor<4>, side: usize, topk: usize, scale: f64) -> Result<Routing> {
    if q.dims() != k.dims() {
        return Err(Error::shape("route", ("q", &q.dims()), ("k", &k.dims()), "shape"));
    }
    let [b, y, x, _] = q.dims();
    check_regions("route", side, topk, [y, x])?;
    let device = q.device();
    let wide = if q.dtype() == DType::F64 { DType::F64 } else { DType::F32 };
    let [queries, keys] = [q, k].map(|x| reference::region_means(x.clone().inner().cast(wide), side));
    let empty: Vec<bool> = keys.1.into_data().iter::<bool>().collect();
    let affinities: Vec<f64> = queries.0.matmul(keys.0.swap_dims(1, 2)).into_data().iter::<f64>().collect();
    let regions = side * side;
    let (mut index, mut weights) = (Vec::with_capacity(b * regions * topk), Vec::with_capacity(b * regions * topk));
    for row in affinities.chunks_exact(regions) {
        let mut order: Vec<usize> = (0..regions).filter(|region| !empty[*region]).collect();
        // Stable: of equals the first comes first. NaN is larger than any number.
        order.sort_by(|i, j| row[*j].total_cmp(&row[*i]));
        order.truncate(topk);
        let powers: Vec<f64> = order.iter().map(|region| (scale * (row[*region] - row[order[0]])).exp()).collect();
        let sum: f64 = powers.iter().sum();
        weights.extend(powers.iter().map(|power| power / sum));
        index.extend(order);
    }
    let weights = Tensor::from_data(TensorData::new(weights, [b, regions, topk]), (&device, wide));
    Ok(Routing { routes: Routes { side, topk, index: index.into() }, weights })
}

pub(super) fn check_regions(op: &'static str, side: usize, topk: usize, [y, x]: [usize; 2]) -> Result<()> {
    if side == 0 || side > y.min(x) {
        return Err(Error::argument(op, "regions", format!("from 1 to the shorter side of the map, {}", y.min(x)), side));
    }
    let real: usize = [y, x].map(|length| length.div_ceil(length.div_ceil(side))).iter().product();
    if topk == 0 || topk > real {
        return Err(Error::argument(op, "topk", format!("from 1 to the number of regions, {real}"), topk));
    }
    Ok(())
}

/// Softmax attention of each token to all tokens of the regions that its own is sent to: `O = softmax(scale · Q Kᵀ) V`.
///
/// O(N·k·T·(K+V)) time for N tokens in regions of T. On the CPU in f32 by a fused kernel that reads the regions where they lie in the map: its
/// memory beside inputs and output does not grow with k, in training too, and repeats give the same bits. Elsewhere by the definition, which
/// copies the keys and values of the regions; f16 and bf16 are computed in f32. Gradients flow to queries, keys and values; the routes have
/// none.
///
/// # Shapes
/// - `q`, `k`: `[B, Y, X, H, K]`; `v`: `[B, Y, X, H, V]`; output: `[B, Y, X, H, V]`
///
/// # Errors
/// If the shapes or float types disagree, or the routes are those of another batch or map.
pub fn routed_attention(q: Tensor<5>, k: Tensor<5>, v: Tensor<5>, routes: &Routes, scale: f64) -> Result<Tensor<5>> {
    if q.dims() != k.dims() {
        return Err(Error::shape(OP, ("q", &q.dims()), ("k", &k.dims()), "shape"));
    }
    if k.dims()[..4] != v.dims()[..4] {
        return Err(Error::shape(OP, ("k", &k.dims()), ("v", &v.dims()), "batch, map and heads"));
    }
    for (arg, dtype) in [("k", k.dtype()), ("v", v.dtype())] {
        if dtype != q.dtype() {
            return Err(Error::argument(OP, arg, format!("of the float type of `q`, {:?}", q.dtype()), format!("{dtype:?}")));
        }
    }
    let [b, y, x, _, width] = q.dims();
    if width == 0 {
        return Err(Error::argument(OP, "q", "of a key width of at least 1", format!("{:?}", q.dims())));
    }
    if !scale.is_finite() {
        return Err(Error::argument(OP, "scale", "finite", scale));
    }
    check_regions(OP, routes.side, routes.topk, [y, x])?;
    let sent = b * routes.side * routes.side * routes.topk;
    if routes.index.len() != sent {
        return Err(Error::argument(OP, "routes", format!("those of {b} maps, {sent} numbers"), routes.index.len()));
    }
    let empty =
        |number: &&usize| **number >= routes.side * routes.side || routes.region(**number, [y, x]).iter().any(std::ops::Range::is_empty);
    if let Some(number) = routes.index.iter().find(empty) {
        return Err(Error::argument(OP, "routes", format!("to regions that a map of {y} × {x} has"), number));
    }
    let dtype = q.dtype();
    let wide = if dtype == DType::F64 { dtype } else { DType::F32 };
    let [q, k, v] = [q, k, v].map(|x| x.cast(wide));
    let o = if on_cpu(&q.device(), wide) { routed(q, k, v, routes.clone(), scale) } else { reference::gathered([q, k, v], routes, scale) };
    Ok(o.cast(dtype))
}
