//! The three kernels of a sweep: what each segment adds to the state, the states before the segments, the outputs of all segments.

use cubecl::prelude::*;

use crate::blocks::cube::{
    row_tiles::{Room, Span, await_loads, load, save, start_load},
    tile_product::{COLUMNS, Lie, PLANE, ROWS, Share, Tiles, corner, has_part, multiply, own_column, own_row, store},
};

/// Segments whose loads [`carry`] starts before it needs the first.
const AHEAD: usize = 8;

/// What is fixed when a kernel is compiled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Form {
    /// Tokens per block, a multiple of 16.
    pub(crate) block: usize,
    /// Width of `a` and `b`, rounded up to a multiple of 16.
    pub(crate) inner: usize,
    /// Columns of `c` that a cube takes, a multiple of 16.
    pub(crate) outer: usize,
    /// Outputs depend on the tokens from theirs on, not on those up to it.
    pub(crate) future: bool,
    /// The states lie as `[outer, inner]`.
    pub(crate) state_turned: bool,
    pub(crate) tensor_cores: bool,
    /// Tiles of the next block are copied while the units compute: tensors in the type of tiles, rows of 16-byte vectors.
    pub(crate) ahead: bool,
    pub(crate) planes: usize,
}

impl Form {
    /// Tiles that a tensor has in shared memory.
    fn buffers(&self) -> usize {
        if self.ahead { 2 } else { 1 }
    }

    fn units(&self) -> usize {
        self.planes * PLANE
    }

    /// A tile of `width` columns. Rows lie 16 bytes apart from a multiple of the banks, so that a plane's rows meet no conflict.
    fn room(&self, width: usize, element: usize) -> Room {
        Room { rows: self.block, width, stride: width + 16 / element, units: self.units() }
    }

    /// Bytes of shared memory of [`outputs`], the largest of the kernels.
    pub(crate) fn shared_bytes(&self, element: usize) -> usize {
        let stride = |width: usize| width + 16 / element;
        let rows = stride(self.inner.max(self.outer)) + stride(self.inner) + stride(self.outer);
        let tiles = self.block * (self.buffers() * rows + stride(self.block));
        element * (tiles + self.inner * stride(self.outer)) + 4 * (2 * self.block + 1) + 7 * 16
    }
}

/// The blocks of one segment, in the order of the sweep.
#[derive(CubeType, Clone, Copy)]
struct Segment {
    start: usize,
    end: usize,
    blocks: usize,
}

#[cube]
fn segment(tokens: usize, length: usize, #[comptime] form: Form) -> Segment {
    let start = CUBE_POS_X as usize * length;
    let end = clamp_max(start + length, tokens);
    Segment { start, end, blocks: (end - start).div_ceil(form.block) }
}

/// Start and tokens of a block.
#[cube]
fn block(segment: &Segment, turn: usize, #[comptime] form: Form) -> (usize, usize) {
    let index = if comptime!(form.future) { segment.blocks - 1 - turn } else { turn };
    let start = segment.start + index * form.block;
    (start, clamp_max(segment.end - start, form.block))
}

/// What is left of each token of a block of `tokens` in the state after it, times `factor`.
#[cube]
fn fill_weights(weights: &mut [f32], powers: &[f32], tokens: usize, factor: f32, #[comptime] form: Form) {
    let i = UNIT_POS as usize;
    if i < form.block {
        let mut weight = 0.0f32;
        if i < tokens {
            weight = factor * if comptime!(form.future) { powers[i + 1] } else { powers[tokens - 1 - i] };
        }
        weights[i] = weight;
    }
}

#[cube]
fn copy_powers(all: &[f32], powers: &mut [f32], head: usize, #[comptime] form: Form) {
    let i = UNIT_POS as usize;
    if i < form.block + 1 {
        powers[i] = all[head * (form.block + 1) + i];
    }
}

/// The place of a state's first number in memory, and the distances of neighbours along inner and outer axis.
#[derive(CubeType, Clone, Copy)]
struct Place {
    base: usize,
    inner: usize,
    outer: usize,
    inner_step: usize,
    outer_step: usize,
}

#[cube]
fn place(inner: usize, outer: usize, column: usize, segments: usize, #[comptime] form: Form) -> Place {
    let base = (CUBE_POS_Y as usize * segments + CUBE_POS_X as usize) * inner * outer;
    if comptime!(form.state_turned) {
        Place { base: base + column * inner, inner, outer: outer - column, inner_step: 1usize.runtime(), outer_step: inner }
    } else {
        Place { base: base + column, inner, outer: outer - column, inner_step: outer, outer_step: 1usize.runtime() }
    }
}

/// What each segment adds to the state: `Σ_t write_t b_tᵀ c_t`, decayed to its end. A cube per segment, head and slice of columns.
///
/// `powers`: `λ^0 … λ^block` of each head; `added`: `[B·H, segments, inner, outer]`.
#[cube(launch_unchecked, address_type = "dynamic")]
pub(crate) fn increments<F: Float, E: Float, N: Size>(
    b: &Tensor<Vector<F, N>>,
    c: &Tensor<Vector<F, N>>,
    powers: &[f32],
    added: &mut [f32],
    length: usize,
    write: f32,
    #[comptime] form: Form,
    #[define(F, E)] _types: [ElemType; 2],
) {
    let element = E::size().comptime();
    let b_room = comptime!(form.room(form.inner, element));
    let c_room = comptime!(form.room(form.outer, element));
    let share = comptime!(Share::new(form.inner, form.outer, form.planes));
    let (b_size, c_size) = comptime!((b_room.rows * b_room.stride, c_room.rows * c_room.stride));
    let mut b_tile = Shared::<[E]>::new_aligned_slice(comptime!(form.buffers() * b_size), 16usize);
    let mut c_tile = Shared::<[E]>::new_aligned_slice(comptime!(form.buffers() * c_size), 16usize);
    let mut power = Shared::<[f32]>::new_slice(comptime!(form.block + 1));
    let mut weights = Shared::<[f32]>::new_slice(comptime!(form.buffers() * form.block));

    let heads = b.shape(1);
    let (batch, head) = (CUBE_POS_Y as usize / heads, CUBE_POS_Y as usize % heads);
    let column = CUBE_POS_Z as usize * form.outer;
    copy_powers(powers, &mut power, head, form);
    let segment = segment(b.shape(2), length, form);
    let (row, col) = corner(share);
    let mut state = Tiles::zeros(share.tiles.0, share.tiles.1);
    if comptime!(form.ahead) {
        let (start, tokens) = block(&segment, 0usize.runtime(), form);
        start_load::<F, E, N>(b, &mut b_tile[0..b_size], &Span { batch, head, start, tokens, column: 0usize.runtime() }, b_room);
        start_load::<F, E, N>(c, &mut c_tile[0..c_size], &Span { batch, head, start, tokens, column }, c_room);
    }
    for turn in 0..segment.blocks {
        let (start, tokens) = block(&segment, turn, form);
        let side = if comptime!(form.ahead) { turn % 2 } else { 0usize.runtime() };
        if comptime!(form.ahead) {
            await_loads();
        } else {
            sync_cube();
            load::<F, E, N>(b, &mut b_tile[0..b_size], &Span { batch, head, start, tokens, column: 0usize.runtime() }, b_room);
            load::<F, E, N>(c, &mut c_tile[0..c_size], &Span { batch, head, start, tokens, column }, c_room);
        }
        let weights_at = side * comptime!(form.block);
        fill_weights(&mut weights[weights_at..weights_at + comptime!(form.block)], &power, tokens, write, form);
        sync_cube();
        if comptime!(form.ahead) {
            if turn + 1 < segment.blocks {
                let (start, tokens) = block(&segment, turn + 1, form);
                let (b_at, c_at) = ((1 - side) * b_size, (1 - side) * c_size);
                start_load::<F, E, N>(
                    b,
                    &mut b_tile[b_at..b_at + b_size],
                    &Span { batch, head, start, tokens, column: 0usize.runtime() },
                    b_room,
                );
                start_load::<F, E, N>(c, &mut c_tile[c_at..c_at + c_size], &Span { batch, head, start, tokens, column }, c_room);
            }
        }
        if has_part(share, form.planes) {
            state.scale(power[tokens]);
            let (b_part, c_part) = (&b_tile[side * b_size + row..], &c_tile[side * c_size + col..]);
            advance::<E>(&mut state, b_part, c_part, &weights[weights_at..], b_room.stride, c_room.stride, form);
        }
    }
    if has_part(share, form.planes) {
        let place = place(b.shape(3), c.shape(3), column, CUBE_COUNT_X as usize, form);
        #[unroll]
        for i in 0..comptime!(share.tiles.0) {
            #[unroll]
            for j in 0..comptime!(share.tiles.1) {
                let tile = state.pairs.index(comptime!(i * share.tiles.1 + j));
                #[unroll]
                for half in 0..2usize {
                    #[unroll]
                    for side in 0..2usize {
                        let (x, y) = (row + own_row() + ROWS * i + 8 * half, col + own_column() + COLUMNS * j + side);
                        if x < place.inner && y < place.outer {
                            added[place.base + x * place.inner_step + y * place.outer_step] = tile[half].extract(side);
                        }
                    }
                }
            }
        }
    }
}

/// `S += (diag(weights) B)ᵀ C`.
#[cube]
fn advance<E: Float>(
    state: &mut Tiles,
    b: &[E],
    c: &[E],
    weights: &[f32],
    #[comptime] b_stride: usize,
    #[comptime] c_stride: usize,
    #[comptime] form: Form,
) {
    let lie = comptime!(Lie {
        inner: form.block,
        a_stride: b_stride,
        a_turned: true,
        b_stride: c_stride,
        b_turned: false,
        weighted: true,
        tensor_cores: form.tensor_cores,
    });
    multiply::<E>(state, b, c, weights, lie);
}

/// The state before each segment in place of what it adds, and the state after all: `S ← λ^length S + added`, a unit per number.
///
/// `states`: `[B·H, segments, size]`; `first`, `last`: `[B·H, size]`; `decays`, from `first_decay` on: over a whole segment and over the
/// last, of each head.
#[cube(launch_unchecked, address_type = "dynamic")]
pub(crate) fn carry(
    states: &mut [f32],
    first: &[f32],
    last: &mut [f32],
    decays: &[f32],
    first_decay: usize,
    size: usize,
    segments: usize,
    heads: usize,
    #[comptime] future: bool,
) {
    let at = ABSOLUTE_POS_X as usize;
    if at < size {
        let matrix = CUBE_POS_Y as usize;
        let head = matrix % heads;
        let mut state = first[matrix * size + at];
        for group in 0..segments.div_ceil(AHEAD) {
            let mut added = Array::<f32>::new(AHEAD);
            #[unroll]
            for i in 0..AHEAD {
                let turn = clamp_max(group * AHEAD + i, segments - 1);
                let index = if comptime!(future) { segments - 1 - turn } else { turn };
                added[i] = states[(matrix * segments + index) * size + at];
            }
            #[unroll]
            for i in 0..AHEAD {
                let turn = group * AHEAD + i;
                if turn < segments {
                    let index = if comptime!(future) { segments - 1 - turn } else { turn };
                    let decay = decays[first_decay + 2 * head + if index + 1 == segments { 1usize.runtime() } else { 0usize.runtime() }];
                    states[(matrix * segments + index) * size + at] = state;
                    state = decay * state + added[i];
                }
            }
        }
        last[matrix * size + at] = state;
    }
}

/// The outputs of all segments, each from the state before it: per block
/// `out = inside · ((A Bᵀ) ⊙ M) C + read · Λ A S`, then `S ← λ^m S + (write · P B)ᵀ C`. A cube per segment, head and slice of columns.
#[cube(launch_unchecked, address_type = "dynamic")]
pub(crate) fn outputs<F: Float, E: Float, N: Size>(
    a: &Tensor<Vector<F, N>>,
    b: &Tensor<Vector<F, N>>,
    c: &Tensor<Vector<F, N>>,
    powers: &[f32],
    states: &[f32],
    out: &mut Tensor<Vector<F, N>>,
    length: usize,
    inside: f32,
    read: f32,
    write: f32,
    #[comptime] form: Form,
    #[define(F, E)] _types: [ElemType; 2],
) {
    let element = E::size().comptime();
    let inner_room = comptime!(form.room(form.inner, element));
    let outer_room = comptime!(form.room(form.outer, element));
    let widest = comptime!(form.room(form.inner.max(form.outer), element));
    let scores_stride = comptime!(form.room(form.block, element).stride);
    let of_state = comptime!(Share::new(form.inner, form.outer, form.planes));
    let of_scores = comptime!(Share::new(form.block, form.block, form.planes));
    let of_out = comptime!(Share::new(form.block, form.outer, form.planes));
    let a_room = comptime!(Room { stride: widest.stride, ..inner_room });
    let a_size = comptime!(widest.rows * widest.stride);
    let (b_size, c_size) = comptime!((inner_room.rows * inner_room.stride, outer_room.rows * outer_room.stride));
    let mut a_tile = Shared::<[E]>::new_aligned_slice(comptime!(form.buffers() * a_size), 16usize);
    let mut b_tile = Shared::<[E]>::new_aligned_slice(comptime!(form.buffers() * b_size), 16usize);
    let mut c_tile = Shared::<[E]>::new_aligned_slice(comptime!(form.buffers() * c_size), 16usize);
    let mut scores = Shared::<[E]>::new_aligned_slice(comptime!(form.block * scores_stride), 16usize);
    let mut state_tile = Shared::<[E]>::new_aligned_slice(comptime!(form.inner * outer_room.stride), 16usize);
    let mut power = Shared::<[f32]>::new_slice(comptime!(form.block + 1));
    let mut weights = Shared::<[f32]>::new_slice(form.block);

    let heads = b.shape(1);
    let (batch, head) = (CUBE_POS_Y as usize / heads, CUBE_POS_Y as usize % heads);
    let column = CUBE_POS_Z as usize * form.outer;
    copy_powers(powers, &mut power, head, form);
    let segment = segment(b.shape(2), length, form);

    let (row, col) = corner(of_state);
    let mut state = Tiles::zeros(of_state.tiles.0, of_state.tiles.1);
    if has_part(of_state, form.planes) {
        let place = place(b.shape(3), c.shape(3), column, CUBE_COUNT_X as usize, form);
        #[unroll]
        for i in 0..comptime!(of_state.tiles.0) {
            #[unroll]
            for j in 0..comptime!(of_state.tiles.1) {
                let tile = state.pairs.index_mut(comptime!(i * of_state.tiles.1 + j));
                #[unroll]
                for half in 0..2usize {
                    let mut pair = Vector::<f32, Const<2>>::new(0.0f32);
                    #[unroll]
                    for side in 0..2usize {
                        let (x, y) = (row + own_row() + ROWS * i + 8 * half, col + own_column() + COLUMNS * j + side);
                        if x < place.inner && y < place.outer {
                            pair.insert(side, states[place.base + x * place.inner_step + y * place.outer_step]);
                        }
                    }
                    tile[half] = pair;
                }
            }
        }
    }

    if comptime!(form.ahead) {
        let (start, tokens) = block(&segment, 0usize.runtime(), form);
        let span = Span { batch, head, start, tokens, column: 0usize.runtime() };
        start_load::<F, E, N>(a, &mut a_tile[0..a_size], &span, a_room);
        start_load::<F, E, N>(b, &mut b_tile[0..b_size], &span, inner_room);
        start_load::<F, E, N>(c, &mut c_tile[0..c_size], &Span { batch, head, start, tokens, column }, outer_room);
    }
    for turn in 0..segment.blocks {
        let (start, tokens) = block(&segment, turn, form);
        let inner_span = Span { batch, head, start, tokens, column: 0usize.runtime() };
        let outer_span = Span { batch, head, start, tokens, column };
        let side = if comptime!(form.ahead) { turn % 2 } else { 0usize.runtime() };
        let (a_at, b_at, c_at) = (side * a_size, side * b_size, side * c_size);
        if comptime!(form.ahead) {
            await_loads();
        } else {
            sync_cube();
            load::<F, E, N>(a, &mut a_tile[0..a_size], &inner_span, a_room);
            load::<F, E, N>(b, &mut b_tile[0..b_size], &inner_span, inner_room);
            load::<F, E, N>(c, &mut c_tile[0..c_size], &outer_span, outer_room);
        }
        fill_weights(&mut weights, &power, tokens, write, form);
        if has_part(of_state, form.planes) {
            store::<E>(&state, &mut state_tile[row * outer_room.stride + col..], outer_room.stride);
        }
        sync_cube();
        if comptime!(form.ahead) {
            // Nobody reads the other side any more.
            if turn + 1 < segment.blocks {
                let (start, tokens) = block(&segment, turn + 1, form);
                let other = 1 - side;
                let (a_at, b_at, c_at) = (other * a_size, other * b_size, other * c_size);
                let span = Span { batch, head, start, tokens, column: 0usize.runtime() };
                start_load::<F, E, N>(a, &mut a_tile[a_at..a_at + a_size], &span, a_room);
                start_load::<F, E, N>(b, &mut b_tile[b_at..b_at + b_size], &span, inner_room);
                start_load::<F, E, N>(c, &mut c_tile[c_at..c_at + c_size], &Span { batch, head, start, tokens, column }, outer_room);
            }
        }

        if has_part(of_scores, form.planes) {
            let (row, col) = corner(of_scores);
            let mut part = Tiles::zeros(of_scores.tiles.0, of_scores.tiles.1);
            let lie = comptime!(Lie {
                inner: form.inner,
                a_stride: widest.stride,
                a_turned: false,
                b_stride: inner_room.stride,
                b_turned: true,
                weighted: false,
                tensor_cores: form.tensor_cores,
            });
            multiply::<E>(&mut part, &a_tile[a_at + row * widest.stride..], &b_tile[b_at + col * inner_room.stride..], &weights, lie);
            fade(&mut part, &power, row, col, inside, form);
            store::<E>(&part, &mut scores[row * scores_stride + col..], scores_stride);
        }
        let (out_row, out_col) = corner(of_out);
        let mut result = Tiles::zeros(of_out.tiles.0, of_out.tiles.1);
        if has_part(of_out, form.planes) {
            let lie = comptime!(Lie {
                inner: form.inner,
                a_stride: widest.stride,
                a_turned: false,
                b_stride: outer_room.stride,
                b_turned: false,
                weighted: false,
                tensor_cores: form.tensor_cores,
            });
            multiply::<E>(&mut result, &a_tile[a_at + out_row * widest.stride..], &state_tile[out_col..], &weights, lie);
            grow(&mut result, &power, out_row, tokens, read, form);
        }
        if has_part(of_state, form.planes) {
            state.scale(power[tokens]);
            advance::<E>(&mut state, &b_tile[b_at + row..], &c_tile[c_at + col..], &weights, inner_room.stride, outer_room.stride, form);
        }
        sync_cube();
        if has_part(of_out, form.planes) {
            let lie = comptime!(Lie {
                inner: form.block,
                a_stride: scores_stride,
                a_turned: false,
                b_stride: outer_room.stride,
                b_turned: false,
                weighted: false,
                tensor_cores: form.tensor_cores,
            });
            multiply::<E>(&mut result, &scores[out_row * scores_stride..], &c_tile[c_at + out_col..], &weights, lie);
            // Nobody reads `a` any more.
            store::<E>(&result, &mut a_tile[a_at + out_row * widest.stride + out_col..], widest.stride);
        }
        sync_cube();
        save::<E, F, N>(&a_tile[a_at..], out, &outer_span, comptime!(Room { stride: widest.stride, ..outer_room }));
    }
}

/// Scores times the decay between their tokens and `factor`, zeros for tokens on the wrong side.
#[cube]
fn fade(scores: &mut Tiles, powers: &[f32], row: usize, column: usize, factor: f32, #[comptime] form: Form) {
    #[unroll]
    for i in 0..comptime!(scores.m) {
        #[unroll]
        for j in 0..comptime!(scores.n) {
            let tile = scores.pairs.index_mut(comptime!(i * scores.n + j));
            #[unroll]
            for half in 0..2usize {
                let mut pair = tile[half];
                #[unroll]
                for side in 0..2usize {
                    let (x, y) = (row + own_row() + ROWS * i + 8 * half, column + own_column() + COLUMNS * j + side);
                    let mut value = 0.0f32;
                    if comptime!(form.future) {
                        if y >= x {
                            value = pair.extract(side) * (factor * powers[y - x]);
                        }
                    } else if y <= x {
                        value = pair.extract(side) * (factor * powers[x - y]);
                    }
                    pair.insert(side, value);
                }
                tile[half] = pair;
            }
        }
    }
}

/// Rows times what their tokens see of the state before the block, and `factor`.
#[cube]
fn grow(rows: &mut Tiles, powers: &[f32], row: usize, tokens: usize, factor: f32, #[comptime] form: Form) {
    #[unroll]
    for i in 0..comptime!(rows.m) {
        #[unroll]
        for half in 0..2usize {
            let x = row + own_row() + ROWS * i + 8 * half;
            let mut seen = 0.0f32;
            if x < tokens {
                seen = factor * if comptime!(form.future) { powers[tokens - 1 - x] } else { powers[x + 1] };
            }
            #[unroll]
            for j in 0..comptime!(rows.n) {
                let tile = rows.pairs.index_mut(comptime!(i * rows.n + j));
                tile[half] *= Vector::new(seen);
            }
        }
    }
}
