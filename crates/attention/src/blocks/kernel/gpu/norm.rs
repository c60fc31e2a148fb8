//! Norms of rows, with the sum that they are of, forward and backward.

use burn::tensor::DType;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::{Flat, vector_of};
use crate::blocks::cube::{address_type, element, empty, tensors::buffer, tile_product::PLANE};

/// What is fixed when a kernel is compiled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Form {
    /// Vectors of a row that a unit holds.
    turns: usize,
    /// Planes that share a row; 1: each plane of the cube has its own.
    sharing: usize,
    /// Whether the mean is taken off.
    center: bool,
    /// Whether two inputs are added first; in the backward pass whether there is a gradient of their sum.
    adds: bool,
    weighted: bool,
}

/// Planes of a cube whose planes have rows of their own.
const PLANES: usize = 8;

impl Form {
    /// For rows of `vectors`, if the registers of a cube have room for one.
    fn new(vectors: usize, center: bool, adds: bool, weighted: bool) -> Option<Self> {
        let sharing = if vectors <= 4 * PLANE { 1 } else { vectors.div_ceil(2 * PLANE).clamp(2, 32) };
        let turns = vectors.div_ceil(sharing * PLANE);
        (turns <= 8).then_some(Self { turns, sharing, center, adds, weighted })
    }

    fn planes(&self) -> usize {
        if self.sharing == 1 { PLANES } else { self.sharing }
    }

    /// Rows that a cube works on at once.
    fn rows(&self) -> usize {
        self.planes() / self.sharing
    }

    fn cube(&self) -> CubeDim {
        CubeDim::new_1d((self.planes() * PLANE) as u32)
    }
}

/// The unit's place among those of its row.
#[cube]
fn place(#[comptime] form: Form) -> usize {
    if comptime!(form.sharing == 1) { UNIT_POS_PLANE as usize } else { UNIT_POS as usize }
}

/// The sum of all numbers that the units of a row hold; the cube waits if its planes share the row.
#[cube]
fn total<N: Size>(values: Vector<f32, N>, planes: &mut Shared<[f32]>, #[comptime] form: Form) -> f32 {
    let mut sum = 0.0f32;
    #[unroll]
    for i in 0..N::value().comptime() {
        sum += values.extract(i);
    }
    let sum = plane_sum(sum);
    if comptime!(form.sharing == 1) {
        sum
    } else {
        // Nobody may still read the last sums.
        sync_cube();
        if UNIT_POS_PLANE == 0 {
            planes[UNIT_POS as usize / PLANE] = sum;
        }
        sync_cube();
        let mut all = 0.0f32;
        #[unroll]
        for plane in 0..comptime!(form.sharing) {
            all += planes[plane];
        }
        all
    }
}

/// A row less its mean, and the reciprocal root of its variance.
#[cube]
fn standardise<N: Size>(
    held: &mut Array<Vector<f32, N>>,
    planes: &mut Shared<[f32]>,
    width: usize,
    epsilon: f32,
    #[comptime] form: Form,
) -> f32 {
    let place = place(form);
    let count = f32::cast_from(width * N::value());
    if comptime!(form.center) {
        let mut sums = Vector::new(0.0f32);
        #[unroll]
        for turn in 0..comptime!(form.turns) {
            sums += held[turn];
        }
        let mean = total::<N>(sums, planes, form) / count;
        #[unroll]
        for turn in 0..comptime!(form.turns) {
            if place + turn * comptime!(form.sharing * PLANE) < width {
                held[turn] -= Vector::new(mean);
            }
        }
    }
    let mut squares = Vector::new(0.0f32);
    #[unroll]
    for turn in 0..comptime!(form.turns) {
        squares += held[turn] * held[turn];
    }
    let variance = total::<N>(squares, planes, form) / count;
    1.0f32 / (variance + epsilon).sqrt()
}

#[cube(launch_unchecked, address_type = "dynamic")]
fn forward_kernel<E: Float, N: Size>(
    x: &[Vector<E, N>],
    update: &[Vector<E, N>],
    gamma: &[Vector<E, N>],
    sum: &mut [Vector<E, N>],
    y: &mut [Vector<E, N>],
    rows: usize,
    width: usize,
    epsilon: f32,
    #[comptime] form: Form,
    #[define(E)] _type: ElemType,
) {
    let mut planes = Shared::<[f32]>::new_slice(form.sharing);
    let place = place(form);
    let own = if comptime!(form.sharing == 1) { UNIT_POS as usize / PLANE } else { 0usize.runtime() };
    let row = CUBE_POS * comptime!(form.rows()) + own;
    if row < rows {
        let mut held = Array::<Vector<f32, N>>::new(form.turns);
        #[unroll]
        for turn in 0..comptime!(form.turns) {
            let column = place + turn * comptime!(form.sharing * PLANE);
            held[turn] = Vector::new(0.0f32);
            if column < width {
                let at = row * width + column;
                let mut value = Vector::<f32, N>::cast_from(x[at]);
                if comptime!(form.adds) {
                    // The norm is that of the sum as it is kept.
                    let kept = Vector::<E, N>::cast_from(value + Vector::<f32, N>::cast_from(update[at]));
                    sum[at] = kept;
                    value = Vector::<f32, N>::cast_from(kept);
                }
                held[turn] = value;
            }
        }
        let scale = standardise::<N>(&mut held, &mut planes, width, epsilon, form);
        #[unroll]
        for turn in 0..comptime!(form.turns) {
            let column = place + turn * comptime!(form.sharing * PLANE);
            if column < width {
                let mut value = held[turn] * Vector::new(scale);
                if comptime!(form.weighted) {
                    value *= Vector::<f32, N>::cast_from(gamma[column]);
                }
                y[row * width + column] = Vector::cast_from(value);
            }
        }
    }
}

/// With `h = (x − mean) r`, `u = γ ⊙ dy`: `dx = r (u − mean(u) − h · mean(h ⊙ u))`, to which `more` is added; and of each cube's rows
/// `Σ dy ⊙ h`.
#[cube(launch_unchecked, address_type = "dynamic")]
fn backward_kernel<E: Float, N: Size>(
    x: &[Vector<E, N>],
    dy: &[Vector<E, N>],
    more: &[Vector<E, N>],
    gamma: &[Vector<E, N>],
    dx: &mut [Vector<E, N>],
    partial: &mut [f32],
    rows: usize,
    width: usize,
    epsilon: f32,
    #[comptime] form: Form,
    #[define(E)] _type: ElemType,
) {
    let size = N::value().comptime();
    let mut planes = Shared::<[f32]>::new_slice(form.sharing);
    let place = place(form);
    let count = f32::cast_from(width * size);
    let mut of_gamma = Array::<Vector<f32, N>>::new(form.turns);
    #[unroll]
    for turn in 0..comptime!(form.turns) {
        of_gamma[turn] = Vector::new(0.0f32);
    }
    let own = if comptime!(form.sharing == 1) { UNIT_POS as usize / PLANE } else { 0usize.runtime() };
    let mut row = CUBE_POS * comptime!(form.rows()) + own;
    while row < rows {
        let mut held = Array::<Vector<f32, N>>::new(form.turns);
        let mut grad = Array::<Vector<f32, N>>::new(form.turns);
        #[unroll]
        for turn in 0..comptime!(form.turns) {
            let column = place + turn * comptime!(form.sharing * PLANE);
            held[turn] = Vector::new(0.0f32);
            grad[turn] = Vector::new(0.0f32);
            if column < width {
                held[turn] = Vector::cast_from(x[row * width + column]);
                grad[turn] = Vector::cast_from(dy[row * width + column]);
            }
        }
        let scale = standardise::<N>(&mut held, &mut planes, width, epsilon, form);
        let mut means = Vector::new(0.0f32);
        let mut products = Vector::new(0.0f32);
        #[unroll]
        for turn in 0..comptime!(form.turns) {
            let column = place + turn * comptime!(form.sharing * PLANE);
            held[turn] *= Vector::new(scale);
            of_gamma[turn] += grad[turn] * held[turn];
            if comptime!(form.weighted) {
                if column < width {
                    grad[turn] *= Vector::<f32, N>::cast_from(gamma[column]);
                }
            }
            means += grad[turn];
            products += grad[turn] * held[turn];
        }
        let mut mean = 0.0f32;
        if comptime!(form.center) {
            mean = total::<N>(means, &mut planes, form) / count;
        }
        let product = total::<N>(products, &mut planes, form) / count;
        #[unroll]
        for turn in 0..comptime!(form.turns) {
            let column = place + turn * comptime!(form.sharing * PLANE);
            if column < width {
                let at = row * width + column;
                let mut value = Vector::new(scale) * (grad[turn] - Vector::new(mean) - held[turn] * Vector::new(product));
                if comptime!(form.adds) {
                    value += Vector::<f32, N>::cast_from(more[at]);
                }
                dx[at] = Vector::cast_from(value);
            }
        }
        row += CUBE_COUNT * comptime!(form.rows());
    }
    if comptime!(form.weighted) {
        let mut sums = Shared::<[f32]>::new_slice(comptime!(if form.sharing == 1 { form.turns * PLANE * size } else { 1 }));
        let base = CUBE_POS * width * size;
        if comptime!(form.sharing == 1) {
            // One plane after another: the sum has one order.
            #[unroll]
            for plane in 0..PLANES {
                if UNIT_POS as usize / PLANE == plane {
                    #[unroll]
                    for turn in 0..comptime!(form.turns) {
                        #[unroll]
                        for i in 0..size {
                            let at = (place + turn * PLANE) * size + i;
                            let before = if comptime!(plane == 0) { 0.0f32.runtime() } else { sums[at] };
                            sums[at] = before + of_gamma[turn].extract(i);
                        }
                    }
                }
                sync_cube();
            }
            let mut at = UNIT_POS as usize;
            while at < width * size {
                partial[base + at] = sums[at];
                at += comptime!(PLANES * PLANE);
            }
        } else {
            #[unroll]
            for turn in 0..comptime!(form.turns) {
                let column = place + turn * comptime!(form.sharing * PLANE);
                if column < width {
                    #[unroll]
                    for i in 0..size {
                        partial[base + column * size + i] = of_gamma[turn].extract(i);
                    }
                }
            }
        }
    }
}

/// Sums of the columns of a matrix, a plane for each.
#[cube(launch_unchecked, address_type = "dynamic")]
fn sums_kernel<E: Float>(partial: &[f32], out: &mut [E], rows: usize, width: usize, #[define(E)] _type: ElemType) {
    let column = ABSOLUTE_POS / PLANE;
    if column < width {
        let mut sum = 0.0f32;
        let mut row = UNIT_POS_PLANE as usize;
        while row < rows {
            sum += partial[row * width + column];
            row += PLANE;
        }
        let sum = plane_sum(sum);
        if UNIT_POS_PLANE == 0 {
            out[column] = E::cast_from(sum);
        }
    }
}

/// How rows are normalised.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rows {
    pub(super) epsilon: f32,
    pub(super) center: bool,
}

/// Elements of a row, rows, and the elements that are read at once.
fn shape(x: &Flat) -> (usize, usize, usize) {
    let width = x.meta.shape().last().copied().unwrap_or(1);
    (width, x.meta.num_elements() / width, vector_of(x.dtype, width))
}

/// Whether the kernels have room for rows of `width`.
pub(super) fn takes(dtype: DType, width: usize) -> bool {
    Form::new(width / vector_of(dtype, width), false, false, false).is_some()
}

/// `x + update` if there is an update, and the norm of that or of `x`; all contiguous.
pub(super) fn forward(x: &Flat, update: Option<&Flat>, gamma: Option<&Flat>, rows: Rows) -> (Option<CubeTensor>, CubeTensor) {
    let (width, count, vector) = shape(x);
    let form = Form::new(width / vector, rows.center, update.is_some(), gamma.is_some()).expect("`takes` has been asked");
    let (sum, y) = (update.map(super::like), super::like(x));
    let cubes = CubeCount::Static(count.div_ceil(form.rows()) as u32, 1, 1);
    // SAFETY: units past the last row or column read and write nothing; what is not there is neither.
    unsafe {
        forward_kernel::launch_unchecked(
            &x.client,
            cubes,
            form.cube(),
            address_type(&[x, &y]),
            vector,
            buffer(x),
            buffer(update.unwrap_or(x)),
            buffer(gamma.unwrap_or(x)),
            buffer(sum.as_ref().unwrap_or(&y)),
            buffer(&y),
            count,
            width / vector,
            rows.epsilon,
            form,
            element(x),
        );
    }
    (sum, y)
}

/// The gradients of `x`, to which `more` is added, and of γ; all contiguous.
pub(super) fn backward(x: &Flat, dy: &Flat, more: Option<&Flat>, gamma: Option<&Flat>, rows: Rows) -> (CubeTensor, Option<CubeTensor>) {
    let (width, count, vector) = shape(x);
    let form = Form::new(width / vector, rows.center, more.is_some(), gamma.is_some()).expect("`takes` has been asked");
    let dx = super::like(x);
    let processors = x.client.properties().hardware.num_streaming_multiprocessors.unwrap_or(16) as usize;
    let cubes = count.div_ceil(form.rows()).min(2 * processors);
    let partial = empty(x, [if gamma.is_some() { cubes } else { 1 }, width], DType::F32);
    // SAFETY: as in `forward`; `partial` has a row for each cube.
    unsafe {
        backward_kernel::launch_unchecked(
            &x.client,
            CubeCount::Static(cubes as u32, 1, 1),
            form.cube(),
            address_type(&[x, &dx]),
            vector,
            buffer(x),
            buffer(dy),
            buffer(more.unwrap_or(x)),
            buffer(gamma.unwrap_or(x)),
            buffer(&dx),
            buffer(&partial),
            count,
            width / vector,
            rows.epsilon,
            form,
            element(x),
        );
    }
    let of_gamma = gamma.map(|gamma| {
        let out = super::like(gamma);
        // SAFETY: planes past the last column write nothing.
        unsafe {
            sums_kernel::launch_unchecked(
                &x.client,
                CubeCount::Static(width.div_ceil(PLANES) as u32, 1, 1),
                CubeDim::new_1d((PLANES * PLANE) as u32),
                address_type(&[&partial]),
                buffer(&partial),
                buffer(&out),
                cubes,
                width,
                element(gamma),
            );
        }
        out
    });
    (dx, of_gamma)
}
