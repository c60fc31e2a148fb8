use cubecl::prelude::*;

/// Columns of a state that a cube takes.
pub(crate) const COLUMNS: usize = 32;
/// Groups of units that share the rows.
pub(crate) const GROUPS: usize = 8;

/// One token of all heads, in place: `S' = Diag(exp(g)) S`, `S = S' + β k (v − S'ᵀ k)ᵀ`, `o = Sᵀ (scale · q)`. A cube per head and 32
/// columns.
///
/// Tensors `[B, H, 1, K]`, `[B, W, 1, V]`, `[B, W, 1, K]` or `[…, 1]`, `[B, W, 1, 1]`; `state`: `[B·W, K, V]`.
#[cube(launch_unchecked, address_type = "dynamic")]
pub(crate) fn step<F: Float>(
    q: &Tensor<F>,
    k: &Tensor<F>,
    v: &Tensor<F>,
    g: &Tensor<f32>,
    beta: &Tensor<f32>,
    state: &mut [f32],
    out: &mut Tensor<F>,
    scale: f32,
    #[define(F)] _type: ElemType,
) {
    let mut sums = Shared::<[f32]>::new_slice(comptime!(COLUMNS * GROUPS));
    let unit = UNIT_POS as usize;
    let (group, lane) = (unit / COLUMNS, unit % COLUMNS);
    let (heads, d_k, d_v) = (v.shape(1), q.shape(3), v.shape(3));
    let (matrix, column) = (CUBE_POS_Y as usize, CUBE_POS_X as usize * COLUMNS + lane);
    let (batch, head) = (matrix / heads, matrix % heads);
    let shared_head = head / (heads / q.shape(1));
    let q_at = batch * q.stride(0) + shared_head * q.stride(1);
    let k_at = batch * k.stride(0) + shared_head * k.stride(1);
    let g_at = batch * g.stride(0) + head * g.stride(1);
    let g_step = if g.shape(3) == 1 { 0usize.runtime() } else { 1usize.runtime() };
    let mut known = 0.0f32;
    if column < d_v {
        let mut row = group;
        while row < d_k {
            let decayed = g[g_at + row * g_step].exp() * state[(matrix * d_k + row) * d_v + column];
            known += f32::cast_from(k[k_at + row]) * decayed;
            row += GROUPS;
        }
    }
    sums[unit] = known;
    sync_cube();
    let mut read = 0.0f32;
    if column < d_v {
        let mut total = 0.0f32;
        #[unroll]
        for i in 0..GROUPS {
            total += sums[i * COLUMNS + lane];
        }
        let value = f32::cast_from(v[batch * v.stride(0) + head * v.stride(1) + column]);
        let written = beta[batch * beta.stride(0) + head * beta.stride(1)] * (value - total);
        let mut row = group;
        while row < d_k {
            let at = (matrix * d_k + row) * d_v + column;
            let next = g[g_at + row * g_step].exp() * state[at] + f32::cast_from(k[k_at + row]) * written;
            state[at] = next;
            read += f32::cast_from(q[q_at + row]) * next;
            row += GROUPS;
        }
    }
    sync_cube();
    sums[unit] = read;
    sync_cube();
    if group == 0 && column < d_v {
        let mut total = 0.0f32;
        #[unroll]
        for i in 0..GROUPS {
            total += sums[i * COLUMNS + lane];
        }
        let at = batch * out.stride(0) + head * out.stride(1) + column;
        out[at] = F::cast_from(scale * total);
    }
}
