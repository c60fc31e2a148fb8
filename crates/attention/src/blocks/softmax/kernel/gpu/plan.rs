//! Which tiles a problem is cut into.

use burn::{
    backend::{Cube, TensorMetadata},
    tensor::DType,
};

use super::{
    super::{Inputs, Maybe, MaybeBool, Options},
    Form, dims,
};
use crate::blocks::cube::{element, has_matrix_units, has_warpgroups, is_nvidia, tiles::Products};

/// Key and value widths up to which there are kernels.
const WIDEST: usize = 256;
/// Cubes along the second and third axis of a launch.
const CUBES: usize = 65_535;

/// The kernels of one problem.
#[derive(Clone, Copy, Debug)]
pub(in super::super) struct Plan {
    /// Numbers in a vector of 16 bytes.
    pub(super) lanes: usize,
    /// Widths in numbers, filled up with zeros.
    pub(super) key_width: usize,
    pub(super) value_width: usize,
    /// Whether all but the gradient of the bias are computed by warpgroups.
    pub(super) warpgroups: bool,
    pub(super) forward: Form,
    /// Backward: gradients of queries, of keys and values, of the bias.
    pub(super) queries: Form,
    pub(super) keys: Form,
    pub(super) bias: Form,
}

impl Plan {
    /// None for f64, rows of more than 256 numbers, shared memory that is too small, and devices other than NVIDIA's, on which the kernels
    /// have not been tried.
    pub(in super::super) fn new(inputs: &Inputs<Cube>, options: Options) -> Option<Self> {
        let ([b, h, t, k_width], [_, _, s, v_width]) = (dims(&inputs.q), dims(&inputs.v));
        let client = &inputs.q.client;
        let half = match inputs.q.dtype() {
            DType::F16 | DType::BF16 => true,
            DType::F32 => false,
            _ => return None,
        };
        let launches = b.max(h).max(t.div_ceil(16)) <= CUBES && b * h <= CUBES && b * h * t * s > 0;
        if !launches || k_width.max(v_width) > WIDEST || v_width == 0 || !is_nvidia(client) {
            return None;
        }
        let lanes = if half { 8 } else { 4 };
        let matrix_units = half && has_matrix_units(client, element(&inputs.q));
        let (key_width, value_width) = (k_width.next_multiple_of(16), v_width.next_multiple_of(16));
        let whole = |width| width == 64 || width == 128;
        let warpgroups = matrix_units && has_warpgroups(client) && whole(key_width) && whole(value_width) && t > 64;
        let form = |m_tiles, n_tiles| Form {
            products: Products { matrix_units },
            causal: options.causal,
            bias: matches!(inputs.bias, Maybe::Some(_)),
            distances: matches!(inputs.distances, Maybe::Some(_)),
            padding: matches!(inputs.padding, MaybeBool::Some(_)),
            plain: options.scale > 0.0 && matches!((&inputs.bias, &inputs.distances), (Maybe::None, Maybe::None)),
            key_width: key_width / lanes,
            value_width: value_width / lanes,
            planes: 4,
            m_tiles,
            n_tiles,
        };
        // Two tiles of rows read each fragment of the other operand once: shared memory bounds the speed of matrix units. Sums of
        // wide rows leave registers for one.
        let narrow = matrix_units && key_width.max(value_width) <= 128;
        let m_tiles = if narrow && t > 64 { 2 } else { 1 };
        let mut plan = Self {
            lanes,
            key_width,
            value_width,
            warpgroups,
            forward: form(m_tiles, if narrow { 8 } else { 4 }),
            queries: form(m_tiles, 4),
            keys: form(1, if narrow { 8 } else { 4 }),
            bias: form(1, 4),
        };
        if warpgroups {
            let pair = Form { planes: 8, ..form(1, 8) };
            (plan.forward, plan.queries, plan.keys) = (pair, pair, pair);
        }
        let room = client.properties().hardware.max_shared_memory_size;
        let fits = [plan.forward, plan.queries, plan.keys, plan.bias].iter().all(|form| form.shared_memory() <= room);
        fits.then_some(plan)
    }
}

impl Form {
    /// Bytes of shared memory, at most: two tiles of rows, twice two of columns, numbers exchanged within planes.
    fn shared_memory(&self) -> usize {
        let pairs = if self.products.matrix_units { 2 } else { 1 };
        let vectors = (self.rows() + pairs * self.columns()) * (self.key_width + self.value_width + 2);
        let exchange = if self.products.matrix_units { 0 } else { self.rows() * self.columns() };
        16 * vectors + 4 * (exchange + (self.planes + 2) * self.columns())
    }
}
