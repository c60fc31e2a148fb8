use std::ops::{Add, AddAssign, Div, Mul, MulAssign, Sub};

use burn::tensor::{Bool, Device, Element, Tensor, TensorData};
use phastft::{
    fft_f32_dit_with_planner, fft_f64_dit_with_planner,
    planner::{Direction, PlannerDit32, PlannerDit64},
};

use crate::blocks::simd;

/// The float types that the product is computed in, with their Fourier transform.
pub(super) trait Real:
    Element
    + Copy
    + Default
    + PartialOrd
    + Add<Output = Self>
    + Sub<Output = Self>
    + Mul<Output = Self>
    + Div<Output = Self>
    + AddAssign
    + MulAssign
    + Send
    + Sync
{
    /// 1.
    const ONE: Self;
    /// Half the distance from 1 to the next number.
    const ROUNDING: Self;
    /// What a transform of one length needs.
    type Planner: Send + Sync;

    /// The planner for a power of two.
    fn planner(length: usize) -> Self::Planner;

    /// The discrete Fourier transform in place, or its inverse.
    fn transform(planner: &Self::Planner, re: &mut [Self], im: &mut [Self], direction: Direction);

    fn sqrt(self) -> Self;

    /// `e^x` for x ≤ 0; to be inlined into vector code.
    fn exp(self) -> Self;

    fn ln(self) -> Self;

    fn from_size(n: usize) -> Self;
}

macro_rules! real {
    ($float:ty, $planner:ty, $transform:path, $exp:path) => {
        impl Real for $float {
            const ONE: Self = 1.0;
            const ROUNDING: Self = <$float>::EPSILON / 2.0;
            type Planner = $planner;

            fn planner(length: usize) -> Self::Planner {
                <$planner>::new(length)
            }

            fn transform(planner: &Self::Planner, re: &mut [Self], im: &mut [Self], direction: Direction) {
                $transform(re, im, direction, planner);
            }

            fn sqrt(self) -> Self {
                <$float>::sqrt(self)
            }

            #[inline(always)]
            fn exp(self) -> Self {
                $exp(self)
            }

            fn ln(self) -> Self {
                <$float>::ln(self)
            }

            fn from_size(n: usize) -> Self {
                n as $float
            }
        }
    };
}

real!(f32, PlannerDit32, fft_f32_dit_with_planner, simd::exp);
real!(f64, PlannerDit64, fft_f64_dit_with_planner, f64::exp);

/// The numbers of a tensor, row-major.
pub(super) fn numbers<T: Real, const D: usize>(tensor: &Tensor<D>) -> TensorData {
    let data = tensor.clone().into_data();
    debug_assert_eq!(data.dtype(), T::dtype());
    data
}

/// The numbers of a tensor that [`numbers`] read.
pub(super) fn slice<T: Real>(data: &TensorData) -> &[T] {
    data.as_slice().expect("of this type")
}

/// A tensor of these numbers, in their type.
pub(super) fn tensor<T: Real, const D: usize>(values: Vec<T>, shape: [usize; D], device: &Device) -> Tensor<D> {
    Tensor::from_data(TensorData::new(values, shape), (device, T::dtype()))
}

/// Which tokens are hidden, sequence by sequence.
pub(super) fn flags(mask: &Tensor<2, Bool>) -> Vec<bool> {
    mask.to_data().iter::<bool>().collect()
}

/// The rows and columns of a matrix transposed.
pub(super) fn transposed<T: Real>(matrix: &[T], columns: usize) -> Vec<T> {
    let rows = matrix.len() / columns;
    let mut out = vec![T::default(); matrix.len()];
    for (i, row) in matrix.chunks_exact(columns).enumerate() {
        for (j, &x) in row.iter().enumerate() {
            out[j * rows + i] = x;
        }
    }
    out
}
