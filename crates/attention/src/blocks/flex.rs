//! Between Flex tensors and the slices of kernels.

use std::mem::MaybeUninit;

use burn::{
    backend::{
        TensorMetadata,
        flex::{FlexTensor, Layout},
    },
    tensor::{Bytes, DType, Shape},
};

use rayon::prelude::*;

use super::simd::{Target, View, scratch};

/// An f32 tensor `[B, H, T, width]` to be filled.
pub(crate) struct NewTensor {
    data: Vec<f32>,
    dims: [usize; 4],
    strides: [usize; 3],
}

impl NewTensor {
    /// Its tokens lie before its heads in memory if those of `like` do: what reads it after swapping the axes again needs no copy.
    pub(crate) fn like(like: &FlexTensor, dims: [usize; 4]) -> Self {
        Self { data: blank(dims.iter().product()), dims, strides: strides_like(like, dims) }
    }

    /// Its tokens lie before its heads in memory: swapping these axes gives a contiguous tensor `[B, T, H, width]`.
    pub(crate) fn tokens_first(dims: [usize; 4]) -> Self {
        Self { data: blank(dims.iter().product()), dims, strides: strides_of(dims, true) }
    }

    /// As [`like`](Self::like), with memory that is not written even once before: for kernels that write all of it, by pointers alone,
    /// and then call [`written`](Self::written).
    pub(crate) fn unwritten(like: &FlexTensor, dims: [usize; 4]) -> Self {
        Self { data: unwritten(dims.iter().product()), dims, strides: strides_like(like, dims) }
    }

    /// As [`tokens_first`](Self::tokens_first), in memory as that of [`unwritten`](Self::unwritten).
    pub(crate) fn unwritten_tokens_first(dims: [usize; 4]) -> Self {
        Self { data: unwritten(dims.iter().product()), dims, strides: strides_of(dims, true) }
    }

    /// A contiguous tensor in memory as that of [`unwritten`](Self::unwritten).
    pub(crate) fn unwritten_contiguous(dims: [usize; 4]) -> Self {
        Self { data: unwritten(dims.iter().product()), dims, strides: strides_of(dims, false) }
    }

    /// # Safety
    /// Every number must have been written through [`target`](Self::target).
    pub(crate) unsafe fn written(&mut self) {
        let len = self.dims.iter().product();
        assert!(len <= self.data.capacity(), "made for these sizes");
        // SAFETY: within the capacity, and the caller has written the numbers.
        unsafe { self.data.set_len(len) };
    }

    pub(crate) fn target(&mut self) -> Target<'_> {
        Target::of(&mut self.data, self.strides, self.dims)
    }

    pub(crate) fn finish(self) -> FlexTensor {
        let strides = self.strides.map(|s| s as isize).into_iter().chain([1]).collect();
        FlexTensor::new(Bytes::from_elems(self.data), Layout::new(Shape::new(self.dims), strides, 0), DType::F32)
    }
}

/// Strides of batch, heads and tokens.
fn strides_of([_, h, t, width]: [usize; 4], tokens_first: bool) -> [usize; 3] {
    if tokens_first { [t * h * width, width, h * width] } else { [h * t * width, t * width, width] }
}

/// With tokens before heads if those of `like` lie so.
fn strides_like(like: &FlexTensor, dims: [usize; 4]) -> [usize; 3] {
    let of = like.layout().strides();
    strides_of(dims, of[1] < of[2])
}

/// Memory for so many numbers, NaN under test, as all scratch memory.
fn unwritten(len: usize) -> Vec<f32> {
    let mut data = if cfg!(test) { scratch(len) } else { Vec::with_capacity(len) };
    data.clear();
    data
}

/// As [`scratch`], by all threads: a tensor's worth of zeros is a pass over memory.
fn blank(len: usize) -> Vec<f32> {
    const PART: usize = 1 << 16;
    if len <= PART || cfg!(test) {
        return scratch(len);
    }
    let mut data = Vec::with_capacity(len);
    data.spare_capacity_mut()[..len].par_chunks_mut(PART).for_each(|part| part.fill(MaybeUninit::new(0.0)));
    // SAFETY: all have been written.
    unsafe { data.set_len(len) };
    data
}

pub(crate) fn dims(x: &FlexTensor) -> [usize; 4] {
    let shape = x.shape();
    std::array::from_fn(|i| shape[i])
}

/// The strides, if none is negative.
pub(crate) fn strides(x: &FlexTensor) -> Option<[usize; 4]> {
    let strides = x.layout().strides();
    strides.iter().all(|&s| s >= 0).then(|| std::array::from_fn(|i| strides[i] as usize))
}

pub(crate) fn from_start(x: &FlexTensor) -> &[f32] {
    &x.storage::<f32>()[x.layout().start_offset().min(x.storage::<f32>().len())..]
}

pub(crate) fn with_whole_rows(x: FlexTensor) -> FlexTensor {
    if strides(&x).is_some_and(|s| s[3] == 1 || x.shape()[3] <= 1) { x } else { x.to_contiguous() }
}

pub(crate) fn view(x: &FlexTensor) -> View<'_> {
    let [b, h, t, _] = strides(x).expect("of `with_whole_rows`");
    View::new(from_start(x), [b, h, t], dims(x))
}
