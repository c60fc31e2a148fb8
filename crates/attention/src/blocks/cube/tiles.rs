//! Tiles of a plane of 32 units: loading into shared memory, products with sums in f32.
//!
//! A plane's tile of sums has `16 · M` rows and `8 · N` columns, spread over the units as the matrix units of NVIDIA do (`mma.m16n8k16`),
//! in four numbers for each 16×8: number `4 (m N + n) + i` of unit `u` is at row `16 m + u / 4 + 8 (i / 2)`, column
//! `8 n + 2 (u % 4) + i % 2`. Without matrix units the same layout is summed by multiply-adds, in f32 for every element type.

use cubecl::{
    cmma::{MatrixIdent, MmaDefinition},
    frontend::barrier::copy_async_checked,
    prelude::*,
};

/// How a kernel multiplies tiles; part of what it is compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Products {
    /// Matrix units, `ldmatrix` and asynchronous copies, all NVIDIA's. Otherwise multiply-adds in f32.
    pub(crate) matrix_units: bool,
}

/// Vectors from one row of a tile in shared memory to the next: one more than the row has, so that the eight rows that are read at
/// once lie in different banks.
pub(crate) const fn pitch(width: usize) -> usize {
    width + 1
}

/// Row of number `i` of a 16×8 in the units' layout.
#[cube]
pub(crate) fn row_of(#[comptime] i: usize) -> usize {
    UNIT_POS_PLANE as usize / 4 + comptime!(8 * (i / 2))
}

/// Column of number `i` of a 16×8 in the units' layout.
#[cube]
pub(crate) fn column_of(#[comptime] i: usize) -> usize {
    2 * (UNIT_POS_PLANE as usize % 4) + comptime!(i % 2)
}

/// Starts to copy `count` rows of `width` vectors, of which the first `valid` exist and the others are zeros, by all units of the
/// cube. Rows are `stride` vectors apart in `from`. Before the tile is read: [`await_tiles`], `sync_cube`.
#[cube]
pub(crate) fn load_tile<E: Float, N: Size>(
    from: &Tensor<Vector<E, N>>,
    start: usize,
    stride: usize,
    valid: usize,
    to: &mut Shared<[Vector<E, N>]>,
    #[comptime] count: usize,
    #[comptime] width: usize,
    #[comptime] units: usize,
    #[comptime] products: Products,
) {
    let all = comptime!(count * width);
    #[unroll]
    for step in 0..comptime!(all.div_ceil(units)) {
        let at = UNIT_POS as usize + comptime!(step * units);
        if comptime!((step + 1) * units <= all) || at < all {
            let row = at / width;
            let column = at % width;
            let place = row * comptime!(pitch(width)) + column;
            if comptime!(products.matrix_units) {
                // A copy of nothing fills with zeros, without a branch.
                let present = row < valid;
                let source = start + select(present, row * stride + column, 0usize);
                let end = source + select(present, 1usize, 0usize);
                let length = E::size().comptime();
                copy_async_checked(&from[source..end], &mut to[place..place + 1], comptime!((16 / length) as u32));
            } else if row < valid {
                to[place] = from[start + row * stride + column];
            } else {
                to[place] = Vector::new(E::from_int(0));
            }
        }
    }
}

/// Waits for the unit's own copies; those of the others need `sync_cube` besides.
#[cube]
pub(crate) fn await_tiles(#[comptime] products: Products) {
    if comptime!(products.matrix_units) {
        gpu_asm!("cp.async.wait_all;");
    }
}

/// `sums += A Bᵀ`: A is `16 M` rows of the tile `a` from `a_row` on, B the first `8 n_tiles` rows of `b`, both of `width` vectors.
#[cube]
pub(crate) fn multiply_rows<E: Float, N: Size>(
    a: &Shared<[Vector<E, N>]>,
    a_row: usize,
    b: &[Vector<E, N>],
    sums: &mut Array<f32>,
    #[comptime] m_tiles: usize,
    #[comptime] n_tiles: usize,
    #[comptime] width: usize,
    #[comptime] products: Products,
) {
    let pitch = comptime!(pitch(width));
    let unit = UNIT_POS_PLANE as usize;
    if comptime!(products.matrix_units) {
        let mma = MmaDefinition::<E, E, f32>::new(16usize, 8usize, 16usize);
        #[unroll]
        for k in 0..comptime!(width / 2) {
            let mut fragments = Sequence::<Array<Vector<E, Const<2>>>>::new();
            #[unroll]
            for m in 0..m_tiles {
                let at = (a_row + comptime!(16 * m) + unit % 16) * pitch + comptime!(2 * k) + unit / 16;
                fragments.push(mma.load_matrix::<_, Const<2>>(&a[at..at + 1], MatrixIdent::A, 4usize, false));
            }
            #[unroll]
            for n in 0..comptime!(n_tiles / 2) {
                let at = (comptime!(16 * n) + unit / 16 * 8 + unit % 8) * pitch + comptime!(2 * k) + unit / 8 % 2;
                let pair = mma.load_matrix::<_, Const<2>>(&b[at..at + 1], MatrixIdent::B, 4usize, false);
                #[unroll]
                for m in 0..m_tiles {
                    add_products(&mma, &fragments[m], &pair, sums, comptime!(m * n_tiles + 2 * n));
                }
            }
        }
    } else {
        let lanes = N::value().comptime();
        for k in 0..width {
            #[unroll]
            for m in 0..m_tiles {
                #[unroll]
                for half in 0..2usize {
                    let x = a[(a_row + comptime!(16 * m + 8 * half) + unit / 4) * pitch + k];
                    #[unroll]
                    for n in 0..n_tiles {
                        #[unroll]
                        for j in 0..2usize {
                            let y = b[(comptime!(8 * n + j) + 2 * (unit % 4)) * pitch + k];
                            let place = comptime!(4 * (m * n_tiles + n) + 2 * half + j);
                            let mut sum = sums[place];
                            #[unroll]
                            for lane in 0..lanes {
                                sum = fma(f32::cast_from(x.extract(lane)), f32::cast_from(y.extract(lane)), sum);
                            }
                            sums[place] = sum;
                        }
                    }
                }
            }
        }
    }
}

/// `sums += W B`: W is a plane's tile of `16 M` rows and `8 w_tiles` columns, rounded to the element type for matrix units; B is the
/// first `8 w_tiles` rows of `b`, of `width` vectors. `exchange` is the plane's part of shared memory, used without matrix units:
/// `16 M · 8 w_tiles` numbers.
#[cube]
pub(crate) fn multiply_sums<E: Float, N: Size>(
    weights: &Array<f32>,
    b: &[Vector<E, N>],
    sums: &mut Array<f32>,
    exchange: &mut Shared<[f32]>,
    exchange_start: usize,
    #[comptime] m_tiles: usize,
    #[comptime] w_tiles: usize,
    #[comptime] width: usize,
    #[comptime] products: Products,
) {
    let pitch = comptime!(pitch(width));
    let unit = UNIT_POS_PLANE as usize;
    let lanes = N::value().comptime();
    let n_tiles = comptime!(width * lanes / 8);
    if comptime!(products.matrix_units) {
        let mma = MmaDefinition::<E, E, f32>::new(16usize, 8usize, 16usize);
        #[unroll]
        for k in 0..comptime!(w_tiles / 2) {
            let mut fragments = Sequence::<Array<Vector<E, Const<2>>>>::new();
            #[unroll]
            for m in 0..m_tiles {
                let mut fragment = Array::<Vector<E, Const<2>>>::new(4usize);
                #[unroll]
                for part in 0..4usize {
                    let place = comptime!(4 * (m * w_tiles + 2 * k + part / 2) + 2 * (part % 2));
                    let mut two = Vector::<E, Const<2>>::empty();
                    two.insert(0usize, E::cast_from(weights[place]));
                    two.insert(1usize, E::cast_from(weights[comptime!(place + 1)]));
                    fragment[part] = two;
                }
                fragments.push(fragment);
            }
            #[unroll]
            for n in 0..comptime!(n_tiles / 2) {
                let at = (comptime!(16 * k) + unit % 16) * pitch + comptime!(2 * n) + unit / 16;
                let pair = mma.load_matrix::<_, Const<2>>(&b[at..at + 1], MatrixIdent::B, 4usize, true);
                #[unroll]
                for m in 0..m_tiles {
                    add_products(&mma, &fragments[m], &pair, sums, comptime!(m * n_tiles + 2 * n));
                }
            }
        }
    } else {
        let columns = comptime!(8 * w_tiles);
        sync_plane();
        #[unroll]
        for m in 0..m_tiles {
            #[unroll]
            for n in 0..w_tiles {
                #[unroll]
                for i in 0..4usize {
                    let place = (comptime!(16 * m) + row_of(i)) * columns + comptime!(8 * n) + column_of(i);
                    exchange[exchange_start + place] = weights[comptime!(4 * (m * w_tiles + n) + i)];
                }
            }
        }
        sync_plane();
        for k in 0..columns {
            #[unroll]
            for n in 0..n_tiles {
                // The two columns of a unit are in one vector, at an even place.
                let column = comptime!(8 * n) + 2 * (unit % 4);
                let y = b[k * pitch + column / lanes];
                let mut low = f32::cast_from(y.extract(0usize));
                let mut high = f32::cast_from(y.extract(1usize));
                #[unroll]
                for pair in 1..comptime!(lanes / 2) {
                    let here = column % lanes == comptime!(2 * pair);
                    low = select(here, f32::cast_from(y.extract(comptime!(2 * pair))), low);
                    high = select(here, f32::cast_from(y.extract(comptime!(2 * pair + 1))), high);
                }
                #[unroll]
                for m in 0..m_tiles {
                    #[unroll]
                    for half in 0..2usize {
                        let x = exchange[exchange_start + (comptime!(16 * m + 8 * half) + unit / 4) * columns + k];
                        let place = comptime!(4 * (m * n_tiles + n) + 2 * half);
                        sums[place] = fma(x, low, sums[place]);
                        sums[comptime!(place + 1)] = fma(x, high, sums[comptime!(place + 1)]);
                    }
                }
            }
        }
    }
}

/// Adds to two neighbouring 16×8 the products of one 16×16 and the two 16×8 of `pair`.
#[cube]
fn add_products<E: Float>(
    mma: &MmaDefinition<E, E, f32>,
    a: &Array<Vector<E, Const<2>>>,
    pair: &Array<Vector<E, Const<2>>>,
    sums: &mut Array<f32>,
    #[comptime] tile: usize,
) {
    #[unroll]
    for j in 0..2usize {
        let mut b = Array::<Vector<E, Const<2>>>::new(2usize);
        b[0] = pair[comptime!(2 * j)];
        b[1] = pair[comptime!(2 * j + 1)];
        let mut c = Array::<Vector<f32, Const<2>>>::new(2usize);
        #[unroll]
        for half in 0..2usize {
            let place = comptime!(4 * (tile + j) + 2 * half);
            let mut two = Vector::<f32, Const<2>>::empty();
            two.insert(0usize, sums[place]);
            two.insert(1usize, sums[comptime!(place + 1)]);
            c[half] = two;
        }
        let d = mma.execute(a, &b, &c);
        #[unroll]
        for half in 0..2usize {
            let place = comptime!(4 * (tile + j) + 2 * half);
            sums[place] = d[half].extract(0usize);
            sums[comptime!(place + 1)] = d[half].extract(1usize);
        }
    }
}

/// 2^x by one instruction of matrix-unit devices, to 2 units in the last place; e^x otherwise. The argument is scaled by
/// [`exponent_unit`] in either case.
#[cube]
pub(crate) fn exponential(x: f32, #[comptime] products: Products) -> f32 {
    if comptime!(products.matrix_units) { power_of_two(x) } else { x.exp() }
}

/// 2^x as [`exponential`] computes it on matrix-unit devices.
#[cube]
pub(crate) fn power_of_two(x: f32) -> f32 {
    let y: f32;
    gpu_asm!("ex2.approx.ftz.f32 {}, {};", out(_) y, in(_) x, options(nomem));
    y
}

/// What a natural exponent is multiplied by for [`exponential`].
pub(crate) fn exponent_unit(products: Products) -> f32 {
    if products.matrix_units { std::f32::consts::LOG2_E } else { 1.0 }
}
