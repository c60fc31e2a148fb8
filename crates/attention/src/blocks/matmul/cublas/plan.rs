//! What cuBLASLt has to be told of a product, made once for each kind of product.

use std::ptr;

use burn::tensor::DType;
use cudarc::cublaslt::{
    result::{self, CublasError},
    sys::{self, cublasComputeType_t::CUBLAS_COMPUTE_32F, cudaDataType_t::CUDA_R_32F},
};

/// How a stack of matrices lies in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Lie {
    /// The columns lie one after another, not the rows.
    pub(super) turned: bool,
    /// Distance of rows, or of columns of a turned matrix.
    pub(super) leading: usize,
    /// Distance of matrices.
    pub(super) batch_stride: usize,
}

/// A stack of `count` products `rows × inner` by `inner × columns`, whose results lie one after another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Problem {
    pub(super) dtype: DType,
    pub(super) rows: usize,
    pub(super) columns: usize,
    pub(super) inner: usize,
    pub(super) count: usize,
    pub(super) left: Lie,
    pub(super) right: Lie,
    /// Whether a number for each column is added.
    pub(super) bias: bool,
}

/// Bytes of memory that a product may work in: what NVIDIA recommends for its compute capability 9.0.
pub(super) const WORKSPACE: usize = 32 << 20;

/// Largest number of bytes that the library asks addresses to be multiples of.
const ALIGNMENT: u64 = 256;

/// Addresses of a product on the device.
#[derive(Clone, Copy, Debug)]
pub(super) struct Addresses {
    pub(super) left: u64,
    pub(super) right: u64,
    pub(super) bias: Option<u64>,
    pub(super) out: u64,
    pub(super) workspace: u64,
}

impl Addresses {
    /// Powers of two that the addresses are multiples of.
    pub(super) fn alignments(&self) -> [u32; 3] {
        [self.left, self.right, self.out].map(|address| 1 << (address | ALIGNMENT).trailing_zeros())
    }
}

/// The library's descriptions of a product, and its choice of a kernel. They live as long as the thread that keeps them.
pub(super) struct Plan {
    product: sys::cublasLtMatmulDesc_t,
    left: sys::cublasLtMatrixLayout_t,
    right: sys::cublasLtMatrixLayout_t,
    out: sys::cublasLtMatrixLayout_t,
    kernel: sys::cublasLtMatmulAlgo_t,
}

impl Plan {
    /// The library stores matrices by columns: what it computes is `outᵀ = rightᵀ leftᵀ`, whose memory is that of the rows of `out`.
    pub(super) fn new(handle: sys::cublasLtHandle_t, problem: &Problem, [left, right, out]: [u32; 3]) -> Result<Self, CublasError> {
        use sys::{
            cublasLtEpilogue_t as Epilogue, cublasLtMatmulDescAttributes_t as Attribute, cublasLtMatmulPreferenceAttributes_t as Wish,
        };
        let Problem { dtype, rows, columns, inner, count, .. } = *problem;
        let kind = match dtype {
            DType::BF16 => sys::cudaDataType_t::CUDA_R_16BF,
            DType::F16 => sys::cudaDataType_t::CUDA_R_16F,
            _ => CUDA_R_32F,
        };
        let layout = |lie: &Lie, rows: usize, columns: usize| {
            let (height, width) = if lie.turned { (rows, columns) } else { (columns, rows) };
            let layout = result::create_matrix_layout(kind, height as u64, width as u64, lie.leading as i64)?;
            if count > 1 {
                let set = |attribute, value: *const _, size| unsafe {
                    // SAFETY: the layout has just been made, and the attributes are numbers of these sizes.
                    result::set_matrix_layout_attribute(layout, attribute, value, size)
                };
                let (count, stride) = (count as i32, lie.batch_stride as i64);
                set(sys::cublasLtMatrixLayoutAttribute_t::CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, ptr::from_ref(&count).cast(), 4)?;
                set(sys::cublasLtMatrixLayoutAttribute_t::CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, ptr::from_ref(&stride).cast(), 8)?;
            }
            Ok::<_, CublasError>(layout)
        };
        let product = result::create_matmul_desc(CUBLAS_COMPUTE_32F, CUDA_R_32F)?;
        let set = |attribute, value: u32| unsafe {
            // SAFETY: the description has just been made, and the attribute is a number of this size.
            result::set_matmul_desc_attribute(product, attribute, ptr::from_ref(&value).cast(), 4)
        };
        // Its first matrix is our second.
        set(Attribute::CUBLASLT_MATMUL_DESC_TRANSA, u32::from(problem.right.turned))?;
        set(Attribute::CUBLASLT_MATMUL_DESC_TRANSB, u32::from(problem.left.turned))?;
        if problem.bias {
            set(Attribute::CUBLASLT_MATMUL_DESC_EPILOGUE, Epilogue::CUBLASLT_EPILOGUE_BIAS as u32)?;
        }
        let packed = Lie { turned: false, leading: columns, batch_stride: rows * columns };
        let (first, second) = (layout(&problem.right, inner, columns)?, layout(&problem.left, rows, inner)?);
        let result = layout(&packed, rows, columns)?;
        let wishes = result::create_matmul_pref()?;
        let wish = |attribute, value: *const _, size| unsafe {
            // SAFETY: the wishes have just been made, and the attributes are numbers of these sizes.
            result::set_matmul_pref_attribute(wishes, attribute, value, size)
        };
        wish(Wish::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, ptr::from_ref(&WORKSPACE).cast(), 8)?;
        for (attribute, bytes) in [
            (Wish::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, right),
            (Wish::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, left),
            (Wish::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, out),
            (Wish::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, out),
        ] {
            wish(attribute, ptr::from_ref(&bytes).cast(), 4)?;
        }
        // SAFETY: all of these have just been made; the wishes are used no more after they are destroyed.
        let chosen = unsafe {
            let chosen = result::get_matmul_algo_heuristic(handle, product, first, second, result, result, wishes);
            result::destroy_matmul_pref(wishes)?;
            chosen?
        };
        Ok(Self { product, left: second, right: first, out: result, kernel: chosen.algo })
    }

    /// Queues the product on a stream.
    ///
    /// # Safety
    /// The plan was made by this library handle; the addresses hold the matrices of its problem, none of them freed or written before the
    /// stream has come past, and have its alignments; the workspace has [`WORKSPACE`] bytes that nothing else on the stream uses at the
    /// same time.
    pub(super) unsafe fn run(
        &self,
        handle: sys::cublasLtHandle_t,
        addresses: &Addresses,
        stream: sys::cudaStream_t,
    ) -> Result<(), CublasError> {
        let (one, zero) = (1.0_f32, 0.0_f32);
        let [left, right, out, workspace] =
            [addresses.left, addresses.right, addresses.out, addresses.workspace].map(|address| address as *mut std::ffi::c_void);
        if let Some(bias) = addresses.bias {
            let attribute = sys::cublasLtMatmulDescAttributes_t::CUBLASLT_MATMUL_DESC_BIAS_POINTER;
            // SAFETY: the description lives as long as the plan; the library reads the address in the call below.
            unsafe { result::set_matmul_desc_attribute(self.product, attribute, ptr::from_ref(&bias).cast(), 8)? };
        }
        // SAFETY: the descriptions live as long as the plan, the rest is the caller's promise.
        unsafe {
            result::matmul(
                handle,
                self.product,
                ptr::from_ref(&one).cast(),
                ptr::from_ref(&zero).cast(),
                right,
                self.right,
                left,
                self.left,
                out,
                self.out,
                out,
                self.out,
                &raw const self.kernel,
                workspace,
                WORKSPACE,
                stream,
            )
        }
    }
}
