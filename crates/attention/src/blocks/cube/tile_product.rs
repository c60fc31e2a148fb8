//! Products of tiles in shared memory, each plane of 32 units computing a part of the result in registers.
//!
//! The registers lie as those of `mma.m16n8`: unit `l` of a plane holds, of each tile of 16 × 8, the rows `l / 4` and `l / 4 + 8`
//! and there the columns `2 (l % 4)` and the next. The plain form keeps to this layout, so that a kernel is written once.

use cubecl::{cmma::MmaDefinition, prelude::*};

/// Rows of a tile of registers.
pub(crate) const ROWS: usize = 16;
/// Columns of a tile of registers.
pub(crate) const COLUMNS: usize = 8;
/// Steps along the inner axis that one instruction takes.
pub(crate) const INNER: usize = 16;
/// Units of a plane.
pub(crate) const PLANE: usize = 32;

/// Two numbers side by side.
pub(crate) type Pair = Const<2>;

/// What a plane computes of a product, `tiles_m × tiles_n` tiles.
#[derive(CubeType, Clone)]
pub(crate) struct Tiles {
    /// Row by row; in each tile the pair of the upper row, then that of the lower.
    pub(crate) pairs: Sequence<Array<Vector<f32, Pair>>>,
    #[cube(comptime)]
    pub(crate) m: usize,
    #[cube(comptime)]
    pub(crate) n: usize,
}

#[cube]
impl Tiles {
    pub(crate) fn zeros(#[comptime] m: usize, #[comptime] n: usize) -> Tiles {
        let mut pairs = Sequence::new();
        #[unroll]
        for _ in 0..comptime!(m * n) {
            let mut tile = Array::new(2usize);
            tile[0] = Vector::new(0.0f32);
            tile[1] = Vector::new(0.0f32);
            pairs.push(tile);
        }
        Tiles { pairs, m, n }
    }

    /// All numbers times `factor`.
    pub(crate) fn scale(&mut self, factor: f32) {
        #[unroll]
        for i in 0..comptime!(self.m * self.n) {
            let tile = self.pairs.index_mut(i);
            tile[0] *= Vector::new(factor);
            tile[1] *= Vector::new(factor);
        }
    }

    pub(crate) fn clear(&mut self) {
        #[unroll]
        for i in 0..comptime!(self.m * self.n) {
            let tile = self.pairs.index_mut(i);
            tile[0] = Vector::new(0.0f32);
            tile[1] = Vector::new(0.0f32);
        }
    }
}

/// The unit's place in its plane.
#[cube]
pub(crate) fn lane() -> usize {
    UNIT_POS as usize % PLANE
}

/// The plane's place in its cube.
#[cube]
pub(crate) fn plane() -> usize {
    UNIT_POS as usize / PLANE
}

/// The upper of the two rows that a unit holds of a tile.
#[cube]
pub(crate) fn own_row() -> usize {
    lane() / 4
}

/// The first of the two columns that a unit holds of a tile.
#[cube]
pub(crate) fn own_column() -> usize {
    lane() % 4 * 2
}

/// How the planes of a cube share `rows × columns`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Share {
    /// Planes side by side along the rows and the columns.
    pub(crate) planes: (usize, usize),
    /// Tiles of each.
    pub(crate) tiles: (usize, usize),
}

impl Share {
    pub(crate) fn new(rows: usize, columns: usize, planes: usize) -> Self {
        let (m, pairs) = (rows / ROWS, columns / (2 * COLUMNS));
        let divisors = |n: usize| (1..=n).filter(move |d| n.is_multiple_of(*d));
        let (x, y) = divisors(m)
            .flat_map(|x| divisors(pairs).map(move |y| (x, y)))
            .filter(|(x, y)| x * y <= planes)
            .max_by_key(|(x, y)| (x * y, usize::MAX - (m / x).max(pairs / y)))
            .expect("one plane is a share");
        Self { planes: (x, y), tiles: (m / x, 2 * (pairs / y)) }
    }

    pub(crate) fn used(&self) -> usize {
        self.planes.0 * self.planes.1
    }
}

/// Row and column at which the part of a plane begins.
#[cube]
pub(crate) fn corner(#[comptime] share: Share) -> (usize, usize) {
    corner_of(plane(), share)
}

/// The same of the plane at another place.
#[cube]
pub(crate) fn corner_of(plane: usize, #[comptime] share: Share) -> (usize, usize) {
    (plane / share.planes.1 * comptime!(share.tiles.0 * ROWS), plane % share.planes.1 * comptime!(share.tiles.1 * COLUMNS))
}

/// Whether the plane has a part of the product at all.
#[cube]
pub(crate) fn has_part(#[comptime] share: Share, #[comptime] planes: usize) -> bool {
    if comptime!(share.used() == planes) { true.runtime() } else { plane() < share.used() }
}

/// How the matrices of a product lie in shared memory. All rows start at multiples of 16 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Lie {
    /// Length of the inner axis, a multiple of 16.
    pub(crate) inner: usize,
    /// Distance of the rows of the left matrix in memory.
    pub(crate) a_stride: usize,
    /// The left matrix lies turned: `[inner, m]`.
    pub(crate) a_turned: bool,
    /// Distance of the rows of the right matrix in memory.
    pub(crate) b_stride: usize,
    /// The right matrix lies turned: `[n, inner]`.
    pub(crate) b_turned: bool,
    /// Whether the left matrix is weighted along the inner axis.
    pub(crate) weighted: bool,
    /// Whether tensor cores compute it: for elements of 16 bits.
    pub(crate) tensor_cores: bool,
}

/// `out += A · diag(weights) · B` for the tiles of one plane. `a` starts at their first row, `b` at their first column.
#[cube]
pub(crate) fn multiply<E: Float>(out: &mut Tiles, a: &[E], b: &[E], weights: &[f32], #[comptime] lie: Lie) {
    if comptime!(lie.tensor_cores) {
        multiply_by_tensor_cores::<E>(out, a, b, weights, lie);
    } else {
        multiply_plainly::<E>(out, a, b, weights, lie);
    }
}

#[cube]
fn multiply_plainly<E: Float>(out: &mut Tiles, a: &[E], b: &[E], weights: &[f32], #[comptime] lie: Lie) {
    let (row, column) = (own_row(), own_column());
    let (tiles_m, tiles_n) = comptime!((out.m, out.n));
    for k in 0..lie.inner {
        let mut left = Array::<f32>::new(2 * tiles_m);
        #[unroll]
        for i in 0..comptime!(2 * tiles_m) {
            let m = row + 8 * i;
            let at = if comptime!(lie.a_turned) { k * lie.a_stride + m } else { m * lie.a_stride + k };
            let value = f32::cast_from(a[at]);
            left[i] = if comptime!(lie.weighted) { value * weights[k] } else { value };
        }
        #[unroll]
        for j in 0..tiles_n {
            let n = column + COLUMNS * j;
            let (first, second) = if comptime!(lie.b_turned) {
                (n * lie.b_stride + k, (n + 1) * lie.b_stride + k)
            } else {
                (k * lie.b_stride + n, k * lie.b_stride + n + 1)
            };
            let mut right = Vector::<f32, Pair>::empty();
            right.insert(0usize, f32::cast_from(b[first]));
            right.insert(1usize, f32::cast_from(b[second]));
            #[unroll]
            for i in 0..tiles_m {
                let tile = out.pairs.index_mut(i * tiles_n + j);
                tile[0] += Vector::new(left[2 * i]) * right;
                tile[1] += Vector::new(left[2 * i + 1]) * right;
            }
        }
    }
}

#[cube]
fn multiply_by_tensor_cores<E: Float>(out: &mut Tiles, a: &[E], b: &[E], weights: &[f32], #[comptime] lie: Lie) {
    let lane = lane();
    let (tiles_m, tiles_n) = comptime!((out.m, out.n));
    let definition = MmaDefinition::<E, E, f32>::new(ROWS, COLUMNS, INNER);
    // Unit l gives the address of row l % 8 of matrix l / 8: of A the upper and lower half at the first, then at the second eight of
    // the inner axis; of B both eights of one tile, then of the next.
    let (low, high, eight) = (lane / 8 % 2 * 8, lane / 16 * 8, lane % 8);
    let a_at = if comptime!(lie.a_turned) { (eight + high) * lie.a_stride + low } else { (eight + low) * lie.a_stride + high };
    let b_at = if comptime!(lie.b_turned) { (eight + high) * lie.b_stride + low } else { (eight + low) * lie.b_stride + high };
    #[unroll]
    for step in 0..comptime!(lie.inner / INNER) {
        let k = comptime!(step * INNER);
        let mut left = Sequence::<Array<Vector<E, Pair>>>::new();
        #[unroll]
        for i in 0..tiles_m {
            let at = a_at + comptime!(if lie.a_turned { k * lie.a_stride + ROWS * i } else { ROWS * i * lie.a_stride + k });
            let mut part = definition.load_matrix::<E, Pair>(&a[at..at + 8], cmma::MatrixIdent::A, 4usize, lie.a_turned);
            if comptime!(lie.weighted) {
                // Registers 0 and 1 hold the inner places 2 (l % 4) and the next, 2 and 3 those eight further.
                let first = k + own_column();
                #[unroll]
                for half in 0..2usize {
                    let (w0, w1) = (weights[first + 8 * half], weights[first + 8 * half + 1]);
                    #[unroll]
                    for upper in 0..2usize {
                        let pair = part[2 * half + upper];
                        let mut weighted = Vector::<E, Pair>::empty();
                        weighted.insert(0usize, E::cast_from(f32::cast_from(pair.extract(0usize)) * w0));
                        weighted.insert(1usize, E::cast_from(f32::cast_from(pair.extract(1usize)) * w1));
                        part[2 * half + upper] = weighted;
                    }
                }
            }
            left.push(part);
        }
        #[unroll]
        for j in 0..comptime!(tiles_n / 2) {
            let at = b_at + comptime!(if lie.b_turned { 2 * COLUMNS * j * lie.b_stride + k } else { k * lie.b_stride + 2 * COLUMNS * j });
            let both = definition.load_matrix::<E, Pair>(&b[at..at + 8], cmma::MatrixIdent::B, 4usize, comptime!(!lie.b_turned));
            #[unroll]
            for side in 0..2usize {
                let mut right = Array::<Vector<E, Pair>>::new(2usize);
                right[0] = both[2 * side];
                right[1] = both[2 * side + 1];
                #[unroll]
                for i in 0..tiles_m {
                    definition.execute_inplace(left.index(i), &right, out.pairs.index_mut(comptime!(i * tiles_n + 2 * j + side)));
                }
            }
        }
    }
}

/// Writes the tiles of a plane into shared memory, rounded to its type; `to` starts at their first row and column, an even place.
#[cube]
pub(crate) fn store<E: Float>(tiles: &Tiles, to: &mut [E], #[comptime] stride: usize) {
    let (row, column) = (own_row(), own_column());
    let to = to.as_vectorized_mut().with_vector_size_mut::<Pair>();
    #[unroll]
    for i in 0..comptime!(tiles.m) {
        #[unroll]
        for j in 0..comptime!(tiles.n) {
            let tile = tiles.pairs.index(comptime!(i * tiles.n + j));
            #[unroll]
            for half in 0..2usize {
                to[((row + 8 * half + ROWS * i) * stride + column + COLUMNS * j) / 2] = Vector::cast_from(tile[half]);
            }
        }
    }
}
