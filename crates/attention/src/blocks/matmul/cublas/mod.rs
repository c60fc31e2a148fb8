//! Products by cuBLASLt, on CubeCL's own stream and buffers.
//!
//! CubeCL's products of f32 matrices go through TF32, of 11 bits, and those of bf16 reach an eighth of what the matrix units do. This
//! library is part of every CUDA toolkit, whose compiler CubeCL needs anyway; it is looked for when the program runs, and without it
//! products are Burn's. Sums are in f32, and products of f32 matrices exact to its rounding, with no TF32.
//!
//! A product is a task for the thread that owns the device, queued behind the kernels launched before it, so it runs on the stream
//! that they run on, in their order; buffers are reached, kept, and marked as failed by the same calls as those of a kernel.

mod operand;
mod plan;
mod queue;

use burn::{
    backend::TensorMetadata,
    tensor::{DType, Shape},
};
use burn_cubecl::{
    ops::numeric::{empty_device_contiguous_dtype, zeros_client},
    tensor::CubeTensor,
};

use operand::{Operand, batch};
use plan::Problem;

/// Whether tensors of this type on the device of `like` are multiplied here.
pub(crate) fn takes(like: &CubeTensor, dtype: DType) -> bool {
    matches!(dtype, DType::F32 | DType::F16 | DType::BF16) && queue::reaches(&like.client)
}

/// `a b`, or `a b + bias`, over the last two axes; the others are stacks of matrices, of which those of length 1 go with all of the
/// other's. `[…, m, k] × […, k, n] → […, m, n]`, bias `[n]`; all of one type. Nothing if it [`takes`] none of that type or the numbers of
/// axes differ.
pub(crate) fn multiply(a: &CubeTensor, b: &CubeTensor, bias: Option<&CubeTensor>) -> Option<CubeTensor> {
    let dtype = a.dtype();
    let plain = |x: &CubeTensor| x.dtype() == dtype && x.qparams.is_none() && !x.meta.is_tiled();
    if !takes(a, dtype) || !plain(a) || !plain(b) || !bias.is_none_or(plain) || a.rank() != b.rank() || a.rank() < 2 {
        return None;
    }
    let stack = batch(a, b)?;
    let (axes, [a_shape, b_shape]) = (stack.len(), [a, b].map(TensorMetadata::shape));
    let (m, k, n) = (a_shape[axes], a_shape[axes + 1], b_shape[axes + 1]);
    let shape: Vec<usize> = stack.iter().copied().chain([m, n]).collect();
    let count = stack.iter().product::<usize>();
    if k != b_shape[axes] {
        return None;
    }
    if count * m * n * k == 0 {
        // cuBLASLt knows no empty matrices.
        return bias.is_none().then(|| zeros_client(a.client.clone(), a.device.clone(), Shape::from(shape), dtype));
    }
    let out = empty_device_contiguous_dtype(a.client.clone(), a.device.clone(), Shape::from(shape), dtype);
    let (mut left, mut right) = (Operand::new(a, &stack), Operand::new(b, &stack));
    let (mut rows, mut count) = (m, count);
    if count > 1 && right.batch_stride == 0 && left.stack_rows(m) {
        // One matrix to all: the rows of all stacks are those of one.
        (rows, count) = (m * count, 1);
        (left.batch_stride, right.batch_stride) = (0, 0);
    }
    let problem = Problem { dtype, rows, columns: n, inner: k, count, left: left.lie(), right: right.lie(), bias: bias.is_some() };
    queue::submit(problem, [&left.tensor, &right.tensor], bias, &out);
    Some(out)
}
