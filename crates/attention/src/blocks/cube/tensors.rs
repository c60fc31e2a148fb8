//! Between tensors and the arguments of kernels.

use burn::{
    backend::{TensorMetadata, cubecl::dtype_to_storage_type},
    tensor::{DType, Shape},
};
use burn_cubecl::{kernel::into_contiguous, ops::numeric::empty_device_contiguous_dtype, tensor::CubeTensor};
use cubecl::{
    ir::{ElemType, FloatKind, features::MmaConfig},
    prelude::*,
};

use super::tile_product::{COLUMNS, INNER, PLANE, ROWS};

/// The axes `[B, H, T, width]`.
pub(crate) fn dims(x: &CubeTensor) -> [usize; 4] {
    x.shape().dims()
}

/// The tensor with numbers of a row side by side in memory, copied if they are not.
pub(crate) fn with_whole_rows(x: CubeTensor) -> CubeTensor {
    let rows = !x.meta.is_tiled() && (x.meta.strides()[3] == 1 || x.meta.shape()[3] == 1);
    if rows { x } else { into_contiguous(x) }
}

/// The tensor with its numbers in order, copied if they are not.
pub(crate) fn in_order(x: CubeTensor) -> CubeTensor {
    into_contiguous(x)
}

/// A tensor `[B, H, T, width]` to be filled, whose tokens lie before its heads in memory if those of `like` do: what reads it after
/// swapping the axes again needs no copy.
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

/// A contiguous tensor of f32 to be filled.
pub(crate) fn empty_f32<const D: usize>(like: &CubeTensor, dims: [usize; D]) -> CubeTensor {
    empty_device_contiguous_dtype(like.client.clone(), like.device.clone(), Shape::from(dims), DType::F32)
}

/// Numbers of the host, on the device of `like`.
pub(crate) fn constant(like: &CubeTensor, values: &[f32]) -> BufferArg {
    let handle = like.client.create_from_slice(f32::as_bytes(values));
    // SAFETY: the buffer was made of these numbers.
    unsafe { BufferArg::from_raw_parts(handle, values.len()) }
}

/// The largest number of elements, up to 16 bytes, in which the rows of all tensors can be read at once.
pub(crate) fn vector_size(tensors: &[&CubeTensor]) -> usize {
    let fits = |size: usize, x: &CubeTensor| {
        let axes = x.meta.shape().iter().zip(x.meta.strides().iter()).enumerate();
        axes.into_iter().all(|(axis, (&length, &stride))| length == 1 && axis != 3 || (if axis == 3 { length } else { stride }) % size == 0)
    };
    let widest = tensors.iter().map(|x| 16 / x.dtype.size()).min().unwrap_or(1);
    (0..4).map(|i| 8 >> i).find(|&size| size <= widest && tensors.iter().all(|x| fits(size, x))).unwrap_or(1)
}

/// Integers wide enough to index all tensors.
pub(crate) fn address_type(tensors: &[&CubeTensor]) -> AddressType {
    tensors.iter().map(|x| x.required_address_type()).max().unwrap_or_default()
}

/// The element type of kernels.
pub(crate) fn element(dtype: DType) -> ElemType {
    dtype_to_storage_type(dtype)
}

/// The type of tiles in shared memory, and whether tensor cores multiply them. Sums without a denominator overflow f16, so tiles of
/// f16 tensors are f32.
pub(crate) fn tile_type(client: &Client, dtype: DType) -> (DType, bool) {
    let bf16 = ElemType::Float(FloatKind::BF16);
    let instruction = MmaConfig {
        a_type: bf16,
        b_type: bf16,
        cd_type: ElemType::Float(FloatKind::F32),
        m: ROWS as u32,
        n: COLUMNS as u32,
        k: INNER as u32,
    };
    let properties = client.properties();
    let matmul = &properties.features.matmul;
    let tensor_cores =
        properties.hardware.plane_size_min == PLANE as u32 && matmul.mma.contains(&instruction) && matmul.ldmatrix.contains(&bf16);
    if dtype == DType::BF16 && tensor_cores { (DType::BF16, true) } else { (DType::F32, false) }
}
