use burn::{
    backend::TensorMetadata,
    tensor::{DType, Shape},
};
use burn_cubecl::{kernel::into_contiguous, ops::numeric::empty_device_contiguous_dtype, tensor::CubeTensor};
use cubecl::{
    client::Client,
    features::MmaConfig,
    ir::{AddressType, ElemType, FloatKind},
};

/// The tensor with its rows one after another: a copy only if they are not.
pub(crate) fn rows(tensor: CubeTensor) -> CubeTensor {
    into_contiguous(tensor)
}

/// A tensor that is not written yet, on the device of `like`.
pub(crate) fn empty<const D: usize>(like: &CubeTensor, shape: [usize; D], dtype: DType) -> CubeTensor {
    empty_device_contiguous_dtype(like.client.clone(), like.device.clone(), Shape::from(shape), dtype)
}

/// The element type that a kernel over `tensor` is compiled for.
///
/// # Panics
/// If it is no float type.
pub(crate) fn element(tensor: &CubeTensor) -> ElemType {
    ElemType::Float(match tensor.dtype() {
        DType::F64 => FloatKind::F64,
        DType::F32 => FloatKind::F32,
        DType::F16 => FloatKind::F16,
        DType::BF16 => FloatKind::BF16,
        dtype => unreachable!("kernels are launched on float tensors, not {dtype:?}"),
    })
}

/// The integers that index the longest of the tensors.
pub(crate) fn address_type(tensors: &[&CubeTensor]) -> AddressType {
    tensors.iter().map(|tensor| tensor.required_address_type()).max().unwrap_or_default()
}

/// Whether planes of 32 units multiply tiles of 16×16 by 16×8 of this element type in registers, with sums in f32, and load them by
/// `ldmatrix` and by asynchronous copies: NVIDIA's, from compute capability 8.0.
pub(crate) fn has_matrix_units(client: &Client, element: ElemType) -> bool {
    let features = client.features();
    let product = MmaConfig { a_type: element, b_type: element, cd_type: ElemType::Float(FloatKind::F32), m: 16, n: 8, k: 16 };
    features.matmul.mma.contains(&product) && features.matmul.ldmatrix.contains(&element) && features.copy_async
}

/// Whether the device runs NVIDIA's PTX, with planes of 32 units.
pub(crate) fn is_nvidia(client: &Client) -> bool {
    client.properties().identity.fingerprint.starts_with("ptx_sm")
}

/// Whether four planes multiply tiles of shared memory together (`wgmma`): NVIDIA's compute capability 9.0 alone has it, and kernels must
/// be compiled for just that.
pub(crate) fn has_warpgroups(client: &Client) -> bool {
    cfg!(feature = "cuda") && client.properties().identity.fingerprint == "ptx_sm90"
}
