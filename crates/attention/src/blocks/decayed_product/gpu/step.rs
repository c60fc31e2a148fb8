use cubecl::prelude::*;

/// Columns of a state that a cube takes.
pub(crate) const COLUMNS: usize = 32;
/// Groups of units that share the rows.
pub(crate) const GROUPS: usize = 8;

/// One token of all heads: `S ← λ S + kᵀ v` in place, then `o = scale · q S`. A cube per head and 32 columns.
///
/// `state`: `[B·H, K, V]`; `decays`: λ of each head.
#[cube(launch_unchecked, address_type = "dynamic")]
pub(crate) fn step<F: Float>(
    q: &Tensor<F>,
    k: &Tensor<F>,
    v: &Tensor<F>,
    decays: &[f32],
    state: &mut [f32],
    out: &mut Tensor<F>,
    scale: f32,
    #[define(F)] _type: ElemType,
) {
    let mut sums = Shared::<[f32]>::new_slice(comptime!(COLUMNS * GROUPS));
    let unit = UNIT_POS as usize;
    let (group, lane) = (unit / COLUMNS, unit % COLUMNS);
    let (d_k, d_v) = (q.shape(3), v.shape(3));
    let (matrix, column) = (CUBE_POS_Y as usize, CUBE_POS_X as usize * COLUMNS + lane);
    let (batch, head) = (matrix / q.shape(1), matrix % q.shape(1));
    let mut sum = 0.0f32;
    if column < d_v {
        let decay = decays[head];
        let value = f32::cast_from(v[batch * v.stride(0) + head * v.stride(1) + column]);
        let (q_at, k_at) = (batch * q.stride(0) + head * q.stride(1), batch * k.stride(0) + head * k.stride(1));
        let mut row = group;
        while row < d_k {
            let at = (matrix * d_k + row) * d_v + column;
            let next = decay * state[at] + f32::cast_from(k[k_at + row]) * value;
            state[at] = next;
            sum += f32::cast_from(q[q_at + row]) * next;
            row += GROUPS;
        }
    }
    sums[unit] = sum;
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
