//! What chunks have besides the state, all at once.

use cubecl::prelude::*;

use super::{
    chunk::{decayed_products, invert, load_column, load_decays, round_lower, scale_rows, store_part},
    form::Form,
};
use crate::blocks::cube::{
    row_tiles::{Room, Span, load, save_packed},
    tile_product::{Tiles, corner, has_part, multiply},
};

/// The tokens of the chunk that a cube has: chunks along x, heads of all batches along y.
#[cube]
pub(crate) fn chunk_span(heads: usize, tokens: usize, #[comptime] form: Form) -> Span {
    let start = CUBE_POS_X as usize * form.chunk;
    Span {
        batch: CUBE_POS_Y as usize / heads,
        head: CUBE_POS_Y as usize % heads,
        start,
        tokens: clamp_max(tokens - start, form.chunk),
        column: 0usize.runtime(),
    }
}

/// What does not depend on the state, a cube per chunk and head: the queries decayed from its start and scaled, the keys decayed to its
/// end, `w` and `u` (what the chunk takes from the state and writes into it), its scores, its whole decay, and, if it is kept, the
/// inverse of `I + diag(β) A_kk`.
///
/// `q`, `k`: `[B, H, T, K]`; `v`: `[B, W, T, V]`; `g`: `[B, W, T, K]` or `[…, 1]`; `beta`: `[B, W, T, 1]`. Results: chunks in order,
/// their rows padded to the form's widths.
#[cube(launch_unchecked, address_type = "dynamic")]
pub(crate) fn prepare<F: Float, E: Float, N: Size, M: Size>(
    q: &Tensor<Vector<F, M>>,
    k: &Tensor<Vector<F, M>>,
    v: &Tensor<Vector<F, M>>,
    g: &Tensor<f32>,
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
    let (c, wide) = comptime!((form.chunk, form.wide(form.chunk)));
    let mut q_tile = Shared::<[E]>::new_aligned_slice(comptime!(c * widest), 16usize);
    let mut k_tile = Shared::<[E]>::new_aligned_slice(comptime!(c * packed), 16usize);
    let mut late_q = Shared::<[E]>::new_aligned_slice(comptime!(c / 2 * packed), 16usize);
    let mut late_k = Shared::<[E]>::new_aligned_slice(comptime!(c / 2 * packed), 16usize);
    let mut early = Shared::<[E]>::new_aligned_slice(comptime!(c / 2 * packed), 16usize);
    let mut square = Shared::<[E]>::new_aligned_slice(comptime!(c * form.stride(c)), 16usize);
    let mut until = Shared::<[f32]>::new_slice(comptime!(c * form.wide(form.d_k)));
    let mut after = Shared::<[f32]>::new_slice(comptime!(c * form.wide(form.d_k)));
    let mut products = Shared::<[f32]>::new_slice(comptime!(c * wide));
    let mut corrections = Shared::<[f32]>::new_slice(comptime!(c * wide));
    let mut room = Shared::<[f32]>::new_slice(comptime!((c * c / 4).max(4 * c)));
    let mut strength = Shared::<[f32]>::new_slice(c);

    let heads = v.shape(1);
    let span = chunk_span(heads, v.shape(2), form);
    let shared_head =
        Span { batch: span.batch, head: span.head / (heads / q.shape(1)), start: span.start, tokens: span.tokens, column: span.column };
    let chunk = CUBE_POS_Y as usize * CUBE_COUNT_X as usize + CUBE_POS_X as usize;
    load::<F, E, M>(q, &mut q_tile, &shared_head, comptime!(Room { stride: widest, ..form.room(form.d_k) }));
    load::<F, E, M>(k, &mut k_tile, &shared_head, comptime!(form.room(form.d_k)));
    load_column(beta, &mut strength, &span, form);
    load_decays(g, &mut until, &mut after, &span, form);
    decayed_products::<E>(
        &q_tile,
        &k_tile,
        &mut until,
        &mut after,
        &mut late_q,
        &mut late_k,
        &mut early,
        &mut products,
        &mut corrections,
        &mut room,
        widest,
        form,
    );
    sync_cube();
    round_lower::<E>(&products, &mut square, scale, form);
    decay_rows::<E, N>(&q_tile, &k_tile, &until, &after, q_start, k_end, total, chunk, scale, widest, form);
    sync_cube();
    save_packed::<E, N>(&square, scores, chunk, comptime!(form.room(c)));
    // The inverse takes the place of the products.
    invert(&corrections, &strength, &mut products, &mut room, form);
    load::<F, E, M>(v, &mut q_tile, &span, comptime!(Room { stride: widest, ..form.room(form.d_v) }));
    decay_from_start::<E>(&mut k_tile, &until, &strength, form);
    round_lower::<E>(&products, &mut square, 1.0f32, form);
    sync_cube();
    scale_rows::<E>(&mut q_tile, &strength, form.d_v, widest, form);
    if keep {
        save_packed::<E, N>(&square, inverse, chunk, comptime!(form.room(c)));
    }
    sync_cube();

    let of_u = comptime!(form.share(c, form.d_v));
    let of_w = comptime!(form.share(c, form.d_k));
    let (u_row, u_column) = corner(of_u);
    let (w_row, w_column) = corner(of_w);
    let mut u_part = Tiles::zeros(of_u.tiles.0, of_u.tiles.1);
    let mut w_part = Tiles::zeros(of_w.tiles.0, of_w.tiles.1);
    let square_stride = comptime!(form.stride(c));
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

/// Queries decayed from the start of the chunk and scaled, keys decayed to its end, and the decay over all of it.
#[cube]
fn decay_rows<E: Float, N: Size>(
    q: &[E],
    k: &[E],
    until: &[f32],
    after: &[f32],
    q_start: &mut [Vector<E, N>],
    k_end: &mut [Vector<E, N>],
    total: &mut [f32],
    chunk: usize,
    scale: f32,
    #[comptime] stride: usize,
    #[comptime] form: Form,
) {
    let (wide, packed) = comptime!((form.wide(form.d_k), form.stride(form.d_k)));
    let size = N::value();
    let all = comptime!(form.chunk * form.d_k / size);
    #[unroll]
    for turn in 0..comptime!(all.div_ceil(form.units())) {
        let index = turn * form.units() + UNIT_POS as usize;
        if comptime!(all % form.units() == 0) || index < all {
            let (row, column) = (index * size / form.d_k, index * size % form.d_k);
            let mut queries = Vector::<E, N>::empty();
            let mut keys = Vector::<E, N>::empty();
            #[unroll]
            for i in 0..size {
                let (before, behind) = (until[row * wide + column + i], after[row * wide + column + i]);
                queries.insert(i, E::cast_from(scale * f32::cast_from(q[row * stride + column + i]) * before.exp()));
                keys.insert(i, E::cast_from(f32::cast_from(k[row * packed + column + i]) * behind.exp()));
            }
            q_start[chunk * all + index] = queries;
            k_end[chunk * all + index] = keys;
        }
    }
    let column = UNIT_POS as usize;
    if column < form.d_k {
        total[chunk * form.d_k + column] = until[comptime!((form.chunk - 1) * wide) + column].exp();
    }
}

/// `β exp(gc) ⊙ K` in place.
#[cube]
pub(crate) fn decay_from_start<E: Float>(k: &mut [E], until: &[f32], beta: &[f32], #[comptime] form: Form) {
    let (wide, packed) = comptime!((form.wide(form.d_k), form.stride(form.d_k)));
    let all = comptime!(form.chunk * form.d_k);
    #[unroll]
    for turn in 0..comptime!(all.div_ceil(form.units())) {
        let index = turn * form.units() + UNIT_POS as usize;
        if comptime!(all % form.units() == 0) || index < all {
            let (row, column) = (index / form.d_k, index % form.d_k);
            let factor = beta[row] * until[row * wide + column].exp();
            k[row * packed + column] = E::cast_from(f32::cast_from(k[row * packed + column]) * factor);
        }
    }
}
