//! Tensors `[B, H, T, width]` as kernels take them: rows whole in memory, heads and tokens in either order.

use burn::{
    backend::TensorMetadata,
    tensor::{DType, Shape},
};
use burn_cubecl::{ops::numeric::empty_device_contiguous_dtype, tensor::CubeTensor};
use cubecl::{
    ir::{ElemType, FloatKind},
    prelude::*,
};

use super::{has_matrix_units, rows, tile_product::PLANE};

/// The four axes.
pub(crate) fn dims(x: &CubeTensor) -> [usize; 4] {
    x.shape().dims()
}

/// The tensor with the numbers of a row side by side in memory, copied if they are not.
pub(crate) fn with_whole_rows(x: CubeTensor) -> CubeTensor {
    if !x.meta.is_tiled() && x.meta.strides()[3] == 1 { x } else { rows(x) }
}

/// A tensor to be filled, whose tokens lie before its heads in memory if those of `like` do: what reads it after swapping the axes
/// again needs no copy.
pub(crate) fn empty_like(like: &CubeTensor, [b, h, t, width]: [usize; 4], dtype: DType) -> CubeTensor {
    let empty = |dims: [usize; 4]| empty_device_contiguous_dtype(like.client.clone(), like.device.clone(), Shape::from(dims), dtype);
    let strides = like.meta.strides();
    if strides[1] < strides[2] {
        let mut turned = empty([b, t, h, width]);
        turned.meta.swap(1, 2);
        turned
    } else {
        empty([b, h, t, width])
    }
}

/// Numbers of the host, on the device of `like`.
pub(crate) fn constant(like: &CubeTensor, values: &[f32]) -> BufferArg {
    let handle = like.client.create_from_slice(f32::as_bytes(values));
    // SAFETY: the buffer was made of these numbers.
    unsafe { BufferArg::from_raw_parts(handle, values.len()) }
}

/// The whole of a contiguous tensor.
pub(crate) fn buffer(x: &CubeTensor) -> BufferArg {
    // SAFETY: it has this many numbers.
    unsafe { BufferArg::from_raw_parts(x.handle.clone(), x.meta.shape().num_elements()) }
}

/// The largest number of elements, up to 16 bytes of either type, in which the rows of all tensors can be read at once.
pub(crate) fn vector_size(tensors: &[&CubeTensor], tile: DType) -> usize {
    let fits = |size: usize, x: &CubeTensor| {
        let (shape, strides) = (x.meta.shape(), x.meta.strides());
        (0..3).all(|axis| shape[axis] == 1 || strides[axis] % size == 0) && shape[3] % size == 0
    };
    let bytes = tensors.iter().map(|x| x.dtype.size()).chain([tile.size()]).max().unwrap_or(4);
    [8, 4, 2].into_iter().find(|size| size * bytes <= 16 && tensors.iter().all(|x| fits(*size, x))).unwrap_or(1)
}

/// The type of tiles in shared memory for tensors of `dtype`, and whether matrix units multiply them. Sums without a denominator
/// overflow f16, so tiles of f16 tensors are f32.
pub(crate) fn tile_type(client: &Client, dtype: DType) -> (DType, bool) {
    let half = dtype == DType::BF16
        && client.properties().hardware.plane_size_min == PLANE as u32
        && has_matrix_units(client, ElemType::Float(FloatKind::BF16));
    if half { (DType::BF16, true) } else { (DType::F32, false) }
}

/// The element type that a kernel is compiled for.
///
/// # Panics
/// If it is none of tiles.
pub(crate) fn tile_element(dtype: DType) -> ElemType {
    match dtype {
        DType::BF16 => ElemType::Float(FloatKind::BF16),
        DType::F32 => ElemType::Float(FloatKind::F32),
        dtype => unreachable!("tiles are bf16 or f32, not {dtype:?}"),
    }
}
