//! Products of matrices: on NVIDIA GPUs by cuBLASLt, exact in f32 where Burn's own round to TF32; elsewhere Burn's.

#[cfg(feature = "cuda")]
pub(crate) mod cublas;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use burn::{
    backend::{Backend, DispatchTensor, tensor::FloatTensor},
    tensor::Tensor,
};

use super::custom_gradient::{GradientRule, with_gradient};
#[cfg(feature = "cuda")]
use super::custom_gradient::{of_backend, primitive};

/// `a b` over the last two axes, in f32 exact to its rounding on every device but NVIDIA GPUs without cuBLASLt, where Burn's products of
/// f32 matrices have 11 bits (TF32). Sums are in f32 at least.
///
/// # Shapes
/// - `a`: `[…, m, k]`; `b`: `[…, k, n]`; output: `[…, m, n]`; of the other axes those of length 1 go with all of the other's
///
/// # Panics
/// If the shapes do not go together, as [`Tensor::matmul`].
pub fn matmul<const D: usize>(a: Tensor<D>, b: Tensor<D>) -> Tensor<D> {
    match fast(&a, &b, None) {
        Some(out) => {
            let inner = [a.clone().inner(), b.clone().inner()].map(Tensor::into_dispatch);
            let [left, right] = inner;
            with_gradient([a.into_dispatch(), b.into_dispatch()], out, Arc::new(Product::<D> { a: left, b: right }))
        }
        None => a.matmul(b),
    }
}

/// `a b`, or `a b + bias`, without gradients where Burn's own product is not the one to take.
pub(super) fn fast<const D: usize>(a: &Tensor<D>, b: &Tensor<D>, bias: Option<&Tensor<1>>) -> Option<Tensor<D>> {
    #[cfg(feature = "cuda")]
    {
        use burn::backend::{Cube, DispatchDevice};
        let devices = [a.device().inner(), b.device().inner()];
        if !matches!(devices[0].as_dispatch(), DispatchDevice::Cube(_)) || devices[0] != devices[1] {
            return None;
        }
        let [a, b] = [a, b].map(|x| primitive::<Cube>(x.clone().inner().into_dispatch()));
        let bias = bias.map(|bias| primitive::<Cube>(bias.clone().inner().into_dispatch()));
        cublas::multiply(&a, &b, bias.as_ref()).map(|out| Tensor::from_dispatch(of_backend::<Cube>(out)))
    }
    #[cfg(not(feature = "cuda"))]
    {
        let _ = (a, b, bias);
        None
    }
}

/// Whether the columns of a matrix on a GPU lie one after another, not its rows.
pub(super) fn lies_turned(x: &Tensor<2>) -> bool {
    #[cfg(feature = "cuda")]
    {
        let x = primitive::<burn::backend::Cube>(x.clone().into_dispatch());
        x.meta.strides()[0] == 1 && x.meta.strides()[1] > 1
    }
    #[cfg(not(feature = "cuda"))]
    {
        let _ = x;
        false
    }
}

/// `a b` below the level of automatic differentiation: see [`matmul`].
pub(crate) fn raw<B: Backend>(a: FloatTensor<B>, b: FloatTensor<B>) -> FloatTensor<B> {
    #[cfg(feature = "cuda")]
    {
        use std::any::Any;

        use burn_cubecl::tensor::CubeTensor;
        let tensors = [&a, &b].map(|x| (x as &dyn Any).downcast_ref::<CubeTensor>());
        if let [Some(a), Some(b)] = tensors
            && let Some(out) = cublas::multiply(a, b, None)
            && let Ok(out) = (Box::new(out) as Box<dyn Any>).downcast::<FloatTensor<B>>()
        {
            return *out;
        }
    }
    B::float_matmul(a, b)
}

/// The inputs of `a b`.
#[derive(Debug)]
struct Product<const D: usize> {
    a: DispatchTensor,
    b: DispatchTensor,
}

impl<const D: usize> GradientRule<2> for Product<D> {
    fn gradients(&self, upstream: DispatchTensor, wanted: [bool; 2]) -> [Option<DispatchTensor>; 2] {
        let [a, b, upstream] = [self.a.clone(), self.b.clone(), upstream].map(Tensor::<D>::from_dispatch);
        let (a_shape, b_shape) = (a.dims(), b.dims());
        let of_a = wanted[0].then(|| summed(matmul(upstream.clone(), b.transpose()), a_shape));
        let of_b = wanted[1].then(|| summed(matmul(a.transpose(), upstream), b_shape));
        [of_a, of_b].map(|gradient| gradient.map(Tensor::into_dispatch))
    }
}

/// The sum over the axes along which a factor was repeated.
fn summed<const D: usize>(gradient: Tensor<D>, shape: [usize; D]) -> Tensor<D> {
    (0..D).filter(|axis| shape[*axis] == 1).fold(
        gradient,
        |gradient, axis| {
            if gradient.dims()[axis] == 1 { gradient } else { gradient.sum_dim(axis) }
        },
    )
}
