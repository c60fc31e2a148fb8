use burn::{
    backend::{Cube, TensorMetadata, ops::FloatTensorOps},
    tensor::{DType, Shape},
};
use burn_cubecl::tensor::CubeTensor;
use cubecl::{ir::ElemType, prelude::*};

use super::{
    form::{Form, shared_bytes},
    prepare, prepare_cells,
};
use crate::{
    blocks::cube::{
        address_type, element, empty, rows,
        tensors::{buffer, dims, tile_element, tile_type, vector_size, with_whole_rows},
        tile_product::PLANE,
    },
    kimi_delta::kernel::{Inputs, Options},
};

/// The widest heads that the registers of a cube hold a state of.
const WIDEST: usize = 128;
/// Planes of a cube that carries a state.
const PLANES: usize = 8;
/// Planes of a cube that has one chunk: its tiles leave room for one cube per processor, which needs more planes to stay busy.
const CHUNK_PLANES: usize = 16;

/// Whether the kernels take heads of this type and these widths.
pub(in super::super) fn takes(client: &Client, dtype: DType, d_k: usize, d_v: usize) -> bool {
    let room = client.properties().hardware.max_shared_memory_size;
    matches!(dtype, DType::F32 | DType::BF16 | DType::F16)
        && d_k.max(d_v) <= WIDEST
        && shared_bytes(&form(client, dtype, [d_k, d_v], usize::MAX)) <= room
        && client.properties().hardware.max_units_per_cube as usize >= CHUNK_PLANES * PLANE
}

/// Tokens per chunk.
pub(super) fn chunk_size(client: &Client, dtype: DType) -> usize {
    if tile_type(client, dtype).1 { 64 } else { 32 }
}

/// For `heads` in all batches.
fn form(client: &Client, dtype: DType, widths: [usize; 2], heads: usize) -> Form {
    let (tile, tensor_cores) = tile_type(client, dtype);
    let [d_k, d_v] = widths.map(|width| width.next_multiple_of(16));
    let processors = client.properties().hardware.num_streaming_multiprocessors.unwrap_or(16) as usize;
    // Thin slices where heads are too few for all processors, or nearly all: each reads the keys again.
    let enough = |slice: &usize| d_v.is_multiple_of(*slice) && heads.saturating_mul(8 * d_v / slice) >= 7 * processors;
    let slice = [64, 32].into_iter().find(enough).unwrap_or(16);
    Form { chunk: chunk_size(client, dtype), d_k, d_v, slice, element: tile.size(), tensor_cores, planes: PLANES }
}

/// `[B, T, H, n]` as `[B, H, T, n]`, in place.
pub(super) fn heads_first(x: CubeTensor) -> CubeTensor {
    Cube::float_swap_dims(x, 1, 2)
}

/// The reverse of [`heads_first`].
pub(super) fn tokens_first(x: CubeTensor) -> CubeTensor {
    Cube::float_swap_dims(x, 1, 2)
}

/// The inputs as the kernels read them.
pub(super) struct Problem {
    /// `[B, H, T, K]`
    pub(super) q: CubeTensor,
    /// `[B, H, T, K]`
    pub(super) k: CubeTensor,
    /// `[B, W, T, V]`
    pub(super) v: CubeTensor,
    /// `[B, W, T, K]` or `[B, W, T, 1]`
    pub(super) g: CubeTensor,
    /// `[B, W, T, 1]`
    pub(super) beta: CubeTensor,
    /// `[B, W, K, V]`
    pub(super) state: CubeTensor,
    pub(super) scale: f32,
    pub(super) tokens: usize,
    pub(super) chunks: usize,
    pub(super) form: Form,
    /// The type of tiles.
    pub(super) tile: DType,
}

/// What of the chunks does not depend on the state; see [`prepare::prepare`].
pub(super) struct Prepared {
    pub(super) q_start: CubeTensor,
    pub(super) k_end: CubeTensor,
    pub(super) w: CubeTensor,
    pub(super) u: CubeTensor,
    pub(super) scores: CubeTensor,
    pub(super) inverse: CubeTensor,
    pub(super) total: CubeTensor,
}

impl Problem {
    pub(super) fn new(inputs: Inputs<Cube>, options: &Options) -> Self {
        assert!(options.boundaries.is_none(), "packed sequences come one by one");
        let Inputs { q, k, v, g, beta, state } = inputs;
        let [b, t, w] = beta.shape().dims();
        let beta = Cube::float_reshape(beta, Shape::from([b, t, w, 1]));
        let [q, k, v, g, beta] = [q, k, v, g, beta].map(|x| with_whole_rows(heads_first(x)));
        let (d_k, d_v) = (dims(&q)[3], dims(&v)[3]);
        let form = form(&v.client, v.dtype, [d_k, d_v], b * w);
        let tile = tile_type(&v.client, v.dtype).0;
        let (tokens, chunks) = (t, t.div_ceil(form.chunk));
        Self { q, k, v, g, beta, state: rows(state), scale: options.scale as f32, tokens, chunks, form, tile }
    }

    /// For kernels that have one chunk.
    pub(super) fn by_chunk(&self) -> Form {
        Form { planes: CHUNK_PLANES, ..self.form }
    }

    /// A cube per head and slice of columns.
    pub(super) fn slices(&self) -> CubeCount {
        let [b, w, ..] = dims(&self.state);
        CubeCount::Static((self.form.d_v / self.form.slice) as u32, (b * w) as u32, 1)
    }

    /// A cube per chunk, head and one of `parts`.
    pub(super) fn all_chunks(&self, parts: usize) -> CubeCount {
        let [b, w, ..] = dims(&self.state);
        CubeCount::Static(self.chunks as u32, (b * w) as u32, parts as u32)
    }

    /// The types of tensors and of tiles.
    pub(super) fn types(&self) -> [ElemType; 2] {
        [element(&self.v), tile_element(self.tile)]
    }

    /// Elements of a vector of 16 bytes of tiles, as scratch is read and written: its rows are whole numbers of such.
    pub(super) fn vector(&self) -> usize {
        16 / self.form.element
    }

    /// With the inverses if `keep`.
    pub(super) fn prepare(&self, keep: bool) -> Prepared {
        let [b, w, ..] = dims(&self.state);
        let form = if self.form.tensor_cores { self.form.by_cells() } else { self.by_chunk() };
        let scratch = |rows: usize, width: usize, dtype: DType| empty(&self.v, [b * w, self.chunks, rows, width], dtype);
        let [q_start, k_end, of_state] = [(); 3].map(|()| scratch(form.chunk, form.d_k, self.tile));
        let u = scratch(form.chunk, form.d_v, self.tile);
        let scores = scratch(form.chunk, form.chunk, self.tile);
        let inverse = if keep { scratch(form.chunk, form.chunk, self.tile) } else { empty(&self.v, [1; 4], self.tile) };
        let total = scratch(1, form.d_k, DType::F32);
        let (client, address) = (&self.v.client, address_type(&[&self.q, &self.k, &self.v, &self.g, &of_state, &u]));
        let vector = vector_size(&[&self.q, &self.k, &self.v], self.tile);
        // SAFETY: the kernels check tokens and columns against the shapes; scratch has room for whole chunks.
        macro_rules! launch {
            ($($kernel:ident)::+, $($pairs:expr)?) => {
                unsafe {
                    $($kernel)::+::launch_unchecked(
                        client,
                        self.all_chunks(1),
                        form.cube(),
                        address,
                        self.vector(),
                        vector,
                        $($pairs,)?
                        self.q.clone().into_tensor_arg(),
                        self.k.clone().into_tensor_arg(),
                        self.v.clone().into_tensor_arg(),
                        self.g.clone().into_tensor_arg(),
                        self.beta.clone().into_tensor_arg(),
                        buffer(&q_start),
                        buffer(&k_end),
                        buffer(&of_state),
                        buffer(&u),
                        buffer(&scores),
                        buffer(&inverse),
                        buffer(&total),
                        self.scale,
                        keep,
                        form,
                        self.types(),
                    );
                }
            };
        }
        if form.tensor_cores {
            launch!(prepare_cells::prepare_cells, vector_size(&[&self.g], DType::F32).min(2));
        } else {
            launch!(prepare::prepare,);
        }
        Prepared { q_start, k_end, w: of_state, u, scores, inverse, total }
    }
}
