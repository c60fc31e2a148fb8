use std::ops::{Add, Mul};

use burn::{
    backend::{Backend, TensorMetadata, tensor::FloatTensor},
    tensor::{DType, Shape, Slice, TensorData},
};

use super::matmul;

/// A tensor below the level of automatic differentiation, with the few operations that hand-written backward passes are made of.
/// They read as those of [`Tensor`](burn::tensor::Tensor); the rank is known at run time.
pub(crate) struct Raw<B: Backend>(pub(crate) FloatTensor<B>);

impl<B: Backend> Clone for Raw<B> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<B: Backend> Raw<B> {
    /// Numbers computed on the host in f64, rounded once to the float type of `like`.
    pub(crate) fn constant<const D: usize>(values: Vec<f64>, shape: [usize; D], like: &Self) -> Self {
        let data = TensorData::new(values, shape);
        let data = if like.0.dtype() == DType::F64 { data } else { data.convert_dtype(DType::F32) };
        Self(B::float_from_data(data, &like.0.device()))
    }

    pub(crate) fn dims<const D: usize>(&self) -> [usize; D] {
        self.0.shape().dims()
    }

    pub(crate) fn matmul(self, other: Self) -> Self {
        Self(matmul::raw::<B>(self.0, other.0))
    }

    /// The last two axes swapped.
    pub(crate) fn transpose(self) -> Self {
        Self(B::float_transpose(self.0))
    }

    pub(crate) fn reshape<const D: usize>(self, shape: [usize; D]) -> Self {
        Self(B::float_reshape(self.0, Shape::from(shape)))
    }

    pub(crate) fn narrow(&self, axis: usize, start: usize, length: usize) -> Self {
        let shape = self.0.shape();
        let ranges: Vec<Slice> =
            (0..shape.num_dims()).map(|i| if i == axis { Slice::from(start..start + length) } else { Slice::from(0..shape[i]) }).collect();
        Self(B::float_slice(self.0.clone(), &ranges))
    }

    /// As many zeros.
    #[cfg(feature = "cube")]
    pub(crate) fn zeros(self) -> Self {
        Self(B::float_zeros(self.0.shape(), &self.0.device(), self.0.dtype().into()))
    }

    pub(crate) fn cat(parts: Vec<Self>, axis: usize) -> Self {
        Self(B::float_cat(parts.into_iter().map(|p| p.0).collect(), axis))
    }
}

impl<B: Backend> Add for Raw<B> {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self(B::float_add(self.0, other.0))
    }
}

impl<B: Backend> Mul for Raw<B> {
    type Output = Self;

    fn mul(self, other: Self) -> Self {
        Self(B::float_mul(self.0, other.0))
    }
}
