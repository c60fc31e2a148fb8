use burn::tensor::DType;
use burn_cubecl::tensor::CubeTensor;
use cubecl::{prelude::*, server::Handle};

use super::kernels::{self, Form};
use crate::blocks::{
    cube::{
        address_type, element, empty,
        tensors::{buffer, empty_like, tile_element, tile_type, vector_size},
        tile_product::PLANE,
    },
    decayed_product::Plan,
};

/// The order in which a sweep goes over the tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Direction {
    /// The output of a token depends on those up to it.
    Past,
    /// The output of a token depends on those from it on.
    Future,
}

/// The widest inner axis that the registers of a cube hold a state of.
const WIDEST: usize = 128;
/// Planes of a cube.
const PLANES: usize = 8;

/// How a head is cut.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lanes {
    block: usize,
    inner: usize,
    outer: usize,
    tile: DType,
    tensor_cores: bool,
}

impl Lanes {
    /// For heads with `inner` columns of `a` and `b` and `outer` of `c`, if their tiles have room in the shared memory of the device.
    pub(super) fn new(client: &Client, dtype: DType, inner: usize, outer: usize) -> Option<Self> {
        let (tile, tensor_cores) = tile_type(client, dtype);
        let inner = inner.next_multiple_of(16);
        let room = client.properties().hardware.max_shared_memory_size;
        let blocks: &[usize] = if tensor_cores { &[64, 32, 16] } else { &[32, 16] };
        let cuts = blocks.iter().flat_map(|&block| [WIDEST, WIDEST / 2, WIDEST / 4].map(|outer| (block, outer)));
        let outer = outer.next_multiple_of(16);
        let lanes = |(block, widest): (usize, usize)| Self { block, inner, outer: outer.min(widest), tile, tensor_cores };
        let fits = |lanes: &Self| lanes.form(Direction::Past, false).shared_bytes(tile.size()) <= room;
        (inner <= WIDEST).then(|| cuts.map(lanes).find(fits)).flatten()
    }

    fn form(&self, direction: Direction, state_turned: bool) -> Form {
        Form {
            block: self.block,
            inner: self.inner,
            outer: self.outer,
            future: direction == Direction::Future,
            state_turned,
            tensor_cores: self.tensor_cores,
            ahead: false,
            planes: PLANES,
        }
    }
}

impl Lanes {
    /// The form that copies the next block while it computes, if its rows can be copied so and there is room for both.
    fn ahead(&self, form: Form, vector: usize, client: &Client) -> Form {
        let ahead = Form { ahead: self.tensor_cores && vector * self.tile.size() == 16, ..form };
        let room = client.properties().hardware.max_shared_memory_size;
        if ahead.shared_bytes(self.tile.size()) <= room { ahead } else { form }
    }
}

/// The tensors of a sweep.
#[derive(Clone, Copy)]
pub(super) struct Roles<'a> {
    /// `[B, H, T, inner]`
    pub(super) a: &'a CubeTensor,
    /// `[B, H, T, inner]`
    pub(super) b: &'a CubeTensor,
    /// `[B, H, T, outer]`
    pub(super) c: &'a CubeTensor,
}

/// What every pass of the product is made of, forward and backward:
/// `out_t = Σ_s λ^|t-s| (a_t · b_s) c_s` over the tokens s on one side of t, t included, by segments that run in parallel: what each
/// adds to the state `Σ_s b_sᵀ c_s`, the states before them, their outputs block by block.
pub(super) struct Sweep<'a> {
    plan: &'a Plan,
    direction: Direction,
    dims: [usize; 4],
    outer: usize,
    lanes: Lanes,
    /// Tokens per segment, a multiple of the block.
    length: usize,
    /// λ^0 … λ^C of each head, then those over a whole segment and over the last, computed in f64: one upload for all kernels.
    decays: Handle,
    /// How many they are.
    count: usize,
}

impl<'a> Sweep<'a> {
    /// For `a` and `b` of shape `dims` and `c` of width `outer`. Sweeps over the same tensors share their segments, whichever is `c`.
    pub(super) fn new(plan: &'a Plan, dims: [usize; 4], outer: usize, direction: Direction, like: &CubeTensor) -> Self {
        let lanes = |inner, outer| Lanes::new(&like.client, like.dtype, inner, outer).expect("`takes` has been asked");
        let (lanes, turned) = (lanes(dims[3], outer), lanes(outer, dims[3]));
        let [b, h, t, _] = dims;
        // Four cubes per processor, so that none is long without work.
        let processors = like.client.properties().hardware.num_streaming_multiprocessors.unwrap_or(16) as usize;
        let block = lanes.block.max(turned.block);
        let segments = (4 * processors / (b * h)).max(1);
        let length = t.div_ceil(segments).next_multiple_of(block).max(4 * block);
        let rest = t - (t.div_ceil(length) - 1) * length;
        let power = |slope: f64, tokens: usize| (-slope * tokens as f64).exp() as f32;
        let powers = plan.heads(h).flat_map(|slope| (0..=lanes.block).map(move |i| power(slope, i)));
        let over_segments = plan.heads(h).flat_map(|slope| [power(slope, length), power(slope, rest)]);
        let decays: Vec<f32> = powers.chain(over_segments).collect();
        let count = decays.len();
        let decays = like.client.create_from_slice(f32::as_bytes(&decays));
        Self { plan, direction, dims, outer, lanes, length, decays, count }
    }

    fn segments(&self) -> usize {
        self.dims[2].div_ceil(self.length)
    }

    fn cubes(&self, outer: usize) -> CubeCount {
        let [b, h, ..] = self.dims;
        CubeCount::Static(self.segments() as u32, (b * h) as u32, outer.div_ceil(self.lanes.outer) as u32)
    }

    fn decays(&self) -> BufferArg {
        // SAFETY: the buffer was made of these numbers.
        unsafe { BufferArg::from_raw_parts(self.decays.clone(), self.count) }
    }

    /// The factors on scores, on what is read of a state and on what is written into it.
    fn factors(&self) -> [f32; 3] {
        let scale = self.plan.scale as f32;
        match self.direction {
            Direction::Past => [scale, scale, 1.0],
            Direction::Future => [scale, 1.0, scale],
        }
    }

    /// The states before the segments `[B·H, segments, inner, outer]` and after all `[B, H, inner, outer]`, from the state before all.
    pub(super) fn states(&self, b: &CubeTensor, c: &CubeTensor, first: CubeTensor) -> (CubeTensor, CubeTensor) {
        let ([batch, h, _, inner], outer, segments) = (self.dims, self.outer, self.segments());
        let (matrices, size) = (batch * h, inner * outer);
        let states = empty(b, [matrices, segments, inner, outer], DType::F32);
        let last = empty(b, [batch, h, inner, outer], DType::F32);
        let client = b.client.clone();
        let vector = vector_size(&[b, c], self.lanes.tile);
        let form = self.lanes.ahead(self.lanes.form(self.direction, false), vector, &client);
        let address = address_type(&[b, c, &states]);
        let [_, _, write] = self.factors();
        // SAFETY: segments and slices are checked against the shapes; `states` has room for all of them.
        unsafe {
            kernels::increments::launch_unchecked(
                &client,
                self.cubes(outer),
                CubeDim::new_1d((PLANES * PLANE) as u32),
                address,
                vector,
                b.clone().into_tensor_arg(),
                c.clone().into_tensor_arg(),
                self.decays(),
                buffer(&states),
                self.length,
                write,
                form,
                [element(b), tile_element(self.lanes.tile)],
            );
            kernels::carry::launch_unchecked(
                &client,
                CubeCount::Static(size.div_ceil(256) as u32, matrices as u32, 1),
                CubeDim::new_1d(256),
                address,
                buffer(&states),
                buffer(&first),
                buffer(&last),
                self.decays(),
                self.count - 2 * h,
                size,
                segments,
                h,
                form.future,
            );
        }
        (states, last)
    }

    /// The outputs, given the states before the segments; `turned` if they lie as `[outer, inner]`.
    pub(super) fn outputs(&self, Roles { a, b, c }: Roles, states: &CubeTensor, turned: bool) -> CubeTensor {
        let [batch, h, t, _] = self.dims;
        let out = empty_like(a, [batch, h, t, self.outer], a.dtype);
        let [inside, read, write] = self.factors();
        let vector = vector_size(&[a, b, c, &out], self.lanes.tile);
        let form = self.lanes.ahead(self.lanes.form(self.direction, turned), vector, &a.client);
        // SAFETY: segments and slices are checked against the shapes; `states` are those of as many segments.
        unsafe {
            kernels::outputs::launch_unchecked(
                &a.client.clone(),
                self.cubes(self.outer),
                CubeDim::new_1d((PLANES * PLANE) as u32),
                address_type(&[a, b, c, states, &out]),
                vector,
                a.clone().into_tensor_arg(),
                b.clone().into_tensor_arg(),
                c.clone().into_tensor_arg(),
                self.decays(),
                buffer(states),
                out.clone().into_tensor_arg(),
                self.length,
                inside,
                read,
                write,
                form,
                [element(a), tile_element(self.lanes.tile)],
            );
        }
        out
    }
}
