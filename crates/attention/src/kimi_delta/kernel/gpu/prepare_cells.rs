//! What chunks have besides the state, by matrix units: [`prepare`](super::prepare::prepare) with the decays of a chunk's tokens in
//! registers, cell by cell.

use cubecl::{
    cmma::{MatrixIdent, MmaDefinition},
    prelude::*,
};

use super::{
    cells::{CELL, add_dots, add_products, join_levels, load_cell, no_levels, read_decays, scaled, store_cell},
    chunk::{load_column, store_part},
    form::Form,
    inverse::{invert_squares, join_squares_by_units},
    prepare::chunk_span,
};
use crate::blocks::cube::{
    row_tiles::{Room, Span, await_loads, fetch, save_packed},
    tile_product::{COLUMNS, INNER, Pair, ROWS, Tiles, corner, has_part, lane, multiply, own_column, own_row, plane},
};

/// Planes per row of cells: the channels are split among them. Two leave registers for two cubes on a processor of NVIDIA's.
const PARTS: usize = 2;

impl Form {
    /// Rows of cells.
    fn cells(&self) -> usize {
        self.chunk / CELL
    }

    /// Of a kernel whose planes have cells.
    pub(crate) fn by_cells(&self) -> Self {
        Self { planes: self.cells() * PARTS, ..*self }
    }

    /// Bytes of shared memory of [`prepare_cells`].
    pub(crate) fn cell_bytes(&self) -> usize {
        let widest = self.stride(self.d_k.max(self.d_v));
        let (keys, square) = (self.stride(self.d_k), self.stride(self.chunk));
        let tiles = self.chunk * (widest + keys + keys.max(square) + square);
        let numbers = 2 * self.chunk * self.wide(self.chunk) + self.exchanged() + 3 * self.cells() * self.d_k + self.chunk;
        self.element * tiles + 4 * numbers + 9 * 32
    }

    /// Numbers that planes exchange.
    fn exchanged(&self) -> usize {
        ((PARTS - 1) * 2 * self.cells() * CELL * CELL).max(self.chunk * self.chunk / 4)
    }
}

/// As [`prepare`](super::prepare::prepare); `g` in pairs of channels where there are such.
#[cube(launch_unchecked, address_type = "dynamic")]
pub(crate) fn prepare_cells<F: Float, E: Float, N: Size, M: Size, P: Size>(
    q: &Tensor<Vector<F, M>>,
    k: &Tensor<Vector<F, M>>,
    v: &Tensor<Vector<F, M>>,
    g: &Tensor<Vector<f32, P>>,
    beta: &Tensor<f32>,
    q_start: &mut [Vector<E, N>],
    k_end: &mut [Vector<E, N>],
    w: &mut [Vector<E, N>],
    u: &mut [Vector<E, N>],
    scores: &mut [Vector<E, N>],
    inverse: &mut [Vector<E, N>],
    total: &mut [f32],
    scale: f32,
    #[comptime] keep: bool,
    #[comptime] form: Form,
    #[define(F, E)] _types: [ElemType; 2],
) {
    let widest = comptime!(form.stride(form.d_k.max(form.d_v)));
    let packed = comptime!(form.stride(form.d_k));
    let (c, wide, square_stride) = comptime!((form.chunk, form.wide(form.chunk), form.stride(form.chunk)));
    let mut q_tile = Shared::<[E]>::new_aligned_slice(comptime!(c * widest), 16usize);
    let mut k_tile = Shared::<[E]>::new_aligned_slice(comptime!(c * packed), 16usize);
    // In the end, the inverse to be kept.
    let mut ends_tile = Shared::<[E]>::new_aligned_slice(comptime!(c * packed.max(square_stride)), 16usize);
    let mut square = Shared::<[E]>::new_aligned_slice(comptime!(c * square_stride), 16usize);
    let mut corrections = Shared::<[f32]>::new_slice(comptime!(c * wide));
    let mut inverted = Shared::<[f32]>::new_slice(comptime!(c * wide));
    let mut room = Shared::<[f32]>::new_slice(comptime!(form.exchanged()));
    // Of each row of cells the decay over it, over all before it and over all behind it.
    let mut decays = Shared::<[f32]>::new_aligned_slice(comptime!(3 * form.cells() * form.d_k), 32usize);
    let mut strength = Shared::<[f32]>::new_slice(c);

    let heads = v.shape(1);
    let span = chunk_span(heads, v.shape(2), form);
    let shared_head =
        Span { batch: span.batch, head: span.head / (heads / q.shape(1)), start: span.start, tokens: span.tokens, column: span.column };
    let chunk = CUBE_POS_Y as usize * CUBE_COUNT_X as usize + CUBE_POS_X as usize;
    let q_room = comptime!(Room { stride: widest, ..form.room(form.d_k) });
    fetch::<F, E, M>(q, &mut q_tile, &shared_head, q_room, true);
    fetch::<F, E, M>(k, &mut k_tile, &shared_head, comptime!(form.room(form.d_k)), true);
    load_column(beta, &mut strength, &span, form);
    clear::<E, N>(&mut square, form);
    await_loads();
    sync_cube();

    // Each plane a part of the channels of a row of cells, whose sums meet after the next barrier. The queries are left decayed from the
    // start of the row of cells, the keys so too and, in a tile of their own, to its end.
    let (block, part) = (plane() % comptime!(form.cells()), plane() / comptime!(form.cells()));
    let row = block * CELL;
    let (mut of_q, mut of_k) = (no_levels(), no_levels());
    let mut dots = Array::<f32>::new(2usize);
    let mut none = Array::<f32>::new(2usize);
    #[unroll]
    for half in 0..2usize {
        dots[half] = 0.0f32;
        none[half] = 0.0f32;
    }
    for turn in 0..comptime!((form.d_k / CELL).div_ceil(PARTS)) {
        let column = (turn * PARTS + part) * CELL;
        if comptime!((form.d_k / CELL).is_multiple_of(PARTS)) || column < form.d_k {
            let mut own = read_decays::<P>(g, &span, row, column);
            let queries = load_cell::<E>(&q_tile, row * widest + column, widest);
            let keys = load_cell::<E>(&k_tile, row * packed + column, packed);
            add_dots::<E>(&queries, &keys, &mut dots);
            add_products::<E>(&queries, &keys, &mut own, &mut of_q, &mut of_k);
            sync_plane();
            store_cell::<E>(&scaled::<E>(&queries, &own.until), &mut q_tile, row * widest + column, widest);
            store_cell::<E>(&scaled::<E>(&keys, &own.until), &mut k_tile, row * packed + column, packed);
            store_cell::<E>(&scaled::<E>(&keys, &own.after), &mut ends_tile, row * packed + column, packed);
            if lane() >= 28 {
                #[unroll]
                for half in 0..2usize {
                    let at = block * form.d_k + column + own_column() + comptime!(8 * half);
                    let last = own.until[comptime!(2 * half + 1)];
                    decays[at] = last.extract(0usize);
                    decays[at + 1] = last.extract(1usize);
                }
            }
        }
    }
    let mut of_q = join_levels(&of_q, &dots);
    let mut of_k = join_levels(&of_k, &none);
    let exchange = block * comptime!(2 * CELL * CELL);
    let per_part = comptime!(form.cells() * 2 * CELL * CELL);
    if part > 0 {
        let exchange = exchange + (part - 1) * per_part;
        put(&of_q, &mut room, exchange, 0usize.runtime(), CELL);
        put(&of_k, &mut room, exchange + comptime!(CELL * CELL), 0usize.runtime(), CELL);
    }
    sync_cube();

    if part == 0 {
        #[unroll]
        for other in 0..comptime!(PARTS - 1) {
            add(&mut of_q, &room, exchange + comptime!(other * per_part));
            add(&mut of_k, &room, exchange + comptime!(other * per_part + CELL * CELL));
        }
        of_q.scale(scale);
        store_part::<E>(&of_q, &mut square, row, row, square_stride);
        put(&of_k, &mut corrections, row * wide, row, wide);
    }
    between_cells::<E>(&q_tile, &k_tile, &ends_tile, &decays, &mut square, &mut corrections, scale, widest, form);
    chain(&mut decays, total, chunk, form);
    sync_cube();

    decay_rows::<E, N>(&q_tile, &mut k_tile, &ends_tile, &decays, q_start, k_end, chunk, scale, widest, form);
    save_packed::<E, N>(&square, scores, chunk, comptime!(form.room(c)));
    invert_squares(&corrections, &strength, &mut inverted, form);
    sync_cube();
    fetch::<F, E, M>(v, &mut q_tile, &span, comptime!(Room { stride: widest, ..form.room(form.d_v) }), true);
    join_squares_by_units::<E>(&corrections, &strength, &mut inverted, &mut room, form);
    round_inverse::<E>(&inverted, &strength, &mut square, true, form);
    if keep {
        round_inverse::<E>(&inverted, &strength, &mut ends_tile, false, form);
    }
    await_loads();
    sync_cube();
    if keep {
        save_packed::<E, N>(&ends_tile, inverse, chunk, comptime!(form.room(c)));
    }

    let of_u = comptime!(form.share(c, form.d_v));
    let of_w = comptime!(form.share(c, form.d_k));
    let (u_row, u_column) = corner(of_u);
    let (w_row, w_column) = corner(of_w);
    let mut u_part = Tiles::zeros(of_u.tiles.0, of_u.tiles.1);
    let mut w_part = Tiles::zeros(of_w.tiles.0, of_w.tiles.1);
    if has_part(of_u, form.planes) {
        let lie = comptime!(form.plain(c, square_stride, widest));
        multiply::<E>(&mut u_part, &square[u_row * square_stride..], &q_tile[u_column..], &strength, lie);
    }
    if has_part(of_w, form.planes) {
        let lie = comptime!(form.plain(c, square_stride, packed));
        multiply::<E>(&mut w_part, &square[w_row * square_stride..], &k_tile[w_column..], &strength, lie);
    }
    sync_cube();
    if has_part(of_u, form.planes) {
        store_part::<E>(&u_part, &mut q_tile, u_row, u_column, widest);
    }
    if has_part(of_w, form.planes) {
        store_part::<E>(&w_part, &mut k_tile, w_row, w_column, packed);
    }
    sync_cube();
    save_packed::<E, N>(&q_tile, u, chunk, comptime!(Room { stride: widest, ..form.room(form.d_v) }));
    save_packed::<E, N>(&k_tile, w, chunk, comptime!(form.room(form.d_k)));
}

#[cube]
fn clear<E: Float, N: Size>(square: &mut [E], #[comptime] form: Form) {
    let size = N::value();
    let all = comptime!(form.chunk * form.stride(form.chunk) / size);
    let square = square.as_vectorized_mut().with_vector_size_mut::<N>();
    #[unroll]
    for turn in 0..comptime!(all.div_ceil(form.units())) {
        let index = turn * form.units() + UNIT_POS as usize;
        if index < all {
            square[index] = Vector::new(E::from_int(0));
        }
    }
}

/// Writes the square of a plane into a matrix of f32.
#[cube]
fn put(part: &Tiles, to: &mut [f32], start: usize, column: usize, #[comptime] stride: usize) {
    #[unroll]
    for j in 0..2usize {
        let tile = part.pairs.index(j);
        #[unroll]
        for half in 0..2usize {
            let at = start + (own_row() + comptime!(8 * half)) * stride + column + own_column() + comptime!(COLUMNS * j);
            to[at] = tile[half].extract(0usize);
            to[at + 1] = tile[half].extract(1usize);
        }
    }
}

/// Adds what another plane has [`put`].
#[cube]
fn add(part: &mut Tiles, from: &[f32], start: usize) {
    #[unroll]
    for j in 0..2usize {
        let tile = part.pairs.index_mut(j);
        #[unroll]
        for half in 0..2usize {
            let at = start + (own_row() + comptime!(8 * half)) * CELL + own_column() + comptime!(COLUMNS * j);
            let mut pair = Vector::<f32, Pair>::empty();
            pair.insert(0usize, from[at]);
            pair.insert(1usize, from[at + 1]);
            tile[half] += pair;
        }
    }
}

/// The products of tokens in different rows of cells, a plane per square: through the end of the earlier row, the rows between and the
/// start of the later.
#[cube]
fn between_cells<E: Float>(
    q: &[E],
    k: &[E],
    ends: &[E],
    decays: &[f32],
    square: &mut [E],
    corrections: &mut [f32],
    scale: f32,
    #[comptime] q_stride: usize,
    #[comptime] form: Form,
) {
    let cells = comptime!(form.cells());
    let (packed, wide) = comptime!((form.stride(form.d_k), form.wide(form.chunk)));
    let mma = MmaDefinition::<E, E, f32>::new(ROWS, COLUMNS, INNER);
    let lane = lane();
    #[unroll]
    for turn in 0..comptime!((cells * (cells - 1) / 2).div_ceil(form.planes)) {
        // Squares by their distance from the diagonal: of distance 1 first.
        let mut early = turn * form.planes + plane();
        let mut distance = 1usize.runtime();
        #[unroll]
        for i in 1..cells {
            if distance == i && early >= cells - i {
                early -= cells - i;
                distance += 1;
            }
        }
        let late = early + distance;
        if distance < cells {
            let (mut of_q, mut of_k) = (Tiles::zeros(1usize, 2usize), Tiles::zeros(1usize, 2usize));
            #[unroll]
            for step in 0..comptime!(form.d_k / CELL) {
                let column = comptime!(step * CELL);
                let queries = load_cell::<E>(q, late * comptime!(CELL * q_stride) + column, q_stride);
                let keys = load_cell::<E>(k, late * comptime!(CELL * packed) + column, packed);
                let at = (early * CELL + lane % 8 + lane / 16 * 8) * packed + column + lane / 8 % 2 * 8;
                let mut both = mma.load_matrix::<E, Pair>(&ends[at..at + 8], MatrixIdent::B, 4usize, false);
                if distance > 1 {
                    #[unroll]
                    for half in 0..2usize {
                        let mut between = Vector::<f32, Pair>::empty();
                        #[unroll]
                        for next in 0..2usize {
                            let channel = column + own_column() + comptime!(8 * half + next);
                            let mut factor = decays[(early + 1) * form.d_k + channel];
                            for i in 2..distance {
                                factor *= decays[(early + i) * form.d_k + channel];
                            }
                            between.insert(next, factor);
                        }
                        #[unroll]
                        for j in 0..2usize {
                            let i = comptime!(2 * j + half);
                            both[i] = Vector::cast_from(Vector::<f32, Pair>::cast_from(both[i]) * between);
                        }
                    }
                }
                #[unroll]
                for j in 0..2usize {
                    let mut right = Array::<Vector<E, Pair>>::new(2usize);
                    right[0] = both[comptime!(2 * j)];
                    right[1] = both[comptime!(2 * j + 1)];
                    mma.execute_inplace(&queries, &right, of_q.pairs.index_mut(j));
                    mma.execute_inplace(&keys, &right, of_k.pairs.index_mut(j));
                }
            }
            of_q.scale(scale);
            store_part::<E>(&of_q, square, late * CELL, early * CELL, comptime!(form.stride(form.chunk)));
            put(&of_k, corrections, late * comptime!(CELL * wide), early * CELL, wide);
        }
    }
}

/// From the decays over rows of cells those over all rows before and behind each, and the whole.
#[cube]
fn chain(decays: &mut [f32], total: &mut [f32], chunk: usize, #[comptime] form: Form) {
    let cells = comptime!(form.cells());
    let channel = UNIT_POS as usize;
    if channel < form.d_k {
        let mut before = 1.0f32;
        let mut behind = 1.0f32;
        #[unroll]
        for i in 0..cells {
            let last = comptime!(cells - 1 - i);
            decays[comptime!((cells + i) * form.d_k) + channel] = before;
            decays[comptime!((2 * cells + last) * form.d_k) + channel] = behind;
            before *= decays[comptime!(i * form.d_k) + channel];
            behind *= decays[comptime!(last * form.d_k) + channel];
        }
        total[chunk * form.d_k + channel] = before;
    }
}

/// Queries decayed from the start of the chunk and scaled, keys decayed to its end; and the keys decayed from its start in place.
#[cube]
fn decay_rows<E: Float, N: Size>(
    q: &[E],
    k: &mut [E],
    ends: &[E],
    decays: &[f32],
    q_start: &mut [Vector<E, N>],
    k_end: &mut [Vector<E, N>],
    chunk: usize,
    scale: f32,
    #[comptime] q_stride: usize,
    #[comptime] form: Form,
) {
    let size = N::value();
    let cells = comptime!(form.cells());
    let packed = comptime!(form.stride(form.d_k));
    let all = comptime!(form.chunk * form.d_k / size);
    let (q, ends) = (q.as_vectorized().with_vector_size::<N>(), ends.as_vectorized().with_vector_size::<N>());
    let k = k.as_vectorized_mut().with_vector_size_mut::<N>();
    let decays = decays.as_vectorized().with_vector_size::<N>();
    #[unroll]
    for turn in 0..comptime!(all.div_ceil(form.units())) {
        let index = turn * form.units() + UNIT_POS as usize;
        if comptime!(all % form.units() == 0) || index < all {
            let (row, column) = (index * size / form.d_k, index * size % form.d_k);
            let place = (row * packed + column) / size;
            let block = row / CELL;
            let before = decays[((block + cells) * form.d_k + column) / size];
            let behind = decays[((block + comptime!(2 * cells)) * form.d_k + column) / size];
            let queries = Vector::<f32, N>::cast_from(q[(row * q_stride + column) / size]) * before * Vector::new(scale);
            q_start[chunk * all + index] = Vector::cast_from(queries);
            k_end[chunk * all + index] = Vector::cast_from(Vector::<f32, N>::cast_from(ends[place]) * behind);
            k[place] = Vector::cast_from(Vector::<f32, N>::cast_from(k[place]) * before);
        }
    }
}

/// The inverse rounded into a tile, its columns times β if `strong`.
#[cube]
fn round_inverse<E: Float>(from: &[f32], beta: &[f32], to: &mut [E], #[comptime] strong: bool, #[comptime] form: Form) {
    let (c, wide) = comptime!((form.chunk, form.wide(form.chunk)));
    let to = to.as_vectorized_mut().with_vector_size_mut::<Pair>();
    #[unroll]
    for turn in 0..comptime!((c * c / 2).div_ceil(form.units())) {
        let index = turn * form.units() + UNIT_POS as usize;
        if index < comptime!(c * c / 2) {
            let (row, column) = (2 * index / c, 2 * index % c);
            let mut pair = Vector::<f32, Pair>::empty();
            #[unroll]
            for next in 0..2usize {
                let mut value = 0.0f32;
                if column + next <= row {
                    value = from[row * wide + column + next];
                    if comptime!(strong) {
                        value *= beta[column + next];
                    }
                }
                pair.insert(next, value);
            }
            let place = row * comptime!(form.stride(c)) + column;
            to[place / 2] = Vector::cast_from(pair);
        }
    }
}
