use std::sync::{Arc, Mutex};

use burn::{backend::DispatchTensor, tensor::Tensor};

use super::{
    custom_gradient::{GradientRule, with_gradient},
    kernel,
};

/// `x` cut along `axis` into parts of `lengths`, which are views. The gradients of the parts are joined in one pass; Burn's `narrow`
/// fills a tensor of the size of `x` with zeros for each part and adds them up.
///
/// # Panics
/// If the lengths do not add up to the axis.
pub fn split<const D: usize, const N: usize>(x: Tensor<D>, axis: usize, lengths: [usize; N]) -> [Tensor<D>; N] {
    assert_eq!(lengths.iter().sum::<usize>(), x.dims()[axis], "lengths of the parts");
    let mut start = 0;
    let parts = lengths.map(|length| {
        start += length;
        x.clone().inner().narrow(axis, start - length, length)
    });
    // A node has one output. So the parts are children of a node that is `x` itself: they leave their gradients in these places and
    // send it a number, by which it knows that it has to run, after them.
    let shapes = parts.each_ref().map(Tensor::dims);
    let joint = Arc::new(Joint { gradients: Mutex::new([const { None }; N]), shapes, axis });
    let whole = with_gradient([x.clone().into_dispatch()], x, Arc::clone(&joint) as Arc<_>);
    let mut index = 0;
    parts.map(|part| {
        let rule = Arc::new(Part { joint: Arc::clone(&joint), index });
        index += 1;
        with_gradient([whole.clone().into_dispatch()], part, rule)
    })
}

/// The gradients of the parts, until all are there.
#[derive(Debug)]
struct Joint<const D: usize, const N: usize> {
    gradients: Mutex<[Option<Tensor<D>>; N]>,
    shapes: [[usize; D]; N],
    axis: usize,
}

impl<const D: usize, const N: usize> GradientRule<1> for Joint<D, N> {
    fn gradients(&self, upstream: DispatchTensor, _: [bool; 1]) -> [Option<DispatchTensor>; 1] {
        let upstream: Tensor<1> = Tensor::from_dispatch(upstream);
        let mut gradients = self.gradients.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let parts = gradients.iter_mut().zip(self.shapes);
        let parts = parts.map(|(gradient, shape)| {
            // A part that the loss does not depend on has sent nothing.
            gradient.take().unwrap_or_else(|| Tensor::zeros(shape, (&upstream.device(), upstream.dtype())))
        });
        let parts: Vec<Tensor<D>> = parts.collect();
        // Burn's `cat` copies on one thread.
        let on_cpu = parts.iter().all(|part| kernel::on_cpu(&part.device(), part.dtype()));
        let whole = if on_cpu && self.axis == D - 1 { kernel::join(&parts) } else { Tensor::cat(parts, self.axis) };
        [Some(whole.into_dispatch())]
    }
}

#[derive(Debug)]
struct Part<const D: usize, const N: usize> {
    joint: Arc<Joint<D, N>>,
    index: usize,
}

impl<const D: usize, const N: usize> GradientRule<1> for Part<D, N> {
    fn gradients(&self, upstream: DispatchTensor, _: [bool; 1]) -> [Option<DispatchTensor>; 1] {
        let upstream: Tensor<D> = Tensor::from_dispatch(upstream);
        let notice = Tensor::<1>::zeros([1], (&upstream.device(), upstream.dtype()));
        let mut gradients = self.joint.gradients.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        gradients[self.index] = Some(upstream);
        [Some(notice.into_dispatch())]
    }
}
