use burn::{backend::DispatchTensor, tensor::Tensor};

use super::{
    custom_gradient::{JointRule, with_gradients},
    kernel,
};

/// `x` cut along `axis` into parts of `lengths`, which are views. The gradients of the parts are joined in one pass; Burn's `narrow`
/// fills a tensor of the size of `x` with zeros for each part and adds them up.
///
/// # Panics
/// If the lengths do not add up to the axis.
pub fn split<const D: usize, const N: usize>(x: Tensor<D>, axis: usize, lengths: [usize; N]) -> [Tensor<D>; N] {
    assert_eq!(lengths.iter().sum::<usize>(), x.dims()[axis], "lengths of the parts");
    let parts = cut(&x.clone().inner(), axis, lengths);
    let shapes = parts.each_ref().map(Tensor::dims);
    with_gradients([x.into_dispatch()], parts, Joined { shapes, axis })
}

/// Views of parts along an axis, without gradients.
pub(super) fn cut<const D: usize, const N: usize>(x: &Tensor<D>, axis: usize, lengths: [usize; N]) -> [Tensor<D>; N] {
    let mut start = 0;
    lengths.map(|length| {
        start += length;
        x.clone().narrow(axis, start - length, length)
    })
}

/// Tensors without gradients side by side along an axis.
pub(super) fn join<const D: usize>(parts: Vec<Tensor<D>>, axis: usize) -> Tensor<D> {
    // Burn's `cat` copies on one thread.
    let on_cpu = parts.iter().all(|part| kernel::on_cpu(&part.device(), part.dtype()));
    if on_cpu && axis == D - 1 { kernel::join(&parts) } else { Tensor::cat(parts, axis) }
}

#[derive(Debug)]
struct Joined<const D: usize, const N: usize> {
    shapes: [[usize; D]; N],
    axis: usize,
}

impl<const D: usize, const N: usize> JointRule<1, N> for Joined<D, N> {
    fn gradients(&self, upstream: [Option<DispatchTensor>; N], _: [bool; 1]) -> [Option<DispatchTensor>; 1] {
        let upstream = upstream.map(|gradient| gradient.map(Tensor::<D>::from_dispatch));
        let Some(like) = upstream.iter().flatten().next().cloned() else { return [None] };
        let parts = upstream.into_iter().zip(self.shapes);
        let parts = parts.map(|(gradient, shape)| gradient.unwrap_or_else(|| Tensor::zeros(shape, (&like.device(), like.dtype()))));
        [Some(join(parts.collect(), self.axis).into_dispatch())]
    }
}
